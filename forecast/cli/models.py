"""Commands about models: train and compare them, list the champions, roll back to an earlier one."""

from __future__ import annotations

from typing import Annotated

import typer

from forecast.cli.options import DatasetArgument, HomeOption, JsonOption, end_on_sigterm, open_installation
from forecast.cli.output import ERR, OUT, champions_table, night_document, print_json, print_night
from forecast.config.training import EngineName
from forecast.errors import ConflictError, NotFoundError
from forecast.installation import Dataset

_INTERRUPTED = 130

EngineOption = Annotated[
    EngineName | None,
    typer.Option(help="Where trainings run. Default: the config file's training.engine.", show_default=False),
]


def train(
    name: DatasetArgument = None,
    engine: EngineOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train all models of the config file, compare the best with the champion, and promote it if it is better."""
    dataset = open_installation(home).dataset(name)
    end_on_sigterm()
    run_night(dataset, engine, as_json=as_json)


def run_night(dataset: Dataset, engine: EngineName | None = None, *, as_json: bool = False) -> None:
    """Train, compare and promote, with progress, and print the night's result."""
    from forecast.progress import Reporter
    from pipelines.retrain import retrain

    try:
        night = retrain(dataset, Reporter(ERR if as_json else OUT), engine)
    except KeyboardInterrupt:
        ERR.print("interrupted: nothing was promoted")
        raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        print_json(night_document(night))
    else:
        print_night(night, dataset.config)


def compare(
    name: DatasetArgument = None,
    back: Annotated[int, typer.Option(min=0, help="Number of nights back; 0 is the latest.")] = 0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the scores of a night's models and its promotion decision, checked again from the stored scores."""
    dataset = open_installation(home).dataset(name)
    nights = dataset.ledger.nights.latest(dataset.name, back + 1)
    if len(nights) <= back:
        message = (
            f"{dataset.name} has {len(nights)} stored nights" if nights else f"{dataset.name} has no stored night yet"
        )
        raise NotFoundError(
            "night.not_found", message, f'run "forecast train {dataset.name}", or give a smaller --back'
        )
    night = nights[back]
    if night.decide_again() != night.verdict:
        raise ConflictError(
            "night.verdict_differs",
            f"the night of {night.recorded_at:%Y-%m-%d %H:%M} has a different verdict today: "
            f"{night.decide_again().sentence}",
            "check whether another release made the decision, or the ledger was edited by hand",
        )
    if as_json:
        print_json(night_document(night))
    else:
        print_night(night, dataset.config)


def rollback(
    name: DatasetArgument = None,
    to: Annotated[
        str | None, typer.Option(help="Model version to roll back to. Default: the previous champion.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Roll back to an earlier champion. The next forecast is issued with it."""
    from pipelines.training.rollback import rollback as run_rollback

    dataset = open_installation(home).dataset(name)
    champion = run_rollback(dataset, to)
    if as_json:
        print_json(champion)
    else:
        OUT.print(champion.verdict, markup=False)
        OUT.print(f'the next forecast uses it; "forecast forecast {dataset.name}" issues one now', markup=False)


def champions(
    name: DatasetArgument = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number, newest first.")] = 10,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the present and past champions, each with its promotion time and verdict."""
    dataset = open_installation(home).dataset(name)
    found = dataset.ledger.champions.history(dataset.name, limit)
    if as_json:
        print_json(found)
    else:
        OUT.print(champions_table(found))
