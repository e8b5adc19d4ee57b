"""The command line: every step of the service, for people and (with ``--json``) for machines.

Exit codes: 0 done, 1 internal error, 2 invalid usage or config file, 3 not found, 4 bad data, 5 storage, 6 conflict (a
port or a lock is taken), 7 training failed, 8 a prerequisite is missing, 9 the doctor found a problem, 130 interrupted
by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

import typer
from typer.core import TyperGroup

from forecast.cli import (
    data,
    demo,
    forecasts,
    home,
    jobs,
    keys,
    maintenance,
    models,
    monitoring,
    runs,
    search,
    services,
)
from forecast.cli.options import AT_END
from forecast.cli.output import print_error
from forecast.errors import ForecastError

Command = Callable[..., None] | typer.Typer
"""A command, or a group of commands such as ``forecast jobs``."""

PANELS: Mapping[str, Mapping[str, Command]] = {
    "Start": {
        "init": home.init,
        "ingest": data.ingest,
        "train": models.train,
        "forecast": forecasts.issue,
        "up": services.up,
        "demo": demo.demo,
        "status": home.status,
        "check": data.check,
    },
    "Data": {
        "receipts": data.receipts,
        "quarantine": data.quarantine,
        "rows": data.rows,
        "channel": data.channel_app,
        "maintain": data.maintain,
    },
    "Models": {
        "compare": models.compare,
        "champions": models.champions,
        "rollback": models.rollback,
        "tune": search.tune,
        "study": search.study,
    },
    "Forecasts": {
        "plot": forecasts.plot,
        "score": monitoring.score,
        "accuracy": monitoring.accuracy,
        "alerts": monitoring.alerts,
        "recompute": forecasts.recompute,
        "reissue": forecasts.reissue,
    },
    "Operate": {
        "jobs": jobs.jobs_app,
        "runs": runs.runs_app,
        "keys": keys.keys_app,
        "serve": services.serve,
        "schedule": services.schedule,
        "work": services.work,
        "ui": services.ui,
        "backup": maintenance.backup,
        "restore": maintenance.restore,
        "doctor": maintenance.doctor,
    },
}
"""Every command of ``forecast --help`` by panel and name, in the order of the help."""

DEPRECATED: Mapping[str, tuple[str, Callable[..., None]]] = {
    "replay": ("recompute", forecasts.recompute),
    "backfill": ("reissue", forecasts.reissue),
}
"""Old name of a command -> its new name and function; old names still work, but the help does not list them."""


class _InHelpOrder(TyperGroup):
    """Lists commands in the order of ``PANELS``; typer would list groups before commands."""

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002 - part of click's interface
        order = [name for commands in PANELS.values() for name in commands]
        return order + [name for name in self.commands if name not in order]


app = typer.Typer(
    name="forecast",
    cls=_InHelpOrder,
    help="Long-horizon forecasting as a service: ingest series, train models nightly, serve rolling forecasts.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    epilog="Start with: forecast init my-home && cd my-home && forecast ingest && forecast train && forecast up",
)


def _register() -> None:
    for panel, commands in PANELS.items():
        for name, command in commands.items():
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=name, rich_help_panel=panel)
            else:
                app.command(name, rich_help_panel=panel)(command)
    for old, (new, command) in DEPRECATED.items():
        text = f'Deprecated: use "forecast {new}".'
        app.command(old, help=text, hidden=True, rich_help_panel="Forecasts")(command)
    app.add_typer(services.worker_app, name="worker", hidden=True, rich_help_panel="Operate")


_register()


def main() -> None:
    """Run the command line; a user's mistake is one line and an exit code, never a traceback."""
    # OpenMP threads that spin while they wait slow a training tenfold as soon as anything runs beside it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with AT_END:
            app()
    except ForecastError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
