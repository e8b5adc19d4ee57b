"""Plan of a study: each question is a list of points, and points share trainings."""

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
"""Factors of the config's look-back and of a network's width."""
NOISE: Final = (0.1, 0.25, 0.5, 1.0)
"""Standard deviations of each channel."""
MISSING: Final = (0.1, 0.2, 0.4)
"""Shares of a look-back's values."""
_MOVING_AVERAGE: Final = 25
"""Default steps of the moving average, for a model without a decomposition."""


class Question(StrEnum):
    """Questions that a study can answer for each model."""

    NOISE = "noise"
    """How much noise in the look-back increases the loss."""
    MISSING = "missing"
    """How much filled gaps in the look-back increase the loss."""
    LOOKBACK = "lookback"
    """How accuracy depends on the length of the look-back."""
    SIZE = "size"
    """How accuracy and latency depend on the number of weights."""
    DECOMPOSITION = "decomposition"
    """Whether removing the trend of each window first reduces the loss."""


class Condition(StrEnum):
    """Perturbation of the look-backs on which a model is scored."""

    CLEAN = "clean"
    NOISE = "noise"
    SCATTERED = "scattered"
    """Values are missing independently."""
    BLOCKS = "blocks"
    """Values of all channels are missing for a block of steps."""


LEVELS: Final[Mapping[Condition, tuple[float, ...]]] = MappingProxyType({
    Condition.CLEAN: (0.0,), Condition.NOISE: NOISE, Condition.SCATTERED: MISSING, Condition.BLOCKS: MISSING,
})  # fmt: skip

_LABELS: Final[Mapping[Condition, str]] = MappingProxyType({
    Condition.NOISE: "{:g}", Condition.SCATTERED: "{:.0%}", Condition.BLOCKS: "{:.0%} in blocks",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class StudyCell:
    """One training: a model with options and a look-back."""

    model: ModelName
    lookback: int
    encoded_options: str
    """The options as JSON."""
    is_present: bool
    """Whether these are the config's own options and look-back; only then it is scored on perturbed windows too."""

    @property
    def options(self) -> dict[str, Option]:
        """The model's options."""
        options: dict[str, Option] = json.loads(self.encoded_options)
        return options

    @property
    def title(self) -> str:
        """Name of the cell in progress reports."""
        return f"{self.model}, look-back {self.lookback}"

    def config(self, config: DatasetConfig) -> DatasetConfig:
        """Return the config that trains the cell."""
        options = {**config.options, str(self.model): self.options}
        return config.model_copy(update={"lookback": self.lookback, "options": options})

    def key(self, history: TrainingData) -> str:
        """Return a digest of all inputs of the cell's scores."""
        inputs = (history.terms, history.config.lookback, self.model, self.lookback, self.encoded_options)
        return hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Setting:
    """One number of a figure: the score of a cell under a condition."""

    question: Question
    cell: StudyCell
    condition: Condition = Condition.CLEAN
    level: float = 0.0
    label: str = ""
    """Label of the varied value, as a column of the table."""


def points(question: Question, model: ModelName, config: DatasetConfig) -> list[Setting]:
    """Return the points that answer a question for one model; empty if the question does not apply."""
    present = _cell(model, config)
    match question:
        case Question.NOISE:
            found = _perturbed(question, present, Condition.NOISE)
        case Question.MISSING:
            blocks = _perturbed(question, present, Condition.BLOCKS)[1:]
            found = [*_perturbed(question, present, Condition.SCATTERED), *blocks]
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


def _perturbed(question: Question, cell: StudyCell, condition: Condition) -> list[Setting]:
    clean = Setting(question, cell, label="clean")
    return [
        clean,
        *(Setting(question, cell, condition, level, _LABELS[condition].format(level)) for level in LEVELS[condition]),
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
    """Build a cell with all options written out, so that equal trainings are equal cells."""
    present = _present(model, config)
    options = {**present, **(changes or {})}
    steps = lookback or config.lookback
    encoded = json.dumps(_givable(options), sort_keys=True)
    return StudyCell(model, steps, encoded, is_present=options == present and steps == config.lookback)


def _givable(options: Mapping[str, Any]) -> dict[str, Any]:
    # A likelihood defines its own loss: giving both is an error.
    return {name: value for name, value in options.items() if name != "loss"}
