"""What the commands of the command line share: their options, and the installation they work on."""

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
    """Return the data sets that a shell may complete a word to; none where there is no sound job file."""
    config_file = Path(os.environ.get("FORECAST_HOME") or ".").expanduser() / CONFIG_FILE
    try:
        datasets = tomllib.loads(config_file.read_text(encoding="utf-8"))["datasets"]
        return sorted(name for name in datasets if name.startswith(incomplete))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return []


AT_END = ExitStack()
"""Closes what a command opened when it ends, however it ends."""

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="FORECAST_HOME",
        help="Folder with forecast.toml; the current folder if not given.",
        show_default=False,
    ),
]
DatasetArgument = Annotated[
    str | None,
    typer.Argument(
        help="Name of the data set; may be left out if there is only one.", show_default=False, autocompletion=_names
    ),
]
DatasetOption = Annotated[
    str | None, typer.Option(help="Data set; may be left out if there is only one.", autocompletion=_names)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
HorizonOption = Annotated[
    int | None, typer.Option(help="Steps to plot; beyond the trained horizon the forecast is recursive.")
]
PortOption = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the service.")]
UiPortOption = Annotated[int, typer.Option("--ui-port", min=1, max=65535, help="Port of the MLflow UI.")]
HostOption = Annotated[
    str, typer.Option("--host", help="Address to listen on; beyond this machine only if there are keys.")
]
AllowedHostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        envvar="FORECAST_ALLOWED_HOSTS",
        help="Exact name by which the service is asked, beside those of this machine; may be repeated.",
        show_default=False,
    ),
]


def end_on_sigterm() -> None:
    """Let SIGTERM end this process as it ends itself: runs in MLflow are ended, half-made models removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def open_installation(home: Path | None) -> Installation:
    """Open an installation whose ledger is closed when the command ends."""
    installation = Installation.open(home)
    AT_END.enter_context(installation.ledger)
    return installation
