"""Cron schedules as every other cron reads them, and what local dates they stand for.

A schedule of fixed times (``30 2 * * *``) is read off the wall: the hour that autumn doubles counts once, a time that
spring skips is due at the next valid instant. One that goes on through the hours (``*/15 * * * *``, ``0 * * * *``)
follows the time that really passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_FIELDS = 5
_MINUTES, _HOURS = 60, 24
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron line of five fields in a zone; raises ValueError if it is none.

    >>> nightly = Cron("30 2 * * *", "Europe/Berlin")
    >>> spring = nightly.between(datetime(2024, 3, 30, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC))
    >>> [nightly.logical_date(due) for due in spring]
    ['2024-03-30T02:30', '2024-03-31T03:00']
    """

    text: str
    zone: str

    def __post_init__(self) -> None:
        if len(self.text.split()) != _FIELDS:
            count = len(self.text.split())
            message = (
                f'"{self.text}" has {count} fields, not the five of cron: minute, hour, day, month, day of the week'
            )
            raise ValueError(message)
        try:
            next(CronSim(self.text, datetime(2000, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            message = str(error).removeprefix("Bad ")
            message = f'the {message} of "{self.text}" is none; see "man 5 crontab"'
            raise ValueError(message) from error
        except StopIteration:
            message = f'"{self.text}" never comes'
            raise ValueError(message) from None

    @property
    def is_rolling(self) -> bool:
        """Whether it goes on through all hours instead of naming some."""
        return self.text.split()[1] == "*"

    def following(self, after: datetime) -> Iterator[datetime]:
        """Return every time after one, in UTC, in order, each once."""
        last = after.astimezone(UTC)
        if self.is_rolling:
            yield from self._through_all_hours(last)
            return
        for local in CronSim(self._written_out, last.astimezone(ZoneInfo(self.zone))):
            due = local.astimezone(UTC)
            # Begun within autumn's second hour, fixed times of the first come again; two of them may fall on one
            # instant where spring skips both.
            if due > last:
                last = due
                yield due

    def _through_all_hours(self, last: datetime) -> Iterator[datetime]:
        # cronsim steps over some minutes where the clock goes back by half an hour (Lord Howe): it is shown one fixed
        # offset at a time.
        begin, offset = last, _offset(last, self.zone)
        while True:
            for local in CronSim(self.text, last.astimezone(timezone(offset))):
                due = local.astimezone(UTC)
                if _offset(due, self.zone) != offset:
                    change = _change(begin, due, self.zone)
                    begin, last, offset = change, change - _MINUTE, _offset(change, self.zone)
                    break
                begin = last = due
                yield due
            else:
                return

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Return the times in (after, until]."""
        for due in self.following(after):
            if due > until:
                return
            yield due

    @property
    def _written_out(self) -> str:
        # cronsim counts real hours as soon as a field begins with a star: named hours are written out, so that it reads
        # them off the wall.
        minute, hour, *days = self.text.split()
        return " ".join((_list(minute, _MINUTES), _list(hour, _HOURS), *days))

    def logical_date(self, due: datetime) -> str:
        """Return what names one of its times: the wall time, with the offset if it goes on through the hours."""
        local = due.astimezone(ZoneInfo(self.zone))
        return (local if self.is_rolling else local.replace(tzinfo=None)).isoformat(timespec="minutes")


def _offset(time: datetime, zone: str) -> timedelta:
    return time.astimezone(ZoneInfo(zone)).utcoffset() or timedelta()


def _change(before: datetime, after: datetime, zone: str) -> datetime:
    """Return the first whole minute at which a zone has no longer the offset it had before."""
    first, low, high = _offset(before, zone), before.replace(second=0, microsecond=0), after
    while high - low > _MINUTE:
        middle = low + (high - low) // _MINUTE // 2 * _MINUTE
        low, high = (middle, high) if _offset(middle, zone) == first else (low, middle)
    return high


def _list(field: str, size: int) -> str:
    if not field.startswith("*"):
        return field
    steps = CronSim(f"{field} 0 1 1 *" if size == _MINUTES else f"0 {field} 1 1 *", datetime(2000, 1, 1, tzinfo=UTC))
    return ",".join(str(item) for item in sorted(steps.minutes if size == _MINUTES else steps.hours))
