"""Commands that search: for better options of a model, and for what models bear and need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from forecast.cli.models import EngineOption
from forecast.cli.options import DatasetArgument, HomeOption, JsonOption, end_on_sigterm, open_installation
from forecast.cli.output import ERR, OUT, print_json

if TYPE_CHECKING:
    from pipelines.search.tune import Tuning
    from pipelines.study.report import Answer
    from pipelines.study.run import Study

_INTERRUPTED = 130
_COLOURS = {"complete": "green", "pruned": "yellow", "failed": "red"}


def tune(
    model: Annotated[str, typer.Option(help="Name of the model.")],
    minutes: Annotated[float, typer.Option(help="Wall time of the search.")],
    dataset: DatasetArgument = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="The most trials of this search.", show_default=False)
    ] = None,
    engine: EngineOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for better options of a model; a search that was stopped goes on when it is started again."""
    from forecast.progress import Reporter
    from pipelines.search.tune import tune as run_tuning

    installation = open_installation(home)
    name, _ = installation.config.dataset(dataset)
    end_on_sigterm()
    reporter = Reporter(ERR if as_json else OUT)
    found = run_tuning(installation.dataset(name), model, reporter, minutes=minutes, limit=trials, engine=engine)
    if as_json:
        print_json(found)
    else:
        _print_tuning(found)
    if found.stopped == "interrupted":
        ERR.print("interrupted: what was found is kept; the same command goes on with it")
        raise typer.Exit(_INTERRUPTED)


def study(
    dataset: DatasetArgument = None,
    models: Annotated[
        str, typer.Option(help="Names of models, separated by commas; all of the job file if not given.")
    ] = "",
    questions: Annotated[
        str, typer.Option(help="noise, missing, lookback, size, decomposition, separated by commas; all if not given.")
    ] = "",
    minutes: Annotated[
        float | None, typer.Option(help="Wall time after which the study stops.", show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report how models bear noise and gaps, and how accuracy depends on look-back, size and decomposition."""
    from forecast.progress import Reporter
    from pipelines.study.run import study as run_study

    installation = open_installation(home)
    name, _ = installation.config.dataset(dataset)
    end_on_sigterm()
    found = run_study(
        installation.dataset(name),
        Reporter(ERR if as_json else OUT),
        models=_words(models),
        questions=_words(questions),
        minutes=minutes,
    )
    if as_json:
        print_json(found)
    else:
        _print_study(found)
    if found.stopped == "interrupted":
        ERR.print("interrupted: what was scored is kept; the same command goes on with it")
        raise typer.Exit(_INTERRUPTED)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _print_tuning(found: Tuning) -> None:
    from pipelines.search.tune import options_label

    states = [row.state for row in found.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    table = Table(title=f"{found.model} on {found.dataset}: {counts}", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("validation loss", justify="right")
    table.add_column("epochs", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("options", overflow="fold")
    for row in found.leaderboard:
        is_present = found.present is not None and row.number == found.present.number
        mark = "[cyan]the job file's[/]: " if is_present else ""
        table.add_row(
            str(row.number), f"{row.loss:.5f}", str(len(row.losses)), f"{row.seconds:.1f}",
            mark + escape(options_label(row.options)),
        )  # fmt: skip
    OUT.print(table)
    for row in found.trials[-5:]:
        if row.state == "failed":
            OUT.print(f"trial {row.number} failed: {row.reason}", style="red", markup=False)
    if found.importance:
        message = ", ".join(f"{name} {share:.0%}" for name, share in list(found.importance.items())[:5])
        OUT.print(f"what counts: {message}", markup=False)
    if found.best is not None and not found.toml:
        OUT.print("no trial is better than the config's own options")
    if found.toml:
        OUT.print("the best trial's options, for the job file:")
        OUT.print(found.toml, markup=False, soft_wrap=True, style="bold")


def _print_study(found: Study) -> None:
    for answer in found.answers:
        OUT.print(_answer_table(answer))
        OUT.print(answer.sentence + "\n", markup=False)
    for cell, reason in found.failures.items():
        OUT.print(f"{cell} was left out: {reason}", style="red", markup=False)
    if found.missing:
        OUT.print(
            f"there was no time for {len(found.missing)} trainings: {'; '.join(found.missing)}; the same command goes "
            "on with them",
            style="yellow", markup=False,
        )  # fmt: skip
    OUT.print(f"figures: {found.report}\nnumbers: {found.rows}", markup=False, soft_wrap=True)


def _answer_table(answer: Answer) -> Table:
    from pipelines.study.report import LOSS

    table = Table(title=f"{answer.title} ({LOSS})", title_justify="left")
    table.add_column("model")
    for label in answer.columns:
        message = f"\n{answer.answered[label]:.0%} could be filled" if label in answer.answered else ""
        table.add_column(label + message, justify="right")
    for model, losses in answer.losses.items():
        table.add_row(model, *(f"{losses[label]:.4f}" if label in losses else "-" for label in answer.columns))
    return table
