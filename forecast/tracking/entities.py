"""What is handed to the tracking server beside numbers and text; nothing here needs MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

DARTS: Final = "darts"
"""Folder beside a model's files in which the trained darts model waits until it is handed over."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Rows of a Delta table that a run read."""

    name: str
    digest: str
    """SHA-256 of what was read; MLflow keeps its first 36 characters."""
    table: str
    """Where the table lies."""
    version: int
    columns: Sequence[str]
    context: Literal["training", "evaluation"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a model's rows."""

    name: str
    kind: str
    """As MLflow calls it: ``string``, ``double``, ``integer``."""
    required: bool = True


@dataclass(frozen=True, slots=True)
class Application:
    """A model that answers rows with rows: its data, and the code that reads them."""

    loader: str
    """Module whose ``_load_pyfunc`` makes the model of ``data``."""
    data: Path
    code: Sequence[Path]
    """Packages that are copied with it."""
    requirements: Sequence[str]
    inputs: Sequence[Column]
    outputs: Sequence[Column]
    parameters: Mapping[str, int]
    """Defaults by name."""
    example: Any
    """A pandas frame of ``inputs``."""
