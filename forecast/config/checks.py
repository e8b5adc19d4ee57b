"""What rows are checked for on their way in: every check by name, and what may be done about what it finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from forecast.errors import ConfigError, nearest
from forecast.vocabulary import Action

REJECT, QUARANTINE, REPAIR, WARN = Action.REJECT, Action.QUARANTINE, Action.REPAIR, Action.WARN


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that may be wrong."""

    message: str
    """What was found, as the receipt says it."""
    usual: Action
    """What is done about it where the job file does not say."""
    repair: str = ""
    """What the repair is; empty if there is none."""
    others: tuple[Action, ...] = (REJECT, QUARANTINE)
    """What else may be chosen."""

    @property
    def allowed(self) -> tuple[Action, ...]:
        """All actions that the job file may name."""
        repairs = (REPAIR,) if self.repair else ()
        return tuple(dict.fromkeys((self.usual, *repairs, *self.others)))


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        # Rows: keys and times.
        "unreadable_file": Check("files that cannot be read", QUARANTINE, others=(REJECT,)),
        "unknown_channel": Check("channels that the job file does not name", WARN, others=(REJECT,)),
        "null_key": Check("rows without a series or a time", QUARANTINE),
        "malformed_series": Check("names of series with control characters, or longer than 200", QUARANTINE),
        "unknown_series": Check("rows of series that known_series does not name", QUARANTINE, others=(REJECT, WARN)),
        "malformed_time": Check("cells that are no time", QUARANTINE),
        "implausible_time": Check("times before 1900 or after 2200", QUARANTINE),
        "malformed_version": Check("cells that are no version: neither a time nor a whole number", QUARANTINE),
        "off_grid": Check("times off the grid of the frequency", QUARANTINE, "moved to the nearest step"),
        "doubled_hour": Check(
            "local times that autumn's clock change doubles", REPAIR, "read as doubled_hour says"
        ),
        "missing_hour": Check(
            "local times that spring's clock change skips", QUARANTINE, "read by the clock before the change"
        ),
        "in_the_future": Check("rows of the future", QUARANTINE, others=(REJECT, WARN)),
        "unordered": Check("rows that come before an earlier one of their series", WARN, others=(REJECT,)),
        "repeated": Check("rows that repeat another one in every column", REPAIR, "taken once"),
        "conflicting": Check(
            "rows with the series and time of another one, but other values",
            REPAIR,
            "the newest version stays, without versions the one that source.conflicts says",
        ),
        # Values.
        "not_a_number": Check("cells that are no number", QUARANTINE, "became missing"),
        "not_finite": Check("values that are not finite", REPAIR, "became missing"),
        "sentinel": Check("values by which the source says that it has none", REPAIR, "became missing"),
        "out_of_range": Check(
            "values outside the channel's bounds", REPAIR, "became missing, or moved to the bound where clip is set",
            (REJECT, QUARANTINE, WARN),
        ),
        # Whole channels and series.
        "frequency": Check("series whose steps are not of the frequency", WARN, others=(REJECT,)),
        "empty_channel": Check("channels without any value", WARN, others=(REJECT,)),
        "series_missing": Check("series that came before and are missing now", WARN, others=(REJECT,)),
        "flat_line": Check("values in long runs of one and the same", WARN, "became missing", (REJECT,)),
        "spike": Check("values far from both neighbours", WARN, "became missing", (REJECT,)),
        "level_jump": Check("places where the level of a channel jumps", WARN, others=(REJECT,)),
    }
)  # fmt: skip
"""By name; the code of a finding or error is ``ingest.`` and the name."""


def action(name: str, chosen: Mapping[str, Action]) -> Action:
    """Return what is done about what a check finds.

    >>> action("repeated", {}).value, action("repeated", {"repeated": Action.REJECT}).value
    ('repair', 'reject')
    """
    return chosen.get(name, CHECKS[name].usual)


def mistakes(chosen: Mapping[str, Action]) -> Iterator[ConfigError]:
    """Yield what is wrong with the actions that a job file chooses."""
    for name, wanted in chosen.items():
        if name not in CHECKS:
            yield ConfigError("check.unknown", f'there is no check "{name}"', nearest(name, CHECKS))
        elif wanted not in CHECKS[name].allowed:
            allowed = ", ".join(CHECKS[name].allowed)
            yield ConfigError("check.action", f'"{wanted}" is nothing to do about "{name}"', f"choose from: {allowed}")
