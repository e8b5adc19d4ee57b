"""Commands that search: hyperparameters of a model, and how models react to noise, gaps and settings."""

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
    minutes: Annotated[float, typer.Option(help="Wall time of the search in minutes.")],
    name: DatasetArgument = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of trials of this search.", show_default=False)
    ] = None,
    engine: EngineOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tune a model's options. A stopped search continues when the same command runs again."""
    from forecast.progress import Reporter
    from pipelines.search.tune import tune as run_tuning

    dataset = open_installation(home).dataset(name)
    end_on_sigterm()
    reporter = Reporter(ERR if as_json else OUT)
    found = run_tuning(dataset, model, reporter, minutes=minutes, limit=trials, engine=engine)
    if as_json:
        print_json(found)
    else:
        _print_tuning(found)
    if found.stopped == "interrupted":
        ERR.print("interrupted: finished trials are kept; run the same command to continue")
        raise typer.Exit(_INTERRUPTED)


def study(
    name: DatasetArgument = None,
    models: Annotated[
        str, typer.Option(help="Names of models, separated by commas. Default: all models of the config file.")
    ] = "",
    questions: Annotated[
        str, typer.Option(help="noise, missing, lookback, size, decomposition, separated by commas. Default: all.")
    ] = "",
    minutes: Annotated[
        float | None, typer.Option(help="Wall time in minutes after which the study stops.", show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Study how noise, missing values, look-back, model size and decomposition affect the models' accuracy."""
    from forecast.progress import Reporter
    from pipelines.study.run import study as run_study

    dataset = open_installation(home).dataset(name)
    end_on_sigterm()
    found = run_study(
        dataset,
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
        ERR.print("interrupted: finished scores are kept; run the same command to continue")
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
        mark = "[cyan]config file[/]: " if is_present else ""
        table.add_row(
            str(row.number), f"{row.loss:.5f}", str(len(row.losses)), f"{row.seconds:.1f}",
            mark + escape(options_label(row.options)),
        )  # fmt: skip
    OUT.print(table)
    for row in found.trials[-5:]:
        if row.state == "failed":
            OUT.print(f"trial {row.number} failed: {row.reason}", style="red", markup=False)
    if found.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in list(found.importance.items())[:5])
        OUT.print(f"importance: {shares}", markup=False)
    if found.best is not None and not found.toml:
        OUT.print("no trial is better than the options of the config file")
    if found.toml:
        OUT.print("options of the best trial, for the config file:")
        OUT.print(found.toml, markup=False, soft_wrap=True, style="bold")


def _print_study(found: Study) -> None:
    for answer in found.answers:
        OUT.print(_answer_table(answer))
        OUT.print(answer.sentence + "\n", markup=False)
    for cell, reason in found.failures.items():
        OUT.print(f"{cell} was left out: {reason}", style="red", markup=False)
    if found.missing:
        OUT.print(
            f"no time was left for {len(found.missing)} trainings: {'; '.join(found.missing)}; "
            "run the same command to continue",
            style="yellow", markup=False,
        )  # fmt: skip
    OUT.print(f"figures: {found.report}\nnumbers: {found.rows}", markup=False, soft_wrap=True)


def _answer_table(answer: Answer) -> Table:
    from pipelines.study.report import LOSS

    table = Table(title=f"{answer.title} ({LOSS})", title_justify="left")
    table.add_column("model")
    for label in answer.columns:
        filled = f"\n{answer.answered[label]:.0%} could be filled" if label in answer.answered else ""
        table.add_column(label + filled, justify="right")
    for model, losses in answer.losses.items():
        table.add_row(model, *(f"{losses[label]:.4f}" if label in losses else "-" for label in answer.columns))
    return table
