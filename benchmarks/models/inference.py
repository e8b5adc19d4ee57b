"""Latency of the exported models in ONNX Runtime on one core, one window at a time, as in the service."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from darts import TimeSeries

from benchmarks.models.sides import QUIET, Task, build
from models import export_onnx
from models.catalog import CATALOG, TRAINABLE

CALLS = 50
"""Calls in a round of one model."""
OPTIONS = {"itransformer": {"width": 256}}
"""Size of the model with a latency goal; every other model has its default preset."""


def interleave_inference(rounds: int) -> dict[str, list[float]]:
    """Export every trainable model after one short epoch; returns milliseconds per call, one number per round."""
    with TemporaryDirectory() as folder:
        sessions = {CATALOG[name].title: _session(name, Path(folder) / f"{name}.onnx") for name in TRAINABLE}
    taken: dict[str, list[float]] = {title: [] for title in sessions}
    for turn in range(rounds + 1):
        for title, session in sessions.items():
            window = {"past_target": np.random.default_rng(0).standard_normal((1, 96, 7), dtype=np.float32)}
            began = time.perf_counter()
            for _ in range(CALLS):
                session.run(None, window)
            if turn:  # the first round warms up
                taken[title].append((time.perf_counter() - began) / CALLS * 1e3)
    return taken


def _session(name: str, path: Path) -> Any:
    task = Task(model=name, options=OPTIONS.get(name, {}))
    rows = task.lookback + task.horizon + task.batch
    values = np.random.default_rng(0).standard_normal((rows, task.channels), dtype=np.float32)
    export_onnx(build(task, **QUIET).fit(TimeSeries.from_values(values), epochs=1), path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
