"""Every trained network of the catalogue, exported in float32 and int8: size, latency, errors on ETTh1.

FORECAST_ETTH1=~/ETTh1.csv python -m benchmarks.export  (the table of docs/models.md, into results/)

Networks are trained for one epoch on every eighth window only. That is enough to move weights away from noise, and too
little for errors that rank models. Look-back 336, horizon 96, levels 0.1, 0.5, 0.9, no covariates.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.protocol import Dataset, find_etth1, load_etth1
from forecast.evaluation.metrics import pinball
from forecast.runtime.model import session
from models import CATALOG, BuildRequest, ModelName, export_onnx
from models.darts.quantization import quantize

# N windows, L look-back, H horizon, C channels, Q levels

Values = NDArray[np.float32]

RESULTS = Path(__file__).parent / "results" / "etth1.csv"
LEVELS = (0.1, 0.5, 0.9)
LOOKBACK, HORIZON = 336, 96
NETWORKS = tuple(name for name, spec in CATALOG.items() if spec.family == "network")
BATCH = 32


@dataclass(frozen=True, slots=True)
class Row:
    """One network in one precision; errors in standard deviations of the training rows."""

    model: str
    precision: str
    size_mb: float
    ms_batch_1: float
    """Median over interleaved runs on one thread."""
    ms_batch_32: float
    """In int8 the windows of a batch run one by one, as in the service."""
    mse: float
    """Errors of the median."""
    mae: float
    pinball: float
    windows: int
    epochs: int
    training_stride: int


def measure(name: ModelName, data: Dataset, options: argparse.Namespace) -> list[Row]:
    """Train, export and score one network; returns one row, or two if it has a matrix to quantise."""
    inputs, actual = windows(data, options.test_stride)
    forms: dict[str, Callable[[Values], Values]] = {}
    sizes = {}
    with tempfile.TemporaryDirectory() as scratch:
        exact, coarse = Path(scratch) / "float32.onnx", Path(scratch) / "int8.onnx"
        export_onnx(trained(name, data, options), exact)
        files = [exact, coarse] if quantize(exact, coarse) else [exact]
        for file in files:
            forms[file.stem] = runner(file, one_by_one=file is coarse)
            sizes[file.stem] = file.stat().st_size / 1e6
    single = timed(forms, inputs[:1], options.rounds)
    many = timed(forms, inputs[:BATCH], max(options.rounds // 4, 1))
    rows = []
    for precision, run in forms.items():
        forecast = np.concatenate([run(inputs[begin : begin + 256]) for begin in range(0, len(inputs), 256)])
        forecast = np.sort(forecast.astype(np.float64), axis=-1)  # [N, H, C, Q]
        error = actual - forecast[..., LEVELS.index(0.5)]
        rows.append(
            Row(
                name,
                precision,
                sizes[precision],
                single[precision],
                many[precision],
                mse=float((error**2).mean()),
                mae=float(np.abs(error).mean()),
                pinball=float(pinball(actual, forecast, LEVELS).mean()),
                windows=len(inputs),
                epochs=options.epochs,
                training_stride=options.stride,
            )
        )
    return rows


def trained(name: ModelName, data: Dataset, options: argparse.Namespace) -> Any:
    """Fit a network of the catalogue with its default recipe, but a shorter training."""
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    request = BuildRequest(
        lookback=LOOKBACK, horizon=HORIZON, quantiles=LEVELS, max_epochs=options.epochs, batch_size=BATCH,
        trainer=quiet | {"enable_checkpointing": False},
    )  # fmt: skip
    model = CATALOG[name].build(request)
    return model.fit(data.targets[data.rows("train", LOOKBACK)], stride=options.stride, verbose=False)


def windows(data: Dataset, stride: int) -> tuple[Values, NDArray[np.float64]]:
    """Cut a part of the test windows at equal steps: look-backs [N, L, C] and targets [N, H, C]."""
    values = data.targets[data.rows("test", LOOKBACK)].values()
    cut = np.lib.stride_tricks.sliding_window_view(values, LOOKBACK + HORIZON, axis=0)[::stride].transpose(0, 2, 1)
    return cut[:, :LOOKBACK].astype(np.float32), cut[:, LOOKBACK:].astype(np.float64)


def runner(file: Path, *, one_by_one: bool) -> Callable[[Values], Values]:
    """Open a network on one thread; returns a function of look-backs [N, L, C]."""
    opened = session(file, threads=1)

    def run(inputs: Values) -> Values:
        parts = np.split(inputs, len(inputs)) if one_by_one else [inputs]
        return np.concatenate([opened.run(None, {"past_target": part})[0] for part in parts])

    return run


def timed(forms: dict[str, Callable[[Values], Values]], inputs: Values, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of a call; the precisions take turns, so that a slow minute affects both."""
    taken: dict[str, list[float]] = {precision: [] for precision in forms}
    for turn in range(rounds + 1):
        for precision, run in forms.items():
            began = time.perf_counter()
            run(inputs)
            if turn:  # the first call warms up
                taken[precision].append((time.perf_counter() - began) * 1e3)
    return {precision: float(np.median(times)) for precision, times in taken.items()}


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table: one line per network, float32 / int8."""
    lines = ["| Network | MB | ms, batch 1 | ms, batch 32 | MSE | MAE | Pinball |", "| --- " + "| ---: " * 6 + "|"]
    for name in dict.fromkeys(row.model for row in rows):
        sides = [row for row in rows if row.model == name]
        columns = ("size_mb", "ms_batch_1", "ms_batch_32", "mse", "mae", "pinball")
        formats = (".2f", ".2f", ".1f", ".4f", ".4f", ".4f")
        cells = [
            " / ".join(format(getattr(row, column), form) for row in sides)
            for column, form in zip(columns, formats, strict=True)
        ]
        lines.append(f"| {CATALOG[ModelName(name)].title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], path: Path) -> None:
    """Write every row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        for row in rows:
            writer.writerow(f"{value:.5g}" if isinstance(value, float) else value for value in astuple(row))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the networks of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--stride", type=int, default=8, help="steps between two training windows")
    parser.add_argument("--test-stride", type=int, default=8, help="steps between two test windows")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    data = load_etth1(find_etth1())
    rows: list[Row] = []
    for name in options.only:
        rows += measure(ModelName(name), data, options)
        write(rows, options.csv)  # after each network: an interrupted run keeps its rows
    sys.stdout.write(markdown(rows))


if __name__ == "__main__":
    main()
