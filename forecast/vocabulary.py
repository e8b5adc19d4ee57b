"""Words of the field as types, checked where they are made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from forecast.errors import ConfigError

MAX_HORIZON = 10_000
"""The most steps one forecast may have, trained and recursive together."""

_DURATION = re.compile(r"(?P<count>[1-9][0-9]{0,5})(?P<unit>[smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Role(StrEnum):
    """What a channel is to the forecast."""

    TARGET = "target"
    """Forecast, and known up to the origin."""
    PAST = "past"
    """A covariate known up to the origin only, such as observed weather."""


class Fill(StrEnum):
    """How a gap in a channel is filled before a model sees it."""

    LINEAR = "linear"
    FORWARD = "forward"
    ZERO = "zero"


@dataclass(frozen=True, slots=True, order=True)
class Quantile:
    """A quantile level strictly between 0 and 1.

    >>> Quantile(0.1).label, Quantile(0.025).label, Quantile(0.5).label
    ('q10', 'q2.5', 'q50')
    """

    level: float

    def __post_init__(self) -> None:
        if not 0.0 < self.level < 1.0:
            raise ConfigError(
                "quantile.out_of_range", f"quantile {self.level} is not between 0 and 1", "give levels such as 0.1, 0.5"
            )

    @property
    def label(self) -> str:
        """The name that columns and metrics carry, in percent."""
        return f"q{self.level * 100:.6g}"


@dataclass(frozen=True, slots=True)
class Horizon:
    """A number of future steps, from 1 to :data:`MAX_HORIZON`.

    >>> Horizon(24).steps
    24
    """

    steps: int

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_HORIZON:
            raise ConfigError(
                "horizon.out_of_range",
                f"horizon {self.steps} is not between 1 and {MAX_HORIZON} steps",
                f"ask for 1 to {MAX_HORIZON} steps",
            )


def parse_duration(text: str) -> timedelta:
    """Read a duration such as ``15m``, ``1h``, ``21d``.

    >>> parse_duration("36h")
    datetime.timedelta(days=1, seconds=43200)
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigError(
            "duration.malformed",
            f'"{text}" is not a duration',
            'write a whole number and s, m, h, d or w, such as "1h"',
        )
    return timedelta(**{_UNITS[match["unit"]]: int(match["count"])})
