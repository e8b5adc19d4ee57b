"""Cron schedules with standard semantics, and the local dates that they stand for.

Fixed times (``30 2 * * *``) are wall times: the hour that autumn doubles counts once, and a time that spring skips is
due at the next valid instant. Rolling schedules (``*/15 * * * *``, ``0 * * * *``) follow elapsed time.
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
    """A cron expression of five fields in a time zone; raises ``ValueError`` if it is invalid.

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
                f'cron expression "{self.text}" has {count} fields instead of five: '
                "minute, hour, day, month, day of the week"
            )
            raise ValueError(message)
        try:
            next(CronSim(self.text, datetime(2000, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            field = str(error).removeprefix("Bad ")
            message = f'invalid {field} in cron expression "{self.text}"; see "man 5 crontab"'
            raise ValueError(message) from error
        except StopIteration:
            message = f'cron expression "{self.text}" matches no date'
            raise ValueError(message) from None

    @property
    def is_rolling(self) -> bool:
        """Whether it runs in every hour, so that it follows elapsed time and not the wall clock."""
        return self.text.split()[1] == "*"

    def following(self, after: datetime) -> Iterator[datetime]:
        """Yield every due time after ``after``, in UTC, ascending, each once."""
        last = after.astimezone(UTC)
        if self.is_rolling:
            yield from self._through_all_hours(last)
            return
        for local in CronSim(self._written_out, last.astimezone(ZoneInfo(self.zone))):
            due = local.astimezone(UTC)
            # cronsim repeats the first hour's fixed times if it starts within autumn's second one. Where spring skips
            # two times, both may fall on one instant.
            if due > last:
                last = due
                yield due

    def _through_all_hours(self, last: datetime) -> Iterator[datetime]:
        # cronsim skips some minutes where the clock goes back by half an hour (Lord Howe), so it gets one fixed offset
        # at a time.
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
        """Yield the due times in (after, until]."""
        for due in self.following(after):
            if due > until:
                return
            yield due

    @property
    def _written_out(self) -> str:
        # cronsim counts elapsed hours as soon as a field begins with a star. Listing the hours makes it use wall times.
        minute, hour, *days = self.text.split()
        return " ".join((_list(minute, _MINUTES), _list(hour, _HOURS), *days))

    def logical_date(self, due: datetime) -> str:
        """Return the unique name of a due time: its wall time, with the UTC offset if the schedule is rolling."""
        local = due.astimezone(ZoneInfo(self.zone))
        return (local if self.is_rolling else local.replace(tzinfo=None)).isoformat(timespec="minutes")


def _offset(time: datetime, zone: str) -> timedelta:
    return time.astimezone(ZoneInfo(zone)).utcoffset() or timedelta()


def _change(before: datetime, after: datetime, zone: str) -> datetime:
    """Return the first whole minute after ``before`` at which the zone's UTC offset differs, by bisection."""
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
