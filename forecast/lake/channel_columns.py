"""Which column of a table holds which channel: a name can change without a value being written again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from forecast.errors import ConfigError, NotFoundError, nearest

PROPERTY = "forecast.channels"
"""The property of the Delta table that keeps the names, as JSON; without it every column is a channel of its name."""


@dataclass(frozen=True, slots=True)
class ChannelNames:
    """The channels of one table."""

    used: Mapping[str, str]
    """Column by channel."""
    retired: Mapping[str, str]
    """Column by the name that the channel had."""

    @classmethod
    def of(cls, properties: Mapping[str, str], columns: Iterable[str]) -> Self:
        """Read the names from a table's properties."""
        text = properties.get(PROPERTY)
        return cls(**json.loads(text)) if text else cls({name: name for name in columns}, {})

    def property(self) -> dict[str, str]:
        """Return the table's property that says the same."""
        return {PROPERTY: json.dumps({"used": dict(self.used), "retired": dict(self.retired)})}

    def with_added(self, name: str, columns: Iterable[str]) -> Self:
        """Add a channel in a column that no other one has or had; a retired one gets back its own."""
        if name in self.used:
            raise ConfigError("lake.channel_exists", f'there is a channel "{name}" already')
        taken = {*columns} - {name} | {*self.used.values(), *self.retired.values()}
        free = next(each for each in (name, *(f"{name}_{n}" for n in range(2, len(taken) + 3))) if each not in taken)
        retired = {**self.retired}
        return replace(self, used={**self.used, name: retired.pop(name, free)}, retired=retired)

    def with_renamed(self, old: str, new: str) -> Self:
        """Give a channel another name."""
        column = self._column(old)
        if new in self.used or new in self.retired:
            state = "retired " if new in self.retired else ""
            raise ConfigError("lake.channel_exists", f'there is a {state}channel "{new}" already', "take another name")
        return replace(
            self, used={new if name == old else name: kept for name, kept in self.used.items()} or {new: column}
        )

    def with_retired(self, name: str) -> Self:
        """Take a channel out of use; its values stay."""
        column = self._column(name)
        used = {each: kept for each, kept in self.used.items() if each != name}
        return replace(self, used=used, retired={**self.retired, name: column})

    def require(self, channels: Iterable[str], table: str, dataset: str) -> None:
        """Refuse channels that the table does not have; the remedy is a command."""
        missing = sorted(set(channels) - set(self.used))
        if not missing:
            return
        retired = [name for name in missing if name in self.retired]
        message = f'"forecast channel add {dataset} {(retired or missing)[0]}"'
        raise ConfigError(
            "lake.channels_changed",
            f'the table "{table}" has no channel {", ".join(missing)}, which the job file names'
            + (f" ({', '.join(retired)} was retired)" if retired else ""),
            f"run {message} to take it up again"
            if retired
            else f'run {message}, or "forecast channel rename {dataset} OLD {missing[0]}" if it had another name',
        )

    def _column(self, name: str) -> str:
        if name not in self.used:
            raise NotFoundError("lake.no_channel", f'there is no channel "{name}"', nearest(name, self.used))
        return self.used[name]
