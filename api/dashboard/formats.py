"""Formats of times, durations and numbers on the pages."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, tzinfo


def span(steps: int, step: timedelta) -> str:
    """Format the duration of some steps.

    >>> span(168, timedelta(hours=1)), span(5, timedelta(minutes=15)), span(24, timedelta(hours=1))
    ('7 days', '75 minutes', '1 day')
    """
    total = step * steps
    for unit, name in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute")):
        if total >= unit and total % unit == timedelta(0):
            number = total // unit
            return f"{number} {name}{'' if number == 1 else 's'}"
    return f"{total.total_seconds():g} seconds"


def age(time: timedelta) -> str:
    """Format an age or a duration in its largest units.

    >>> age(timedelta(minutes=90)), age(timedelta(days=3)), age(timedelta(seconds=5))
    ('1 h 30 min', '3 d 0 h', '5 s')
    """
    seconds = max(int(time.total_seconds()), 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def local_time(time: datetime, zone: tzinfo) -> str:
    """Format a time in a zone, with year and zone."""
    return f"{time.astimezone(zone):%a %d %b %Y %H:%M %Z}"


def short(time: datetime, zone: tzinfo) -> str:
    """Format a time in a zone, without year and zone.

    >>> from datetime import UTC
    >>> short(datetime(2024, 1, 2, 3, 4, tzinfo=UTC), UTC)
    'Tue 2 Jan 03:04'
    """
    return f"{time.astimezone(zone):%a} {time.astimezone(zone).day} {time.astimezone(zone):%b %H:%M}"


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with ``digits`` significant digits; an exponent only for tiny numbers, "-" for a missing one.

    >>> number(1234.56), number(0.01234), number(12.0), number(None), number(0)
    ('1,235', '0.0123', '12.0', '-', '0')
    """
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(places, 0)}f}" if places < 8 else f"{value:.{digits - 1}e}"


def percent(value: float | None, digits: int = 0) -> str:
    """Format a share as a percentage.

    >>> percent(0.8123, 1), percent(None)
    ('81.2%', '-')
    """
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}%}"


def signed(value: float | None, digits: int = 1) -> str:
    """Format a gain as a signed percentage.

    >>> signed(0.123), signed(-0.5)
    ('+12.3%', '-50.0%')
    """
    return "-" if value is None or not math.isfinite(value) else f"{value:+.{digits}%}"


def count(many: int, noun: str) -> str:
    """Format a number with its noun, in the plural if needed.

    >>> count(1, "row"), count(1200, "row"), count(0, "run"), count(2, "series")
    ('1 row', '1,200 rows', 'no runs', '2 series')
    """
    plural = noun if many == 1 or noun.endswith("s") else f"{noun}s"
    return f"{many:,} {plural}" if many else f"no {plural}"
