"""Parse the selection of a query: names, quantile levels, time zones and times become indices of a forecast."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from api.errors.suggestions import suggest
from api.schemas.forecasts import ForecastQuery
from api.state.issued import IssuedForecast
from forecast.errors import ConfigError, NotFoundError

# A plus sign that was not encoded arrives as a space.
_LOST_PLUS = re.compile(r"(T\d\d:\d\d(?::\d\d(?:\.\d+)?)?) (\d\d:\d\d)$")


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected part of a forecast, as indices of its arrays."""

    series: tuple[int, ...]
    channels: tuple[int, ...]
    horizon: int
    levels: tuple[int, ...]
    zone: str
    first: int = 0
    """Index of the first step."""

    @property
    def points(self) -> int:
        """Number of points of the answer."""
        return len(self.series) * len(self.channels) * (self.horizon - self.first)


def select(query: ForecastQuery, issued: IssuedForecast) -> Selection:
    """Find the selection of a query in a forecast; a parameter left out selects everything.

    Raises ``range.empty`` if no step lies in ``start <= time < end``.
    """
    horizon, first = query.horizon or issued.issuance.horizon, 0
    begin, end = instant(query.start, "start"), instant(query.end, "end")
    if begin is not None:
        first = max(-((issued.issuance.origin - begin) // issued.step), 0)
    if end is not None:
        horizon = min(horizon, -((issued.issuance.origin - end) // issued.step))
    if first >= horizon:
        raise ConfigError(
            "range.empty", "the forecast has no step from start until before end", "give a later end or horizon"
        )
    return Selection(
        series=places(query.series, issued.series, "series"),
        channels=places(query.channels, issued.channels, "channel"),
        horizon=horizon,
        levels=levels(query.quantiles, issued.issuance.quantiles),
        zone=zone(query.tz).key,
        first=first,
    )


def places(given: Sequence[str], known: Sequence[str], noun: str) -> tuple[int, ...]:
    """Return the indices of names; a name may contain a comma.

    >>> places(["east,west"], ["east", "north", "west"], "series")
    (0, 2)
    """
    wanted = [name for item in given for name in ([item] if item in known else item.split(",")) if name]
    for name in wanted:
        if name not in known:
            raise NotFoundError(f"{noun}.unknown", f"the {noun} does not exist in the forecast", suggest(name, known))
    return tuple(known.index(name) for name in dict.fromkeys(wanted)) or tuple(range(len(known)))


def zone(name: str | None) -> ZoneInfo:
    """Return a time zone by its IANA name; default: UTC."""
    if name is None:
        return ZoneInfo("UTC")
    if name not in _zones():
        remedy = suggest(name, _zones(), otherwise="give an IANA name such as America/New_York")
        raise ConfigError("tz.unknown", "the IANA time zone does not exist", remedy)
    return ZoneInfo(name)


def instant(text: str | None, name: str = "as_of") -> datetime | None:
    """Parse an RFC 3339 time with offset; ``name`` is the parameter's name in an error."""
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
        if read.tzinfo is not None:
            return read.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ConfigError(
        f"{name}.malformed", f"{name} is not an RFC 3339 time with offset", "write it like 2013-11-02T03:00:00Z"
    )


def levels(given: Sequence[str], trained: Sequence[float]) -> tuple[int, ...]:
    """Return the indices of quantile levels among a model's trained levels; default: all."""
    found: dict[int, None] = {}
    for word in (word for item in given for word in item.split(",") if word):
        try:
            level = float(word)
        except ValueError:
            raise ConfigError(
                "quantiles.not_a_number", "a quantile level is not a number", _available(trained)
            ) from None
        near = [place for place, known in enumerate(trained) if abs(known - level) < 1e-9]
        if not near:
            raise ConfigError(
                "quantiles.not_trained",
                "a quantile level was not trained",
                _available(trained),
            )
        found[near[0]] = None
    return tuple(sorted(found)) or tuple(range(len(trained)))


def _available(trained: Sequence[float]) -> str:
    return f"available are {', '.join(f'{level:g}' for level in trained)}"


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())
