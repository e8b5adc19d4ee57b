"""Options and arguments that several commands share, and the opening of the installation."""

from __future__ import annotations

import os
import signal
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from forecast.home import CONFIG_FILE
from forecast.installation import Installation


def _names(incomplete: str) -> list[str]:
    """Return the data sets for shell completion; an empty list if the config file is missing or invalid."""
    config_file = Path(os.environ.get("FORECAST_HOME") or ".").expanduser() / CONFIG_FILE
    try:
        datasets = tomllib.loads(config_file.read_text(encoding="utf-8"))["datasets"]
        return sorted(name for name in datasets if name.startswith(incomplete))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return []


AT_END = ExitStack()
"""Closes the ledger of a command when the command returns or fails."""

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="FORECAST_HOME",
        help="Folder with forecast.toml. Default: the current folder.",
        show_default=False,
    ),
]
DatasetArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="dataset",
        help="Name of the data set. Optional if there is only one.",
        show_default=False,
        autocompletion=_names,
    ),
]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", help="Name of the data set. Optional if there is only one.", autocompletion=_names),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
HorizonOption = Annotated[
    int | None, typer.Option(help="Steps to plot; beyond the trained horizon the forecast is recursive.")
]
PortOption = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the service.")]
UiPortOption = Annotated[int, typer.Option("--ui-port", min=1, max=65535, help="Port of the MLflow UI.")]
HostOption = Annotated[
    str, typer.Option("--host", help="Address to listen on. An address other than loopback requires API keys.")
]
AllowedHostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        envvar="FORECAST_ALLOWED_HOSTS",
        help="Exact host name that clients may use, in addition to this machine's names; may be repeated.",
        show_default=False,
    ),
]


def end_on_sigterm() -> None:
    """Make SIGTERM raise ``SystemExit``, so that cleanup runs: it ends MLflow runs and removes incomplete models."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def open_installation(home: Path | None) -> Installation:
    """Open an installation; its ledger is closed when the command ends."""
    installation = Installation.open(home)
    AT_END.enter_context(installation.ledger)
    return installation
