"""A writer may die, or the power may fail, between any two steps: what was acknowledged is there, whole and once."""

import itertools
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fsspec.implementations.local import LocalFileSystem

from forecast.errors import ConfigError, NotFoundError
from forecast.lake.observations import Observations
from forecast.lake.quarantine import Quarantine
from forecast.lake.schemas import TIME
from forecast.vocabulary import Conflicts

START = datetime(2024, 1, 31, 12, tzinfo=UTC)
FUTURE = datetime(2200, 1, 1, tzinfo=UTC)


def table(folder: Path, channels: tuple[str, ...] = ("load",)) -> Observations:
    (folder / "locks").mkdir(exist_ok=True, parents=True)
    return Observations(folder / "lake", folder / "locks", "tiny", channels)


def rows(first: int, last: int, load: float = 1.0, version: int | None = None) -> pl.DataFrame:
    times = [START + timedelta(hours=hour) for hour in range(first, last)]
    return pl.DataFrame(
        {
            "series": ["east"] * len(times),
            "time": times,
            "version": [version] * len(times),
            "load": [load] * len(times),
        },
        schema={"series": pl.String, "time": TIME, "version": pl.Int64, "load": pl.Float64},
    )


def state(observations: Observations) -> pl.DataFrame | None:
    return observations.read() if observations.exists else None


def same(one: pl.DataFrame | None, other: pl.DataFrame | None) -> bool:
    return one is other or (one is not None and other is not None and one.equals(other))


class DiedError(BaseException):
    """What a process that is killed raises nowhere."""


def dies(step: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Act, but die before one step of those that change the disk, counted from 0; whether there was that step."""
    steps = itertools.count()

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def mortal(*arguments: Any, **options: Any) -> Any:
            if next(steps) == step:
                raise DiedError
            return change(*arguments, **options)

        return mortal

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(Path, "replace", counted(Path.replace))
        for name in ("rm_file", "cp_file"):
            patch.setattr(LocalFileSystem, name, counted(getattr(LocalFileSystem, name)))
        try:
            act()
        except DiedError:
            return True
    return False


def once(change: Callable[[], object]) -> object:
    """Give a command that may have been done already."""
    try:
        return change()
    except (ConfigError, NotFoundError) as error:
        return error


ACTS: dict[str, Callable[[Observations], object]] = {
    "a first merge": lambda each: each.merge(rows(0, 30)),
    "a merge": lambda each: each.merge(rows(20, 50, load=2.0)),
    "a merge with a first version": lambda each: each.merge(rows(20, 50, load=2.0, version=1)),
    "a merge of outdated rows": lambda each: each.merge(rows(0, 10, load=7.0), conflicts=Conflicts.DIGEST),
    "adding a channel": lambda each: once(lambda: each.add_channel("sun")),
    "renaming a channel": lambda each: once(lambda: each.rename_channel("wind", "gusts")),
    "maintenance": lambda each: each.maintain(timedelta(0), FUTURE),
}


@pytest.mark.slow
@pytest.mark.parametrize("named", ACTS)
def test_a_writer_may_die_before_any_step(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecast.lake.acknowledgement._CHECKPOINT_EVERY", 4)
    act, original, done = ACTS[named], table(tmp_path / "original"), table(tmp_path / "done")
    if named != "a first merge":
        original.merge(rows(0, 30, version=1 if "outdated" in named else None))
        original.merge(rows(30, 40))
        original.add_channel("wind")
        shutil.copytree(tmp_path / "original", tmp_path / "done", dirs_exist_ok=True)
    before = state(original)
    act(done)
    after, names = done.read(), done._names(done._open(done.version))
    for step in itertools.count():
        folder = tmp_path / f"step {step}"
        shutil.copytree(tmp_path / "original", folder)
        if not dies(step, lambda: act(table(folder)), monkeypatch):  # noqa: B023  # called here
            break
        survivor = table(folder)
        assert any(same(state(survivor), each) for each in (before, after))
        assert survivor.check().damages == ()
        act(survivor)
        assert survivor.read().equals(after)
        assert survivor._names(survivor._open(survivor.version)) == names
        lost = survivor.superseded().drop("recorded_at")
        assert lost.equals(done.superseded().drop("recorded_at"))
    assert step > 6


# --- power cuts -------------------------------------------------------------------------------------------------------


class Disk:
    """What of a folder's files would be there after a power cut: what was flushed, and of the rest what chance leaves.

    A file's content is safe once it is flushed, its name once its folder is. What is not safe is lost or torn.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[int, bytes] = {}
        self._names: dict[Path, int] = {}
        self.cuts: list[tuple[dict[Path, bytes], dict[Path, bytes], int]] = []
        self.acknowledged = 0

    def flushed(self, path: Path) -> None:
        """Note what a flush of a file or a folder makes safe, and how a power cut just before it would have been."""
        present = {each: each.stat().st_ino for each in self._root.rglob("*") if each.is_file()}
        strict = {each: self._contents.get(inode, b"") for each, inode in self._names.items()}
        lucky = {
            each: self._contents.get(inode, each.read_bytes()[: 40 * len(each.name) % 700])
            for each, inode in present.items()
        }
        self.cuts.append((strict, lucky, self.acknowledged))
        if path.is_file():
            self._contents[path.stat().st_ino] = path.read_bytes()
        else:
            inside = {each: inode for each, inode in present.items() if each.parent == path}
            self._names = {each: inode for each, inode in self._names.items() if each.parent != path} | inside


def test_power_may_fail_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecast.lake.acknowledgement._CHECKPOINT_EVERY", 3)
    disk = Disk(tmp_path / "home")
    flush = os.fsync

    def noted(descriptor: int) -> None:
        disk.flushed(Path(f"/proc/self/fd/{descriptor}").readlink())
        flush(descriptor)

    observations = table(tmp_path / "home")
    batches = [rows(10 * number, 10 * number + 15, load=float(number)) for number in range(5)]
    states: list[pl.DataFrame | None] = [None]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", noted)
        for number, batch in enumerate(batches):
            observations.merge(batch)
            disk.acknowledged += 1
            states.append(observations.read())
            if number == 2:
                observations.maintain(timedelta(0), FUTURE)
    after = observations.read()
    assert len(disk.cuts) > 50
    torn = 0
    for number, (strict, lucky, acknowledged) in enumerate(disk.cuts):
        for kind, files in (("strict", strict), ("lucky", lucky)):
            home = tmp_path / f"{kind} {number}"
            for path, content in files.items():
                target = home / path.relative_to(tmp_path / "home")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            survivor = table(home)
            allowed = states[acknowledged : acknowledged + 2]  # what was acknowledged, and perhaps the next batch
            assert any(same(state(survivor), each) for each in allowed), (kind, number)
            codes = {damage.code for damage in survivor.check().damages}
            assert codes <= {"lake.torn_tail"}
            torn += bool(codes)
            for batch in batches[max(acknowledged - 1, 0) :]:  # a careful client sends the last one again
                survivor.merge(batch)
            assert survivor.read().equals(after)
            shutil.rmtree(home)
    assert torn


def test_a_quarantine_may_be_interrupted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = pl.DataFrame(
        [("a.csv", 1, "flat_line", "message", "east", "2024", "{}")],
        schema=["source", "row", "code", "reason", "series", "time", "content"],
        orient="row",
    )
    (tmp_path / "locks").mkdir()
    quarantine = Quarantine(tmp_path / "lake", tmp_path / "locks", "tiny")
    for step in itertools.count():
        if not dies(step, lambda: quarantine.append(aside), monkeypatch):
            break
    assert len(quarantine.read()) == 1
    assert quarantine.append(aside) == 0
