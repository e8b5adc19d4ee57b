"""Commands about the whole installation: back it up, restore it, diagnose it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from forecast.cli.options import (
    HomeOption,
    JsonOption,
    PortOption,
    UiPortOption,
    open_installation,
)
from forecast.cli.output import OUT, print_json
from forecast.home import home_at
from pipelines.doctor.finding import Diagnosis


def backup(
    target: Annotated[
        Path, typer.Argument(help="File to write, or a folder for a file named after the time.", show_default=False)
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up the home into one archive. The backup is consistent while all services run."""
    from pipelines.maintenance.backup import back_up

    done = back_up(open_installation(home), target)
    if as_json:
        manifest = done.manifest.model_dump(mode="json", exclude={"files"})
        print_json({"file": str(done.path), "bytes": done.bytes, "files": len(done.manifest.files), **manifest})
        return
    for warning in done.warnings:
        OUT.print(f"[yellow]not included[/]: {escape(str(warning))} [dim]({warning.code})[/]", soft_wrap=True)
    size = f"{len(done.manifest.files):,} files, {done.bytes / 2**20:,.1f} MiB"
    OUT.print(f'"{done.path}": {size}', markup=False, soft_wrap=True)


def restore(
    file: Annotated[Path, typer.Argument(help="File written by `forecast backup`.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Home to create: an empty folder, or a new one.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Restore a backup into a new home. Verifies the digest of every file, all tables and all champions."""
    from pipelines.maintenance.restore import restore as run_restore

    done = run_restore(file, home_at(folder).path)
    if as_json:
        manifest = done.manifest.model_dump(mode="json", exclude={"files"})
        print_json({"restored_to": str(done.home), "champions": done.champions, **manifest})
        return
    OUT.print(
        f'restored "{done.home}" as of {done.manifest.made_at:%Y-%m-%d %H:%M:%S} UTC: '
        f"{len(done.manifest.tables)} tables checked, {len(done.champions)} champions loaded",
        markup=False,
        soft_wrap=True,
    )


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Also read and verify every file of the tables.")] = False,
    port: PortOption = 8000,
    ui_port: UiPortOption = 5000,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Diagnose the installation and print a remedy for each problem. Exit code 9 if there is a problem."""
    from pipelines.doctor.examine import examine
    from pipelines.doctor.subject import Subject

    with Subject(home, deep=deep, port=port, ui_port=ui_port) as subject:
        findings = examine(subject)
    is_well = all(finding.is_well for finding in findings)
    if as_json:
        print_json({"well": is_well, "findings": findings})
    else:
        OUT.print(_findings_table(findings))
    if not is_well:
        raise typer.Exit(9)


def _findings_table(findings: Sequence[Diagnosis]) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("subject", no_wrap=True)
    table.add_column("finding", overflow="fold")
    table.add_column("remedy", overflow="fold")
    marks = {"well": "[green]✓[/]", "warning": "[yellow]![/]", "fault": "[red]✗[/]"}
    for finding in findings:
        code = "" if finding.is_well else f" [dim]({finding.code})[/]"
        table.add_row(marks[finding.level], finding.about, f"{escape(finding.fact)}{code}", escape(finding.remedy))
    return table
