"""Terms of forecasting as types, validated at construction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from forecast.errors import ConfigError

MAX_HORIZON = 10_000
"""Maximum number of steps of a forecast, direct and recursive together."""

PLAUSIBLE = (datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC))
"""Range of valid times of observations: from the first, before the second."""

_DURATION = re.compile(r"(?P<count>[1-9][0-9]{0,5})(?P<unit>[smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Role(StrEnum):
    """Role of a channel in the forecast."""

    TARGET = "target"
    """Target: forecast, and known up to the origin."""
    PAST = "past"
    """Past covariate: known up to the origin only, such as observed weather."""
    FUTURE = "future"
    """Future covariate: known beyond the origin too, such as a tariff or a plan; its rows reach into the future."""


class Fill(StrEnum):
    """How gaps of a channel are filled before training and forecasting."""

    NONE = "none"
    LINEAR = "linear"
    FORWARD = "forward"
    SEASONAL = "seasonal"
    """Fill with the value one season earlier."""
    ZERO = "zero"


class Resample(StrEnum):
    """How several rows within one step are aggregated to one value."""

    NONE = "none"
    """No aggregation: rows must lie on the grid; the check ``off_grid`` handles all others."""
    MEAN = "mean"
    SUM = "sum"
    LAST = "last"
    MAX = "max"
    MIN = "min"


class Layout(StrEnum):
    """Shape of a source's rows: one column per channel, or one row per value."""

    WIDE = "wide"
    LONG = "long"


class Conflicts(StrEnum):
    """Rule for two rows with the same series, time and version."""

    LATEST = "latest"
    """The row ingested last stays."""
    DIGEST = "digest"
    """The row with the larger digest stays: arbitrary, but independent of the order of arrival."""


class Doubled(StrEnum):
    """Meaning of a naive local time in the hour that autumn's clock change repeats."""

    IN_ORDER = "in_order"
    """Of two rows of a series the first is the earlier instant, the second the later; a single row is the earlier."""
    EARLIER = "earlier"
    LATER = "later"


class Action(StrEnum):
    """What happens to rows or values that a check finds."""

    REJECT = "reject"
    """Reject the whole ingestion; no row is written."""
    QUARANTINE = "quarantine"
    """Quarantine these rows with the reason; ingest the others."""
    REPAIR = "repair"
    """Repair them by a documented rule."""
    WARN = "warn"
    """Ingest them unchanged, with a note in the receipt."""


@dataclass(frozen=True, slots=True, order=True)
class Quantile:
    """A quantile level strictly between 0 and 1.

    >>> Quantile(0.1).label, Quantile(0.025).label, Quantile(0.5).label
    ('q10', 'q2.5', 'q50')
    >>> Quantile(1.0)
    Traceback (most recent call last):
        ...
    forecast.errors.ConfigError: quantile 1.0 is not between 0 and 1; give levels such as 0.1, 0.5
    """

    level: float

    def __post_init__(self) -> None:
        if not 0.0 < self.level < 1.0:
            raise ConfigError(
                "quantile.out_of_range", f"quantile {self.level} is not between 0 and 1", "give levels such as 0.1, 0.5"
            )

    @property
    def label(self) -> str:
        """Name in columns and metrics, in percent."""
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
                f"give 1 to {MAX_HORIZON} steps",
            )


@lru_cache(maxsize=256)
def parse_duration(text: str) -> timedelta:
    """Parse a duration such as ``15m``, ``1h``, ``21d``; raises ``duration.malformed``.

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
    """Return the time one ``window`` before ``now``; raises ``window.out_of_range`` before the year 1.

    >>> before(datetime(2024, 1, 31), "30d").isoformat()
    '2024-01-01T00:00:00'
    """
    try:
        return now - parse_duration(window)
    except OverflowError:
        message = "window begins before the year 1"
        raise ConfigError("window.out_of_range", message, "leave it out to get all forecasts") from None
