"""Cells and rows: a cell is one training, and its result is one row of a CSV file."""

import csv
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """The settings of one training."""

    dataset: str
    model: str
    preset: str
    lookback: int
    horizon: int
    seed: int

    def __str__(self) -> str:
        return f"{self.model}/{self.preset} L{self.lookback} H{self.horizon} seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Row:
    """A finished cell; errors on scaled data."""

    cell: Cell
    mse: float
    mae: float
    windows: int
    """Test windows scored."""
    val_mse: float
    """MSE on the validation windows, with the scored weights."""
    val_mae: float
    best_epoch: int
    """The epoch of the kept weights, from 1; 0 for models without epochs."""
    epochs: int
    seconds: float
    threads: int
    torch: str
    commit: str
    date: str

    def flat(self) -> dict[str, Any]:
        """Return the row as columns of the file."""
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "cell"}
        shown = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in own.items()}
        return asdict(self.cell) | shown

    @classmethod
    def parse(cls, columns: dict[str, str]) -> Self:
        """Read one line of the file."""
        texts = dict(columns)
        cell = {entry.name: entry.type(texts.pop(entry.name)) for entry in fields(Cell)}  # type: ignore[operator]
        own = {name: _TYPES[name](text) for name, text in texts.items()}
        return cls(Cell(**cell), **own)


_TYPES: dict[str, Any] = {entry.name: entry.type for entry in fields(Row)}


def read_rows(path: Path) -> dict[Cell, Row]:
    """Read the finished cells; for a repeated cell the latest row counts."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [Row.parse(columns) for columns in csv.DictReader(file)]
    return {row.cell: row for row in rows}


def add_row(path: Path, row: Row) -> None:
    """Add a row, or replace the row of the same cell; concurrent processes wait for each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(path.parent):
        _write_rows(path, {**read_rows(path), row.cell: row}.values())


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)  # locks the folder itself, so that no lock file lies beside the results
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # releases the lock, also if the process dies


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write all rows, sorted by cell; readers see the old file or the new one."""
    names = [entry.name for entry in fields(Cell)] + [entry.name for entry in fields(Row) if entry.name != "cell"]
    beside = path.with_suffix(".part")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.flat() for row in sorted(rows, key=lambda row: row.cell))
    beside.replace(path)
