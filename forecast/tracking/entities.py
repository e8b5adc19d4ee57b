"""Value types handed to the tracking server; this module does not need MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

DARTS: Final = "darts"
"""Folder beside a model's files that holds the trained darts model until it is logged."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Lineage of a run: the rows of a Delta table that it read."""

    name: str
    digest: str
    """SHA-256 of the rows; MLflow keeps its first 36 characters."""
    table: str
    """Location of the table."""
    version: int
    columns: Sequence[str]
    context: Literal["training", "evaluation"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a model's input or output rows."""

    name: str
    kind: str
    """MLflow's type name: ``string``, ``double``, ``integer``."""
    required: bool = True


@dataclass(frozen=True, slots=True)
class Application:
    """A pyfunc model, which maps rows to rows: its data files, and the code that loads them."""

    loader: str
    """Module whose ``_load_pyfunc`` loads the model from ``data``."""
    data: Path
    code: Sequence[Path]
    """Packages that are copied into the model."""
    requirements: Sequence[str]
    inputs: Sequence[Column]
    outputs: Sequence[Column]
    parameters: Mapping[str, int]
    """Defaults by name."""
    example: Any
    """A pandas frame of ``inputs``."""
