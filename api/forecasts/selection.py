"""From words in a query to places in a forecast: names, levels, zones and times, each refused with its remedy."""

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
    """The part of a forecast that is asked for, as places in its arrays."""

    series: tuple[int, ...]
    channels: tuple[int, ...]
    horizon: int
    levels: tuple[int, ...]
    zone: str
    first: int = 0
    """Steps before it are left out."""

    @property
    def points(self) -> int:
        """How many points are told."""
        return len(self.series) * len(self.channels) * (self.horizon - self.first)


def select(query: ForecastQuery, issued: IssuedForecast) -> Selection:
    """Find what a query names in a forecast; leaving something out means all of it.

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
            "range.empty", "no step of the forecast lies from start until before end", "ask for a later end or horizon"
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
    """Return the places of names; a name may itself contain a comma."""
    wanted = [name for item in given for name in ([item] if item in known else item.split(",")) if name]
    for name in wanted:
        if name not in known:
            raise NotFoundError(
                f"{noun}.unknown", f"there is no forecast of a {noun} of that name", suggest(name, known)
            )
    return tuple(known.index(name) for name in dict.fromkeys(wanted)) or tuple(range(len(known)))


def zone(name: str | None) -> ZoneInfo:
    """Return a zone by its IANA name, UTC if none is given."""
    if name is None:
        return ZoneInfo("UTC")
    if name not in _zones():
        remedy = suggest(name, _zones(), otherwise="give an IANA name such as America/New_York")
        raise ConfigError("tz.unknown", "there is no IANA time zone of that name", remedy)
    return ZoneInfo(name)


def instant(text: str | None, name: str = "as_of") -> datetime | None:
    """Read an RFC 3339 time with its offset; ``name`` is what the parameter is called."""
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
    """Return the places of quantile levels among those a model was trained for; all if none are given."""
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
                "no model was trained for a quantile level that is asked for",
                _available(trained),
            )
        found[near[0]] = None
    return tuple(sorted(found)) or tuple(range(len(trained)))


def _available(trained: Sequence[float]) -> str:
    return f"available are {', '.join(f'{level:g}' for level in trained)}"


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())
