"""Cron schedules as every other cron reads them: in the fifth field 0 and 7 are Sunday.

APScheduler's own ``from_crontab`` counts that field from Monday, and would train a night late without a word.
"""

from __future__ import annotations

import re
from datetime import tzinfo

from apscheduler.triggers.cron import CronTrigger

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(
    r"(?:(?P<all>\*)|(?P<first>[0-7]|[a-z]{3})(?:-(?P<last>[0-7]|[a-z]{3}))?)(?:/(?P<step>[1-9][0-9]?))?"
)


def cron_trigger(text: str, zone: tzinfo | str) -> CronTrigger:
    """Return the trigger of a cron line of five fields, in wall times of a zone; raises ValueError if it is none.

    >>> cron_trigger("30 2 * * 0", "UTC")
    <CronTrigger (month='*', day='*', day_of_week='sun', hour='2', minute='30', timezone='UTC')>
    """
    fields = text.split()
    if len(fields) != 5:
        message = f'"{text}" has {len(fields)} fields, not the five of cron: minute, hour, day, month, day of the week'
        raise ValueError(message)
    minute, hour, day, month, weekday = fields
    return CronTrigger(minute=minute, hour=hour, day=day, month=month, day_of_week=_named_days(weekday), timezone=zone)


def _named_days(field: str) -> str:
    if field == "*":
        return field
    days = {day for part in field.lower().split(",") for day in _days(part)}
    return ",".join(_DAYS[day] for day in sorted(days))


def _days(part: str) -> list[int]:
    """Return the days, 0 for Sunday, of one part of the field: ``1``, ``mon-fri``, ``*/2``, ``5-7``."""
    match = _PART.fullmatch(part)
    if match is None:
        raise _no_day(part)
    step = int(match["step"] or 1)
    if match["all"]:
        return list(range(0, 7, step))
    first = _number(match["first"])
    last = _number(match["last"]) if match["last"] else (6 if match["step"] else first)
    if last < first:
        if match["last"] != "sun":
            raise _no_day(part)
        last = 7  # "fri-sun": a week may end with its Sunday
    return [day % 7 for day in range(first, last + 1, step)]


def _number(day: str) -> int:
    if day.isdecimal():
        return int(day)
    if day not in _DAYS:
        raise _no_day(day)
    return _DAYS.index(day)


def _no_day(text: str) -> ValueError:
    return ValueError(f'"{text}" is not a day of the week; write 0 to 7 (0 and 7 are Sunday) or sun to sat')
