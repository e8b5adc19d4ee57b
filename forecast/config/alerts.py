"""What the job file says is to be watched: ``[[datasets.<name>.alerts]]``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Self

from pydantic import Field, model_validator

from forecast.strict import StrictModel
from forecast.vocabulary import parse_duration

LEAST_FORECASTS = 8
"""That must have come true before their scores are held against anything."""


class AlertKind(StrEnum):
    """What is watched."""

    ERROR = "error"
    """The live loss of a channel or group of lead times is more than ``above`` times that of the holdout."""
    COVERAGE = "coverage"
    """The band covers more than ``above`` more or less than it promises."""
    SKILL = "skill"
    """The skill against the seasonal naive forecast is less than ``below``."""
    REGRESSION = "regression"
    """The live loss of a group of lead times is higher than the holdout's, by more than chance explains."""
    DRIFT = "drift"
    """An input is spread otherwise than on the rows that the champion was fitted on."""
    STALE = "stale"
    """There was no new forecast, or no new observation, for longer than ``after``."""
    RUN_FAILED = "run_failed"
    """A job failed for good, and did not succeed since."""


_ABOVE: Mapping[AlertKind, float] = MappingProxyType(
    {AlertKind.ERROR: 1.5, AlertKind.COVERAGE: 0.1, AlertKind.REGRESSION: 0.2, AlertKind.DRIFT: 0.25}
)
_COUNTED = frozenset({AlertKind.ERROR, AlertKind.COVERAGE, AlertKind.SKILL})


class AlertRule(StrictModel):
    """One rule of the job file: ``[[datasets.<name>.alerts]]``."""

    kind: AlertKind
    above: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """error: ratio (1.5); coverage: difference (0.1); regression: relative loss (0.2) that must be exceeded beside the
    test; drift: population stability index (0.25)."""
    below: float | None = Field(default=None, allow_inf_nan=False)
    """skill: 0."""
    significance: float | None = Field(default=None, gt=0, lt=0.5)
    """regression: how probable so high a loss may be by chance (0.01)."""
    origins: int | None = Field(default=None, ge=LEAST_FORECASTS, strict=True)
    """error, coverage, skill: of so many of the latest forecasts that have come true (48)."""
    after: str = ""
    """stale: such as ``6h``; the data set's ``stale_after`` if empty."""

    @model_validator(mode="after")
    def _has_what_its_kind_takes(self) -> Self:
        takes = {
            "above": self.kind in _ABOVE, "below": self.kind is AlertKind.SKILL, "origins": self.kind in _COUNTED,
            "significance": self.kind is AlertKind.REGRESSION, "after": self.kind is AlertKind.STALE,
        }  # fmt: skip
        for name, is_taken in takes.items():
            if name in self.model_fields_set and not is_taken:
                others = [each for each, taken in takes.items() if taken]
                message = (
                    f'an alert of kind "{self.kind}" has no "{name}"; it takes {" and ".join(others) or "nothing"}'
                )
                raise ValueError(message)
        if self.after:
            parse_duration(self.after)
        return self

    @property
    def limit(self) -> float:
        """What a value is held against."""
        return _ABOVE.get(self.kind, 0.0) if self.above is None else self.above

    @property
    def last(self) -> int:
        """How many of the latest forecasts count."""
        return self.origins or 48
