"""The expected dates of a schedule, by brute force over every wall time of every day.

It shares nothing with :mod:`forecast.config.cron` but the time zone database.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_MINUTE = timedelta(minutes=1)
_QUARTER = timedelta(minutes=15)
"""The offset of every current time zone is a multiple of this."""


def at_wall_times(hours: range, minute: int, zone: str, after: datetime, until: datetime) -> Mapping[str, datetime]:
    """Return the times in (after, until] of a schedule that names hours, by their wall times.

    A wall time that occurs twice counts once, at its first occurrence. A skipped one is due at the next valid time.
    """
    local = ZoneInfo(zone)
    found: dict[datetime, str] = {}
    day = after.astimezone(local).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    while day <= until.astimezone(local).replace(tzinfo=None):
        for hour in hours:
            wall = day.replace(hour=hour, minute=minute)
            while not _exists(wall, local):
                wall += _MINUTE
            due = wall.replace(tzinfo=local).astimezone(UTC)
            if after < due <= until:
                found[due] = wall.isoformat(timespec="minutes")
        day += timedelta(days=1)
    return {name: due for due, name in sorted(found.items())}


def every_hour(minute: int, zone: str, after: datetime, until: datetime) -> Mapping[str, datetime]:
    """Return the times in (after, until] at which the wall clock shows a minute, by wall time and offset."""
    local = ZoneInfo(zone)
    found = {}
    due = after.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    while due <= until:
        shown = due.astimezone(local)
        if due > after and shown.minute == minute:
            found[shown.isoformat(timespec="minutes")] = due
        due += _QUARTER
    return found


def _exists(wall: datetime, zone: ZoneInfo) -> bool:
    return wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) == wall
