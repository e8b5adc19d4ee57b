"""Public holidays by country or subdivision."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

import holidays

from forecast.errors import ConfigError, nearest


def holiday_calendar(place: str, years: Iterable[int]) -> tuple[date, ...]:
    """Return the holidays of a place such as ``US`` or ``US-NY`` in some years; none if ``place`` is empty.

    Raises ``holidays.unknown`` for an unknown country or subdivision.

    >>> holiday_calendar("US", [2013])[0].isoformat()
    '2013-01-01'
    """
    if not place:
        return ()
    country, _, subdivision = place.partition("-")
    known = holidays.list_supported_countries()
    if country not in known:
        raise ConfigError("holidays.unknown", f'country "{country}" has no known holidays', nearest(country, known))
    if subdivision and subdivision not in known[country]:
        raise ConfigError(
            "holidays.unknown", f'subdivision "{place}" has no known holidays', nearest(subdivision, known[country])
        )
    return tuple(sorted(holidays.country_holidays(country, subdiv=subdivision or None, years=tuple(years))))
