"""Words of the field as types, checked where they are made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache

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
    FUTURE = "future"
    """A covariate known beyond the origin too, such as a price that is set or a plan; its rows run ahead."""


class Fill(StrEnum):
    """How a gap in a channel is filled before a model sees it."""

    NONE = "none"
    LINEAR = "linear"
    FORWARD = "forward"
    SEASONAL = "seasonal"
    """With the value one season before."""
    ZERO = "zero"


class Resample(StrEnum):
    """How several rows within one step become one value."""

    NONE = "none"
    """They do not: rows lie on the grid, others are handled by the check ``off_grid``."""
    MEAN = "mean"
    SUM = "sum"
    LAST = "last"
    MAX = "max"
    MIN = "min"


class Layout(StrEnum):
    """Shape of a source's rows."""

    WIDE = "wide"
    LONG = "long"


class Conflicts(StrEnum):
    """Which of two rows with the same series, time and version stays."""

    LATEST = "latest"
    """The one that came in last."""
    DIGEST = "digest"
    """The one with the larger digest: chosen by nobody, but the same one in whatever order they come."""


class Doubled(StrEnum):
    """What a naive local time means that autumn's clock change doubles."""

    IN_ORDER = "in_order"
    """Of a series' rows for it the first is the earlier instant, the second the later; one alone is the earlier."""
    EARLIER = "earlier"
    LATER = "later"


class Action(StrEnum):
    """What is done about rows or values that a check finds."""

    REJECT = "reject"
    """Nothing of the whole ingestion is written."""
    QUARANTINE = "quarantine"
    """The rows are put aside with the reason; the others go in."""
    REPAIR = "repair"
    """They are mended by a stated rule."""
    WARN = "warn"
    """They go in as they are, and the receipt says so."""


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


@lru_cache(maxsize=256)
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


def before(now: datetime, window: str) -> datetime:
    """Return the time that lies so long before another; raises ``window.out_of_range`` if no calendar has it.

    >>> before(datetime(2024, 1, 31), "30d").isoformat()
    '2024-01-01T00:00:00'
    """
    try:
        return now - parse_duration(window)
    except OverflowError:
        message = "window begins before the year 1"
        raise ConfigError("window.out_of_range", message, "leave it out to have all forecasts") from None
