"""What a study trains and measures: each question is a list of points, and points share their trainings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from forecast.config.dataset import DatasetConfig
from models.catalog import CATALOG, ModelName
from models.search_spaces import SIZES, Option, present_options
from pipelines.preparation.training_data import TrainingData

FACTORS: Final = (0.25, 0.5, 1.0, 2.0)
"""Of the job file's look-back, and of a network's width."""
NOISE: Final = (0.1, 0.25, 0.5, 1.0)
"""Standard deviations of each channel."""
MISSING: Final = (0.1, 0.2, 0.4)
"""Shares of a look-back's values."""
_MOVING_AVERAGE: Final = 25
"""Steps of the decomposition of a model that has none by itself."""


class Question(StrEnum):
    """What a study may answer of each model."""

    NOISE = "noise"
    """How much worse forecasts from noisy look-backs are."""
    MISSING = "missing"
    """How much worse forecasts from look-backs with filled gaps are."""
    LOOKBACK = "lookback"
    """How accuracy depends on the length of the look-back."""
    SIZE = "size"
    """How accuracy and latency depend on the number of weights."""
    DECOMPOSITION = "decomposition"
    """Whether it pays to take the trend off each window first."""


class Condition(StrEnum):
    """What is done to the look-backs of the windows that a model is scored on."""

    CLEAN = "clean"
    NOISE = "noise"
    SCATTERED = "scattered"
    """Values are missing one by one."""
    BLOCKS = "blocks"
    """Values of all channels are missing for some time."""


LEVELS: Final[Mapping[Condition, tuple[float, ...]]] = MappingProxyType({
    Condition.CLEAN: (0.0,), Condition.NOISE: NOISE, Condition.SCATTERED: MISSING, Condition.BLOCKS: MISSING,
})  # fmt: skip

_TOLD: Final[Mapping[Condition, str]] = MappingProxyType({
    Condition.NOISE: "{:g}", Condition.SCATTERED: "{:.0%}", Condition.BLOCKS: "{:.0%} in blocks",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class StudyCell:
    """One training: a model with options and a look-back."""

    model: ModelName
    lookback: int
    message: str
    """The options, as JSON."""
    is_present: bool
    """Whether it is the model as the job file has it: such a one is also scored on disturbed windows."""

    @property
    def options(self) -> dict[str, Option]:
        """The model's options."""
        options: dict[str, Option] = json.loads(self.message)
        return options

    @property
    def title(self) -> str:
        """What the cell is called where its progress is shown."""
        return f"{self.model}, look-back {self.lookback}"

    def config(self, config: DatasetConfig) -> DatasetConfig:
        """Return the job that trains the cell."""
        options = {**config.options, str(self.model): self.options}
        return config.model_copy(update={"lookback": self.lookback, "options": options})

    def key(self, history: TrainingData) -> str:
        """Return a digest of all that the cell's scores depend on."""
        message = (history.terms, history.config.lookback, self.model, self.lookback, self.message)
        return hashlib.sha256(repr(message).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Setting:
    """One number of a figure: the score of a cell under a condition."""

    question: Question
    cell: StudyCell
    condition: Condition = Condition.CLEAN
    level: float = 0.0
    label: str = ""
    """What was varied, as the table's column."""


def points(question: Question, model: ModelName, config: DatasetConfig) -> list[Setting]:
    """Return the points that answer a question of one model; none if the question makes no sense for it."""
    present = _cell(model, config)
    match question:
        case Question.NOISE:
            found = _disturbed(question, present, Condition.NOISE)
        case Question.MISSING:
            blocks = _disturbed(question, present, Condition.BLOCKS)[1:]
            found = [*_disturbed(question, present, Condition.SCATTERED), *blocks]
        case Question.LOOKBACK:
            lengths = sorted({max(round(factor * config.lookback), 1) for factor in FACTORS})
            found = [Setting(question, _cell(model, config, lookback=steps), label=str(steps)) for steps in lengths]
        case Question.SIZE:
            found = [
                Setting(question, _cell(model, config, changes=_scaled(model, config, factor)), label=f"x{factor:g}")
                for factor in (FACTORS if model in SIZES else (1.0,))
            ]
        case Question.DECOMPOSITION if CATALOG[model].family == "network":
            steps = _present(model, config)["decomposition"] or _MOVING_AVERAGE
            found = [
                Setting(question, _cell(model, config, changes={"decomposition": number}), label=label)
                for number, label in ((0, "without"), (steps, "with"))
            ]
        case Question.DECOMPOSITION:
            found = []
    return found


def _disturbed(question: Question, cell: StudyCell, condition: Condition) -> list[Setting]:
    clean = Setting(question, cell, label="clean")
    return [
        clean,
        *(Setting(question, cell, condition, level, _TOLD[condition].format(level)) for level in LEVELS[condition]),
    ]


def _present(model: ModelName, config: DatasetConfig) -> dict[str, Any]:
    given = config.options.get(model, {})
    return present_options(model, given) if CATALOG[model].family == "network" else dict(given)


def _scaled(model: ModelName, config: DatasetConfig, factor: float) -> dict[str, Option]:
    present = _present(model, config)
    return {name: max(round(factor * present[name]), 1) for name in SIZES.get(model, ())}


def _cell(
    model: ModelName, config: DatasetConfig, *, lookback: int | None = None, changes: Mapping[str, Option] | None = None
) -> StudyCell:
    """Make a cell whose options are written out, so that what is the same is the same cell."""
    present = _present(model, config)
    options = {**present, **(changes or {})}
    steps = lookback or config.lookback
    message = json.dumps(_givable(options), sort_keys=True)
    return StudyCell(model, steps, message, is_present=options == present and steps == config.lookback)


def _givable(options: Mapping[str, Any]) -> dict[str, Any]:
    # A likelihood brings its own loss: naming one as well is a mistake.
    return {name: value for name, value in options.items() if name != "loss"}
