"""The checks of ingestion by name, and the actions that a config may choose for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from forecast.errors import ConfigError, nearest
from forecast.vocabulary import Action

REJECT, QUARANTINE, REPAIR, WARN = Action.REJECT, Action.QUARANTINE, Action.REPAIR, Action.WARN


@dataclass(frozen=True, slots=True)
class Check:
    """One check: the problem it finds and the actions allowed on it."""

    message: str
    """The problem, as the receipt states it."""
    usual: Action
    """The default action."""
    repair: str = ""
    """The repair; empty if the check has none."""
    others: tuple[Action, ...] = (REJECT, QUARANTINE)
    """The other actions that a config may choose."""

    @property
    def allowed(self) -> tuple[Action, ...]:
        """All actions that the config file may choose."""
        repairs = (REPAIR,) if self.repair else ()
        return tuple(dict.fromkeys((self.usual, *repairs, *self.others)))


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        # Rows: keys and times.
        "unreadable_file": Check("files that cannot be read", QUARANTINE, others=(REJECT,)),
        "unknown_channel": Check("channels that the config file does not name", WARN, others=(REJECT,)),
        "null_key": Check("rows without a series or a time", QUARANTINE),
        "malformed_series": Check("series names with control characters, or over 200 characters", QUARANTINE),
        "unknown_series": Check("rows of series that known_series does not name", QUARANTINE, others=(REJECT, WARN)),
        "malformed_time": Check("cells that are not a valid time", QUARANTINE),
        "implausible_time": Check("times before 1900 or after 2200", QUARANTINE),
        "malformed_version": Check("cells that are not a valid version: neither a time nor a whole number", QUARANTINE),
        "off_grid": Check("times off the grid of the frequency", QUARANTINE, "moved to the nearest step"),
        "doubled_hour": Check(
            "local times that autumn's clock change doubles", REPAIR, "read as doubled_hour says"
        ),
        "missing_hour": Check(
            "local times that spring's clock change skips", QUARANTINE, "read by the clock before the change"
        ),
        "in_the_future": Check("rows in the future", QUARANTINE, others=(REJECT, WARN)),
        "unordered": Check("rows that are out of time order within their series", WARN, others=(REJECT,)),
        "repeated": Check("rows that repeat another one in every column", REPAIR, "kept once"),
        "conflicting": Check(
            "rows with the series and time of another one but other values",
            REPAIR,
            "the newest version stays; without versions, source.conflicts decides",
        ),
        # Values.
        "not_a_number": Check("cells that are not a number", QUARANTINE, "became missing"),
        "not_finite": Check("values that are not finite", REPAIR, "became missing"),
        "sentinel": Check("values that stand for a missing one in the source", REPAIR, "became missing"),
        "out_of_range": Check(
            "values outside the channel's bounds", REPAIR, "became missing, or clipped to the bound where clip is set",
            (REJECT, QUARANTINE, WARN),
        ),
        # Whole channels and series.
        "frequency": Check("series whose steps differ from the frequency", WARN, others=(REJECT,)),
        "empty_channel": Check("channels without any value", WARN, others=(REJECT,)),
        "series_missing": Check("series that earlier batches had and this one lacks", WARN, others=(REJECT,)),
        "flat_line": Check("long runs of one constant value", WARN, "became missing", (REJECT,)),
        "spike": Check("values far from both neighbours", WARN, "became missing", (REJECT,)),
        "level_jump": Check("places where the level of a channel jumps", WARN, others=(REJECT,)),
    }
)  # fmt: skip
"""By name; the code of a finding or error is ``ingest.`` followed by the name."""


def action(name: str, chosen: Mapping[str, Action]) -> Action:
    """Return the action of a check: the one that the config chooses, else the default.

    >>> action("repeated", {}).value, action("repeated", {"repeated": Action.REJECT}).value
    ('repair', 'reject')
    """
    return chosen.get(name, CHECKS[name].usual)


def mistakes(chosen: Mapping[str, Action]) -> Iterator[ConfigError]:
    """Yield an error for each unknown check and each action that its check does not allow."""
    for name, wanted in chosen.items():
        if name not in CHECKS:
            yield ConfigError("check.unknown", f'check "{name}" does not exist', nearest(name, CHECKS))
        elif wanted not in CHECKS[name].allowed:
            allowed = ", ".join(CHECKS[name].allowed)
            yield ConfigError(
                "check.action", f'"{wanted}" is not a valid action of check "{name}"', f"choose from: {allowed}"
            )
