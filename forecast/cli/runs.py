"""Commands about runs: finished, running and queued ones, and their logs."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from forecast.cli.options import HomeOption, JsonOption, open_installation
from forecast.cli.output import ERR, OUT, print_json, runs_table
from forecast.clock import SystemClock
from forecast.errors import NotFoundError
from forecast.installation import Installation
from forecast.ledger.run import SHOWN
from forecast.scheduling.job_book import JobBook
from forecast.scheduling.processes import works

runs_app = typer.Typer(help="Show runs, their logs and the queue; cancel a run.", no_args_is_help=True)

RunArgument = Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="Id of the run.")]
_WATCH_SECONDS = 0.3


@runs_app.command(name="list")
def list_runs(
    job: Annotated[str | None, typer.Option(help="Only runs of this job.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number, newest first.")] = 20,
    whole: Annotated[bool, typer.Option("--all", help="Include runs that were coalesced into a later one.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the latest runs."""
    installation = open_installation(home)
    found = installation.ledger.runs.find(job=job, limit=limit, states=() if whole else SHOWN)
    if job is not None and not found:
        JobBook(installation).job(job)  # raises job.unknown for an unknown name
    if as_json:
        print_json(found)
    else:
        OUT.print(runs_table(found))


@runs_app.command()
def queue(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show queued runs in the order of execution, and the worker hosts that execute them."""
    ledger = open_installation(home).ledger
    waiting, hosts = ledger.runs.queue(), ledger.hosts.known()
    if as_json:
        print_json({"queue": waiting, "hosts": hosts})
        return
    table = Table(title="queue", title_justify="left")
    for column in ("position", "run", "job", "logical date", "not before", "reason"):
        table.add_column(column, overflow="fold")
    for position, one in enumerate(waiting, 1):
        not_before = f"{one.not_before:%H:%M:%S} UTC" if one.not_before else ""
        table.add_row(
            str(position), str(one.run_id), one.job, one.logical_date, not_before, escape(one.reason or one.cause or "")
        )
    OUT.print(table)
    for host in hosts:
        OUT.print(f"worker host {host.name}: {host.trainings} trainings, {host.others} other runs at a time")
    if not hosts:
        OUT.print('[yellow]no worker host is running[/]: run "forecast up" or "forecast work"')


@runs_app.command(name="show")
def show_run(run_id: RunArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show a run and its attempts."""
    ledger = open_installation(home).ledger
    found = ledger.runs.get(run_id)
    attempts = ledger.runs.attempts(run_id)
    if as_json:
        print_json({"run": found, "attempts": attempts})
        return
    OUT.print(runs_table([found]))
    for one in attempts:
        span = f"{one.started_at:%Y-%m-%d %H:%M:%S}" + (f" to {one.ended_at:%H:%M:%S} UTC" if one.ended_at else " UTC")
        OUT.print(
            f"attempt {one.number} on {escape(one.host)}, process {one.pid}, {span}: "
            f"{one.outcome or 'running'} {escape(one.reason or '')}",
            soft_wrap=True,
        )


@runs_app.command()
def cancel(run_id: RunArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Cancel a queued run, or request a running one to stop."""
    found = open_installation(home).ledger.runs.cancel(run_id, SystemClock().now())
    if as_json:
        print_json(found)
        return
    OUT.print(f"run {run_id} is {found.state}" + ("; its worker will stop it" if found.state == "running" else ""))


@runs_app.command()
def log(
    run_id: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new output until the run has ended.")] = False,
    home: HomeOption = None,
) -> None:
    """Show the log of a run."""
    installation = open_installation(home)
    if follow:
        follow_log(installation, run_id, as_json=False)
        return
    installation.ledger.runs.get(run_id)  # raises run.unknown
    path = installation.home.run_log(run_id)
    if not path.is_file():
        remedy = f'run "forecast runs show {run_id}" for the host of each attempt'
        raise NotFoundError("run.no_log", f"run {run_id} has no log on this machine", remedy)
    OUT.out(path.read_text(encoding="utf-8", errors="replace"), end="")


def follow_log(installation: Installation, run_id: int, *, as_json: bool) -> None:
    """Print the log of a run while it is written; exit code 1 if the run does not succeed."""
    ledger = installation.ledger
    pieces = _pieces(installation.home.run_log(run_id))
    found = ledger.runs.get(run_id)
    if found.state == "queued" and not ledger.hosts.known():
        ERR.print('no worker host is running: run "forecast up" or "forecast work"')
    while True:
        # A worker writes its last lines after the ledger has the run's end: wait for the process, too.
        is_over = found.has_ended and not works(found.host, found.pid, run_id)
        text = next(pieces)
        if not as_json:
            OUT.out(text, end="")
        if is_over:
            break
        time.sleep(_WATCH_SECONDS)
        found = ledger.runs.get(run_id)
    if as_json:
        print_json(found)
    if found.state != "succeeded":
        raise typer.Exit(1)


def _pieces(log_file: Path) -> Iterator[str]:
    """Yield the text written since the previous read, without end; empty while the file is missing or unchanged."""
    decoder, shown = codecs.getincrementaldecoder("utf-8")(errors="replace"), 0
    while True:
        text = b""
        with suppress(FileNotFoundError), log_file.open("rb") as stream:
            stream.seek(shown)
            text = stream.read()
        shown += len(text)
        yield decoder.decode(text)
