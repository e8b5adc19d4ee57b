"""Report of a study: one answer per question, with figures and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import plotly.graph_objects as go
import polars as pl

from forecast.plots.study import Axis, curves, pairs, with_subtitle
from pipelines.preparation.training_data import TrainingData
from pipelines.study.plan import MISSING, Condition, Question, Setting

LOSS = "quantile loss, standard deviations"
_ASKED: Mapping[Question, str] = {
    Question.NOISE: "Noise in the look-back",
    Question.MISSING: "Missing values in the look-back",
    Question.LOOKBACK: "Length of the look-back",
    Question.SIZE: "Size of the model",
    Question.DECOMPOSITION: "Decomposition of trend and remainder",
}
_WORTH = 0.005
"""Relative change of the loss below which one training with one seed is not conclusive."""


@dataclass(frozen=True, slots=True)
class Value:
    """One scored point."""

    label: str
    condition: str
    level: float
    is_present: bool
    """Whether the model has the config's own options."""
    row: Mapping[str, Any]
    """A row of ``ROWS``."""

    @property
    def loss(self) -> float:
        """The quantile loss."""
        return float(self.row["pinball"])


@dataclass(frozen=True, slots=True)
class Answer:
    """Scores of one question so far."""

    question: Question
    title: str
    sentence: str
    columns: tuple[str, ...]
    """Labels of the varied value."""
    values: Mapping[str, Sequence[Value]]
    """By model, in the order of the columns; without unscored points."""

    @property
    def losses(self) -> Mapping[str, Mapping[str, float]]:
        """Quantile losses by model, then label."""
        return {model: {value.label: value.loss for value in of} for model, of in self.values.items()}

    @property
    def answered(self) -> Mapping[str, float]:
        """By label: the share of windows with a forecast, if it is below 1."""
        every = [value for of in self.values.values() for value in of]
        return {value.label: value.row["answered"] for value in every if value.row["answered"] < 1}


def answer(question: Question, plan: Sequence[Setting], history: TrainingData, rows: pl.DataFrame) -> Answer | None:
    """Collect the scores of a question; ``None`` if it was not asked or has no scores yet."""
    known = {(row["cell"], row["condition"], row["level"]): row for row in rows.iter_rows(named=True)}
    values: dict[str, list[Value]] = {}
    labels: dict[str, list[str]] = {}
    for point in plan:
        if point.question is not question:
            continue
        labels.setdefault(point.cell.model, []).append(point.label)
        row = known.get((point.cell.key(history), str(point.condition), point.level))
        if row is not None:
            value = Value(point.label, point.condition, point.level, point.cell.is_present, row)
            values.setdefault(point.cell.model, []).append(value)
    if not values:
        return None
    longest_first = sorted(labels.values(), key=len, reverse=True)
    columns = tuple(dict.fromkeys(chain.from_iterable(longest_first)))
    return Answer(question, _ASKED[question], _SENTENCES[question](values), columns, values)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """A line per model through the points of some conditions."""

    name: str
    suffix: str
    across: str
    x: Callable[[Value], float]
    conditions: tuple[Condition, ...]
    axis: Axis = Axis.LINEAR


_DRAWINGS: Mapping[Question, tuple[_Drawing, ...]] = {
    Question.NOISE: (
        _Drawing(
            "noise", "", "deviation of the noise, in standard deviations of each channel", lambda value: value.level,
            (Condition.CLEAN, Condition.NOISE),
        ),
    ),
    Question.MISSING: tuple(
        _Drawing(
            name, suffix, "share of missing values, filled like gaps of history", lambda value: value.level,
            (Condition.CLEAN, condition), Axis.PERCENT,
        )
        for name, suffix, condition in (
            ("missing values", ", one by one", Condition.SCATTERED), ("outages", ", in blocks", Condition.BLOCKS)
        )
    ),
    Question.LOOKBACK: (
        _Drawing("look-back", "", "steps", lambda value: value.row["lookback"], (Condition.CLEAN,), Axis.DOUBLING),
    ),
    Question.SIZE: (
        _Drawing(
            "size", ": weights", "numbers in the exported network", lambda value: value.row["parameters"],
            (Condition.CLEAN,), Axis.LOG,
        ),
        _Drawing(
            "latency", ": latency", "milliseconds per forecast of one series on one core",
            lambda value: value.row["latency_ms"], (Condition.CLEAN,), Axis.LOG,
        ),
    ),
}  # fmt: skip


