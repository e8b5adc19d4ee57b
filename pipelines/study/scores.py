"""Train and score the cells of a study, on clean and perturbed windows; scores are stored in a file."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl

from forecast.durability import flush
from forecast.errors import StorageError
from forecast.evaluation import metrics
from forecast.evaluation.scores import Yardstick
from forecast.progress import Step
from forecast.runtime.manifest import NETWORK
from forecast.runtime.model import ServedModel, load
from pipelines.preparation.slices import Slices
from pipelines.preparation.training_data import TrainingData
from pipelines.preparation.windows import Windows, cut, some
from pipelines.study.perturb import in_blocks, newest, noisy, scattered, without
from pipelines.study.plan import FACTORS, LEVELS, Condition, StudyCell
from pipelines.training.backtest import backtest
from pipelines.training.candidates import Task, train_candidate

ROWS = pl.Schema({
    "cell": pl.String, "model": pl.String, "lookback": pl.Int64, "options": pl.String, "condition": pl.String,
    "level": pl.Float64, "pinball": pl.Float64, "mae": pl.Float64, "coverage": pl.Float64, "answered": pl.Float64,
    "windows": pl.Int64, "parameters": pl.Int64, "size_mb": pl.Float64, "latency_ms": pl.Float64, "epochs": pl.Int64,
    "seconds": pl.Float64,
})  # fmt: skip
"""One row per cell, condition and level; losses in standard deviations of each channel over the fit rows.

``answered`` is the share of windows whose gaps could be filled; losses are computed on these only."""
_ORIGINS = 120
"""Scored origins per series; neighbouring origins give nearly the same score."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Windows for scoring all cells of a study: the same origins for every look-back."""

    history: TrainingData
    windows: Windows
    """With the longest look-back, plus one season from which gaps may be filled."""
    yardstick: Yardstick

    @classmethod
    def of(cls, history: TrainingData) -> Bench:
        """Cut the holdout; raises ``backtest.no_window``."""
        config, slices = history.config, history.slices
        longest = max(round(factor * config.lookback) for factor in FACTORS) + config.season
        stride = max(-(-(slices.holdout - slices.calibration - config.horizon + 1) // _ORIGINS), 1)
        while math.gcd(stride, config.season) > 1:  # otherwise some hours of the day would never be an origin
            stride += 1
        wide = config.model_copy(update={"lookback": longest})
        windows = cut(history.panel, wide, slices.calibration, slices.holdout, stride)
        return cls(history, windows, Yardstick.fit(history.panel, history.scaler, config.season, slices.fit))


def score_cell(cell: StudyCell, bench: Bench, checkpoints: Path, now: datetime, step: Step) -> pl.DataFrame:
    """Train a cell, export it and score it: one row of ``ROWS`` per condition and level.

    Raises ``training.*`` and the models' own codes. An interrupted training leaves a checkpoint to resume from.
    """
    history = bench.history
    config = cell.config(history.config)
    slices = Slices.of(history.panel, config)
    task = Task(
        dataset=history.name, config=config, panel=history.panel, slices=slices, model_name=cell.model,
        data_version=history.version, data_digest=history.digest, now=now,
        holdout=(slices.calibration, slices.holdout), yardstick=bench.yardstick, champion=None,
        checkpoints=checkpoints,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as models:
        candidate = train_candidate(task, Path(models), step)
        served = load(Path(models) / candidate.folder)
        seen = candidate.evidence.smoke_test
        shared = {
            "cell": cell.key(history), "model": str(cell.model), "lookback": cell.lookback,
            "options": cell.encoded_options, "parameters": _parameters(Path(models) / candidate.folder / NETWORK),
            "size_mb": seen.size_mb, "latency_ms": seen.latency_ms, "epochs": candidate.fitted.epochs,
            "seconds": candidate.fitted.seconds,
        }  # fmt: skip
        rows = [shared | one for one in _scores(served, cell, bench)]
    shutil.rmtree(checkpoints, ignore_errors=True)
    return pl.DataFrame(rows, schema=ROWS)


def _scores(model: ServedModel, cell: StudyCell, bench: Bench) -> Iterator[dict[str, Any]]:
    for condition, levels in LEVELS.items():
        if condition is not Condition.CLEAN and not cell.is_present:
            continue
        for level in levels:
            windows, answered = _under(condition, level, bench, model, cell.lookback)
            share = float(answered.mean())
            numbers = {"pinball": math.nan, "mae": math.nan, "coverage": math.nan}
            if answered.any():
                numbers = _losses(model, some(windows, answered), bench.yardstick)
            yield {
                "condition": str(condition), "level": level, "answered": share, "windows": len(answered), **numbers,
            }  # fmt: skip


def _under(
    condition: Condition, level: float, bench: Bench, model: ServedModel, lookback: int
) -> tuple[Windows, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return the windows under a condition, and the mask of those with complete inputs."""
    config, wide = bench.history.config, bench.windows
    everything = np.ones(len(wide.series), bool)
    match condition:
        case Condition.CLEAN:
            return newest(wide, lookback), everything
        case Condition.NOISE:
            return noisy(newest(wide, lookback), model.manifest.scaler, level), everything
        case Condition.SCATTERED:
            missing = scattered(wide, level, lookback)
        case Condition.BLOCKS:
            missing = in_blocks(wide, level, _block(bench.history), lookback)
    repaired, whole = without(wide, missing, config)
    return newest(repaired, lookback), whole


def _block(history: TrainingData) -> int:
    """Return the steps of an outage: an eighth of the look-back, at most the smallest ``fill_limit``."""
    config = history.config
    limits = [config.channels[name].fill_limit for name in (*config.targets, *config.past_covariates)]
    return max(min(*limits, config.lookback // 8), 1)


def _losses(model: ServedModel, windows: Windows, yardstick: Yardstick) -> dict[str, float]:
    result = backtest(model, windows, yardstick)
    unit = result.deviations[:, None]
    median = result.quantiles[..., result.levels.index(0.5)]
    return {
        "pinball": metrics.observed_mean(metrics.pinball(result.actual, result.quantiles, result.levels) / unit),
        "mae": metrics.mean_absolute_error(result.actual / unit, median / unit),
        "coverage": metrics.coverage(result.actual, result.quantiles[..., 0], result.quantiles[..., -1]),
    }


def _parameters(network: Path) -> int:
    """Count the weights of an exported network."""
    stored = onnx.load(network).graph.initializer
    return sum(math.prod(tensor.dims) for tensor in stored if tensor.data_type == onnx.TensorProto.FLOAT)


def read_rows(file: Path) -> pl.DataFrame:
    """Return the stored rows; empty without a file. Raises ``study.rows_unreadable``."""
    if not file.exists():
        return pl.DataFrame(schema=ROWS)
    try:
        return pl.read_csv(file, schema=ROWS)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StorageError(
            "study.rows_unreadable", f'"{file}" is not a valid table of a study ({error})', "move it away"
        ) from error


def keep_rows(file: Path, rows: pl.DataFrame) -> None:
    """Replace the file atomically. Raises ``study.rows_not_written``."""
    part = file.with_suffix(".part")
    try:
        rows.write_csv(part)
        flush(part)
        part.replace(file)
        flush(file.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(
            "study.rows_not_written", f'cannot write "{file}" ({error.strerror})', "free disk space"
        ) from error
