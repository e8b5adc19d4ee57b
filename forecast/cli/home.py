"""Commands about the home: create one, and show the state of its data sets."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from forecast.cli.options import HomeOption, JsonOption, open_installation
from forecast.cli.output import OUT, print_issuance, print_json, runs_table
from forecast.errors import ConflictError, StorageError
from forecast.home import Home, home_at
from forecast.ledger.run import SHOWN


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to create; it becomes the home.")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Create a home: a folder with a config file for the sample data set, ready to be changed to your own data."""
    home = home_at(folder)
    if home.is_made:
        raise ConflictError(
            "home.exists", f'"{home.config_file}" exists already', "change it, or choose another folder"
        )
    home.prepare()
    _write_sample_config(home)
    if as_json:
        print_json({"home": str(home.path), "job_file": str(home.config_file)})
    else:
        command = f"forecast ingest --home {shlex.quote(str(home.path))}"
        OUT.print(
            f'created "{escape(str(home.config_file))}" for the sample data set; next: [bold]{escape(command)}[/]',
            soft_wrap=True,  # a path that is broken over lines cannot be copied
        )


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the champion and the latest forecast of each data set, and the latest runs of jobs."""
    installation = open_installation(home)
    ledger = installation.ledger
    datasets = {
        dataset.name: {
            "champion": dataset.champion,
            "forecast": ledger.issuances.latest(dataset.name),
            "now": dataset.clock.now(),
            "revision": next(iter(ledger.revisions.latest(dataset.name, 1).values()), None),
            "alerts": ledger.alerts.find(dataset.name, open_only=True),
        }
        for dataset in installation.datasets
    }
    runs = ledger.runs.find(limit=20, states=SHOWN)
    if as_json:
        print_json({"datasets": datasets, "runs": runs})
        return
    for dataset in installation.datasets:
        champion, issuance = dataset.champion, ledger.issuances.latest(dataset.name)
        OUT.print(f"[bold]{dataset.name}[/]: {escape(champion.verdict) if champion else 'no champion yet'}")
        if issuance:
            print_issuance(issuance, dataset.config, is_new=False)
    OUT.print(runs_table(runs))


def _write_sample_config(home: Home) -> None:
    text = files("forecast.config").joinpath("sample.toml").read_text(encoding="utf-8")
    try:
        with home.config_file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise StorageError(
            "home.not_writable", f'cannot write "{home.config_file}" ({error.strerror})', "choose another folder"
        ) from error
