"""The log of a Delta table: list its files, read one commit, and find out whether a commit is torn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

from forecast.lake.checksums import Digests
from forecast.lake.storage import Folder

FOLDER: Final = "_delta_log"
HINT: Final = f"{FOLDER}/_last_checkpoint"
# Key of our own metadata in a commit, next to Delta's fields.
_OURS: Final = "forecast"


@dataclass(frozen=True, slots=True)
class Commit:
    """The log of one version."""

    recorded_at: datetime
    added: Mapping[str, int]
    """Bytes of each added data file, by name."""
    written: Mapping[str, str]
    """SHA-256 of the data files that were flushed before the commit, by name."""
    is_whole: bool
    """Whether the log has as many add and remove actions as the commit's metadata counts."""


def metadata(recorded_at: datetime, written: Mapping[str, str], actions: int) -> dict[str, Any]:
    """Return the metadata of a commit, by which a torn one is recognised; see :class:`Commit`."""
    return {_OURS: {"recordedAt": recorded_at.isoformat(), "sha256": dict(written), "actions": actions}}


class DeltaLog:
    """The log of one table."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def versions(self) -> list[int]:
        """Return the versions that have a log, in order, acknowledged or not."""
        return self.listing()[0]

    def checkpoints(self) -> dict[int, list[str]]:
        """Return the names of the checkpoint files by version."""
        return self.listing()[1]

    def listing(self) -> tuple[list[int], dict[int, list[str]], bool]:
        """Return the versions that have a log, the checkpoint files by version, and whether Delta's hint exists."""
        versions: list[int] = []
        checkpoints: dict[int, list[str]] = {}
        names = self._folder.names(FOLDER)
        for name in names:
            stem, _, rest = name.partition(".")
            if not stem.isdecimal():
                continue
            if rest == "json":
                versions.append(int(stem))
            elif rest.startswith("checkpoint"):
                checkpoints.setdefault(int(stem), []).append(f"{FOLDER}/{name}")
        return versions, checkpoints, HINT.rpartition("/")[2] in names

    def commit(self, version: int) -> Commit:
        """Read one version's log; raises ``ValueError`` if it is torn."""
        lines = self._folder.read(name_of(version)).decode().splitlines()
        actions: list[dict[str, Any]] = [json.loads(line) for line in lines]
        info = next((action["commitInfo"] for action in actions if "commitInfo" in action), None)
        if info is None:
            message = "no commit information"
            raise ValueError(message)
        ours = info.get(_OURS, {})
        counted = sum("add" in action or "remove" in action for action in actions)
        return Commit(
            recorded_at=(
                datetime.fromisoformat(ours["recordedAt"])
                if ours
                else datetime.fromtimestamp(info["timestamp"] / 1000, UTC)
            ),
            added={unquote(action["add"]["path"]): action["add"]["size"] for action in actions if "add" in action},
            written=ours.get("sha256", {}),
            is_whole=counted == ours.get("actions", counted) and len(actions) > 1,
        )

    def tear(self, version: int, digests: Digests) -> str:
        """Describe what is missing of an unacknowledged version; empty if it is complete."""
        try:
            commit = self.commit(version)
        except (ValueError, KeyError, TypeError, AttributeError):
            return "its log is torn"
        if not commit.is_whole:
            return "its log is torn"
        torn = {name for name, size in commit.added.items() if self._folder.size(name) != size}
        torn |= {name for name, _ in digests.damaged(commit.written)}
        return f"{', '.join(sorted(torn))} did not reach the disk" if torn else ""


def name_of(version: int) -> str:
    """Return the name of a version's log."""
    return f"{FOLDER}/{version:020d}.json"


def in_log(names: Iterable[str]) -> list[str]:
    """Return the names that belong to the log."""
    return [name for name in names if name.startswith(f"{FOLDER}/")]
