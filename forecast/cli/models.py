"""Commands about models: train and compare them, see why one was chosen, go back to an earlier one."""

from __future__ import annotations

from typing import Annotated

import typer

from forecast.cli.options import DatasetArgument, HomeOption, JsonOption, end_on_sigterm, open_installation
from forecast.cli.output import ERR, OUT, champions_table, night_document, print_json, print_night
from forecast.config.training import EngineName
from forecast.errors import ConflictError, NotFoundError
from forecast.installation import Installation

_INTERRUPTED = 130

EngineOption = Annotated[
    EngineName | None,
    typer.Option(help="Where trainings run; the job file's training.engine if not given.", show_default=False),
]


def train(
    dataset: DatasetArgument = None,
    engine: EngineOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train all models of the job file, compare them with the champion, and promote the best if it is better."""
    installation = open_installation(home)
    name, _ = installation.config.dataset(dataset)
    end_on_sigterm()
    run_night(installation, name, engine, as_json=as_json)


def run_night(
    installation: Installation, name: str, engine: EngineName | None = None, *, as_json: bool = False
) -> None:
    """Train, compare and promote, with progress, and say what came of it."""
    from forecast.progress import Reporter
    from pipelines.retrain import retrain

    try:
        night = retrain(installation.dataset(name), Reporter(ERR if as_json else OUT), engine)
    except KeyboardInterrupt:
        ERR.print("interrupted: nothing was promoted")
        raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        print_json(night_document(night))
    else:
        print_night(night, installation.config.datasets[name])


def compare(
    dataset: DatasetArgument = None,
    back: Annotated[int, typer.Option(min=0, help="How many nights ago; 0 is the latest.")] = 0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how the models of a night compare, what was decided and why; decided again from the stored numbers."""
    installation = open_installation(home)
    name, config = installation.config.dataset(dataset)
    nights = installation.ledger.nights.latest(name, back + 1)
    if len(nights) <= back:
        message = f"{name} has {len(nights)} stored nights" if nights else f"{name} has no night yet"
        raise NotFoundError("night.not_found", message, f'run "forecast train {name}", or give a smaller --back')
    night = nights[back]
    if night.decide_again() != night.verdict:
        raise ConflictError(
            "night.verdict_differs",
            f"the night of {night.recorded_at:%Y-%m-%d %H:%M} would be decided otherwise now: "
            f"{night.decide_again().sentence}",
            "another release decided then, or the ledger was changed by hand",
        )
    if as_json:
        print_json(night_document(night))
    else:
        print_night(night, config)


def rollback(
    dataset: DatasetArgument = None,
    to: Annotated[
        str | None, typer.Option(help="Model version to go back to; the champion before the present one if not given.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an earlier champion champion again; the next forecast is issued with it."""
    from pipelines.training.rollback import rollback as go_back

    installation = open_installation(home)
    name, _ = installation.config.dataset(dataset)
    champion = go_back(installation.dataset(name), to)
    if as_json:
        print_json(champion)
    else:
        OUT.print(champion.verdict, markup=False)
        OUT.print(f'the next forecast is issued with it; "forecast forecast {name}" issues one now', markup=False)


def champions(
    dataset: DatasetArgument = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 10,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who is champion and who was, since when and why."""
    installation = open_installation(home)
    name, _ = installation.config.dataset(dataset)
    found = installation.ledger.champions.history(name, limit)
    if as_json:
        print_json(found)
    else:
        OUT.print(champions_table(found))
