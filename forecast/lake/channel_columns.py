"""Which column of a table holds which channel, so that a channel can be renamed without rewriting its values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from forecast.errors import ConfigError, NotFoundError, nearest

PROPERTY = "forecast.channels"
"""Property of the Delta table that stores the names as JSON; without it each column is the channel of its name."""


@dataclass(frozen=True, slots=True)
class ChannelNames:
    """The channels of one table and their columns.

    >>> names = ChannelNames.of({}, ["load", "price"]).with_renamed("load", "demand")
    >>> names.used
    {'demand': 'load', 'price': 'price'}
    """

    used: Mapping[str, str]
    """Column by channel."""
    retired: Mapping[str, str]
    """Column by the former name of a retired channel."""

    @classmethod
    def of(cls, properties: Mapping[str, str], columns: Iterable[str]) -> Self:
        """Read the names from a table's properties."""
        text = properties.get(PROPERTY)
        return cls(**json.loads(text)) if text else cls({name: name for name in columns}, {})

    def property(self) -> dict[str, str]:
        """Return the names as the table's property."""
        return {PROPERTY: json.dumps({"used": dict(self.used), "retired": dict(self.retired)})}

    def with_added(self, name: str, columns: Iterable[str]) -> Self:
        """Add a channel, in a column that no other channel has or had; a retired one gets its column back."""
        if name in self.used:
            raise ConfigError("lake.channel_exists", f'the channel "{name}" already exists')
        taken = {*columns} - {name} | {*self.used.values(), *self.retired.values()}
        free = next(each for each in (name, *(f"{name}_{n}" for n in range(2, len(taken) + 3))) if each not in taken)
        retired = {**self.retired}
        return replace(self, used={**self.used, name: retired.pop(name, free)}, retired=retired)

    def with_renamed(self, old: str, new: str) -> Self:
        """Rename a channel."""
        column = self._column(old)
        if new in self.used or new in self.retired:
            state = "retired " if new in self.retired else ""
            raise ConfigError("lake.channel_exists", f'the {state}channel "{new}" already exists', "use another name")
        return replace(
            self, used={new if name == old else name: kept for name, kept in self.used.items()} or {new: column}
        )

    def with_retired(self, name: str) -> Self:
        """Retire a channel; its values stay."""
        column = self._column(name)
        used = {each: kept for each, kept in self.used.items() if each != name}
        return replace(self, used=used, retired={**self.retired, name: column})

    def require(self, channels: Iterable[str], table: str, dataset: str) -> None:
        """Raise ``lake.channels_changed`` for a channel that the table lacks; the remedy is a command."""
        missing = sorted(set(channels) - set(self.used))
        if not missing:
            return
        retired = [name for name in missing if name in self.retired]
        command = f'"forecast channel add {dataset} {(retired or missing)[0]}"'
        raise ConfigError(
            "lake.channels_changed",
            f'the table "{table}" has no channel {", ".join(missing)}, which the config file names'
            + (f" ({', '.join(retired)} was retired)" if retired else ""),
            f"run {command} to use it again"
            if retired
            else f'run {command}, or "forecast channel rename {dataset} OLD {missing[0]}" if it was renamed',
        )

    def _column(self, name: str) -> str:
        if name not in self.used:
            raise NotFoundError("lake.no_channel", f'the channel "{name}" does not exist', nearest(name, self.used))
        return self.used[name]