def figures(found: Answer, models: Sequence[str]) -> list[tuple[str, go.Figure]]:
    """Draw an answer: names and figures; ``models`` fixes colours and symbols for all answers."""
    if found.question is Question.DECOMPOSITION:
        both = {model: (of[0].loss, of[1].loss) for model, of in found.values.items() if len(of) == 2}
        return [("decomposition", with_subtitle(pairs(found.title, LOSS, ("without", "with"), both), found.sentence))]
    drawn = []
    for one in _DRAWINGS[found.question]:
        lines = {
            model: [(one.x(value), value.loss) for value in of if value.condition in one.conditions]
            for model, of in found.values.items()
        }
        drawn.append((one.name, curves(found.title + one.suffix, one.across, LOSS, lines, models, one.axis)))
    with_subtitle(drawn[0][1], found.sentence)
    return drawn


def markdown(found: Answer) -> str:
    """Return an answer as a sentence and a table."""
    head = ["model", *found.columns]
    body = [
        [model, *(f"{losses[label]:.4f}" if label in losses else "" for label in found.columns)]
        for model, losses in found.losses.items()
    ]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))
    return f"### {found.title}\n\n{found.sentence}\n\n{table}"


Values = Mapping[str, Sequence[Value]]


def _change(value: Value, reference: Value) -> float:
    return value.loss / reference.loss - 1


def _robustness(values: Values, condition: Condition, label: str) -> str:
    """Name the models whose loss rises least and most under the strongest perturbation."""
    costs = {}
    for model, of in values.items():
        disturbed = [value for value in of if value.condition == condition and math.isfinite(value.loss)]
        if disturbed:
            costs[model] = _change(max(disturbed, key=lambda value: value.level), of[0])
    if not costs:
        return f"With {label} no window could be filled."
    least, most = min(costs, key=lambda name: costs[name]), max(costs, key=lambda name: costs[name])
    return (
        f"With {label} the loss of {least} rises least ({costs[least]:+.1%}), that of {most} most ({costs[most]:+.1%})."
    )


def _best(values: Values, text: Callable[[Value], str]) -> str:
    """Name the best value of each model with several points."""
    best = {model: min(of, key=lambda value: value.loss) for model, of in values.items() if len(of) > 1}
    gains = [f"{model} {text(one)} ({_change(one, _present(values[model])):+.1%})" for model, one in best.items()]
    return f"Lowest loss, against the config's own value: {', '.join(gains)}." if gains else ""


def _present(of: Sequence[Value]) -> Value:
    return next((value for value in of if value.is_present), of[0])


def _decomposed(values: Values) -> str:
    changes = {model: _change(of[1], of[0]) for model, of in values.items() if len(of) == 2}
    groups = {
        "helps": {name: change for name, change in changes.items() if change < -_WORTH},
        "harms": {name: change for name, change in changes.items() if change > _WORTH},
    }
    parts = [
        f"{verb} " + ", ".join(f"{name} ({change:+.1%})" for name, change in of.items())
        for verb, of in groups.items()
        if of
    ]
    return f"Subtracting a moving average from each window {' and '.join(parts) or 'changes nothing'}."


_SENTENCES: Mapping[Question, Callable[[Values], str]] = {
    Question.NOISE: lambda values: _robustness(
        values, Condition.NOISE, "noise as large as the channels' own deviations"
    ),
    Question.MISSING: lambda values: " ".join(
        (
            _robustness(values, Condition.SCATTERED, f"{MISSING[-1]:.0%} of the values missing one by one,"),
            _robustness(values, Condition.BLOCKS, "as many missing in blocks,"),
        )
    ),
    Question.LOOKBACK: lambda values: _best(values, lambda value: f"{value.row['lookback']} steps"),
    Question.SIZE: lambda values: _best(values, lambda value: f"{value.row['parameters']:,} weights"),
    Question.DECOMPOSITION: _decomposed,
}
