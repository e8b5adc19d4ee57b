"""Checkpoints to resume from and weights to start from, read without executing any code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from forecast.errors import first_line
from models.darts.bridge import read_checkpoint
from pipelines.training.callbacks import TrainingCallback

UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, BadZipFile)
"""Errors of reading a checkpoint that is damaged or was written by another release."""


def save_weights(model: Any, path: Path) -> None:
    """Write the weights of a darts model as safetensors, a format without executable content."""
    weights = model.model.state_dict()
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}, path)


def read_weights(path: Path | None) -> tuple[Mapping[str, torch.Tensor] | None, str]:
    """Return the weights of a file, or the reason why it has none."""
    if path is None:
        return None, ""
    try:
        return load_file(path), ""
    except (OSError, SafetensorError) as error:
        return None, f'started from scratch: "{path.name}" cannot be read ({first_line(error)})'


def usable_checkpoint(path: Path | None, settings: str) -> tuple[str | None, str]:
    """Return the checkpoint if a training with these settings can resume from it, else the reason."""
    if path is None or not path.exists():
        return None, ""
    try:
        # An earlier release saved the settings under another name of the callback.
        found = read_checkpoint(path)["callbacks"].get(TrainingCallback.__name__, {}).get("settings")
    except UNREADABLE as error:
        return None, f'not resumed: "{path.name}" cannot be read ({first_line(error)})'
    if found != settings:
        return None, f'not resumed: "{path.name}" has other data, another config or another release'
    return str(path), ""
