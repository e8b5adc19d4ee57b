"""Alert rules of the config file: ``[[datasets.<name>.alerts]]``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Self

from pydantic import Field, model_validator

from forecast.strict import StrictModel
from forecast.vocabulary import parse_duration

LEAST_FORECASTS = 8
"""Forecasts that must have come true before a rule judges their scores."""


class AlertKind(StrEnum):
    """What a rule watches."""

    ERROR = "error"
    """The live loss of a channel or group of lead times is more than ``above`` times that of the holdout."""
    COVERAGE = "coverage"
    """The band's coverage differs from the nominal one by more than ``above``."""
    SKILL = "skill"
    """The skill against the seasonal naive forecast is less than ``below``."""
    REGRESSION = "regression"
    """The live loss of a group of lead times is significantly higher than the holdout's."""
    DRIFT = "drift"
    """The distribution of an input has moved away from the rows that the champion was fitted on."""
    STALE = "stale"
    """No new forecast or no new observation for longer than ``after``."""
    RUN_FAILED = "run_failed"
    """A job failed after its last retry and has not succeeded since."""


_ABOVE: Mapping[AlertKind, float] = MappingProxyType(
    {AlertKind.ERROR: 1.5, AlertKind.COVERAGE: 0.1, AlertKind.REGRESSION: 0.2, AlertKind.DRIFT: 0.25}
)
_COUNTED = frozenset({AlertKind.ERROR, AlertKind.COVERAGE, AlertKind.SKILL})


class AlertRule(StrictModel):
    """One alert rule.

    >>> AlertRule.model_validate({"kind": "coverage"}).limit
    0.1
    """

    kind: AlertKind
    above: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Threshold, default in brackets. error: ratio (1.5); coverage: difference (0.1); drift: population stability index
    (0.25); regression: relative increase of the loss (0.2), required in addition to the test."""
    below: float | None = Field(default=None, allow_inf_nan=False)
    """skill: the threshold (0)."""
    significance: float | None = Field(default=None, gt=0, lt=0.5)
    """regression: significance level of the test (0.01)."""
    origins: int | None = Field(default=None, ge=LEAST_FORECASTS, strict=True)
    """error, coverage, skill: number of latest forecasts that have come true to judge (48)."""
    after: str = ""
    """stale: the age limit, such as ``6h``; empty: the data set's ``stale_after``."""

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
        """The threshold: ``above``, or the default of the kind."""
        return _ABOVE.get(self.kind, 0.0) if self.above is None else self.above

    @property
    def last(self) -> int:
        """Number of latest forecasts to judge."""
        return self.origins or 48
