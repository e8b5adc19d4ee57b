"""Cron schedules as every other cron reads them, and what local dates they stand for.

A schedule of fixed times (``30 2 * * *``) is read off the wall: the hour that autumn doubles counts once, a time that
spring skips is due at the next valid instant. One that goes on through the hours (``*/15 * * * *``, ``0 * * * *``)
follows the time that really passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_FIELDS = 5
_MINUTES, _HOURS = 60, 24


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
            told = str(error).removeprefix("Bad ")
            message = f'the {told} of "{self.text}" is none; see "man 5 crontab"'
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
        for local in CronSim(self._written_out, last.astimezone(ZoneInfo(self.zone))):
            due = local.astimezone(UTC)
            # Begun within autumn's second hour, fixed times of the first come again; two of them may fall on one
            # instant where spring skips both.
            if due > last:
                last = due
                yield due

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Return the times in (after, until]."""
        for due in self.following(after):
            if due > until:
                return
            yield due

    @property
    def _written_out(self) -> str:
        # cronsim counts real hours as soon as a field begins with a star, and where the clock changes by half an hour
        # (Lord Howe) it then steps over some: named hours are written out, so that it reads them off the wall.
        minute, hour, *days = self.text.split()
        if not self.is_rolling:
            minute, hour = _list(minute, _MINUTES), _list(hour, _HOURS)
        return " ".join((minute, hour, *days))

    def logical_date(self, due: datetime) -> str:
        """Return what names one of its times: the wall time, with the offset if it goes on through the hours."""
        local = due.astimezone(ZoneInfo(self.zone))
        return (local if self.is_rolling else local.replace(tzinfo=None)).isoformat(timespec="minutes")


def _list(field: str, size: int) -> str:
    if not field.startswith("*"):
        return field
    steps = CronSim(f"{field} 0 1 1 *" if size == _MINUTES else f"0 {field} 1 1 *", datetime(2000, 1, 1, tzinfo=UTC))
    return ",".join(str(item) for item in sorted(steps.minutes if size == _MINUTES else steps.hours))
