"""A night of Informer and S-Mamba on a GPU; fails unless the runs in MLflow record the Triton kernels.

python -m benchmarks.gpu.night            (make gpu)

The same night runs twice in separate processes, with the Triton kernels and with plain torch instead
(``KERNELS_TRITON=off``, the eager form). The output shows the windows per second of both. The windows are in the
device's memory, and matrix products are in bfloat16 if the GPU supports it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

JOB = """
[datasets.gpu]
frequency = "1h"
zone = "America/New_York"
series = "airport"
horizons = [{horizon}]
lookback = {lookback}
season = 168
models = ["informer", "s_mamba"]
options = {options}
source = {{ kind = "parquet", path = "sample:nyc-airports" }}
channels = {{ departures = {{ role = "target", lower = 0, fill = "zero" }}, mean_delay = {{ role = "target" }} }}
splits = {{ validation = "21d", calibration = "28d", holdout = "21d" }}
training = {{ max_epochs = {epochs}, patience = {epochs}, budget = "10m", batch_size = 256, stride = {stride}, \
baselines = [] }}
"""
KERNELS: Mapping[str, str] = {"informer": "prob_sparse_attention", "s_mamba": "selective_scan"}
"""By model: the operation that must run as a Triton kernel."""
SETTINGS = ("lookback", "horizon", "epochs", "stride")
NARROW = "{ informer = { width = 16, feed_forward = 16, heads = 2 }, s_mamba = { width = 16, feed_forward = 16 } }"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the night, or both of them and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lookback", type=int, default=336)
    parser.add_argument("--horizon", type=int, default=168)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--stride", type=int, default=1, help="steps between two training windows")
    parser.add_argument("--one", action="store_true", help="run one night and print it as JSON")
    parser.add_argument("--narrow", action="store_true", help="with --one: small networks; their speed is meaningless")
    options = parser.parse_args(arguments)
    if options.one:
        sys.stdout.write(json.dumps(night(options)) + "\n")
        return 0
    if not has_gpu():
        sys.stderr.write("error: torch finds no GPU; install a CUDA build of torch on a machine with a GPU\n")
        return 2
    with_triton, without = measured(options, "on"), measured(options, "off")
    sys.stdout.write(table(with_triton, without))
    wrong = not_by_triton(with_triton)
    for message in wrong:
        sys.stderr.write(f"error: {message}\n")
    return 1 if wrong else 0


def table(with_triton: Mapping[str, Any], without: Mapping[str, Any]) -> str:
    """Return a table of the windows per second of both nights."""
    lines = ["model     kernel                 windows/s with Triton   plain torch   ratio"]
    for model, one in with_triton.items():
        rate, plain = one["windows_per_second"], without[model]["windows_per_second"]
        lines.append(f"{model:<9} {KERNELS[model]:<22} {rate:>21.0f} {plain:>13.0f} {rate / plain:>7.2f}")
    return "\n".join(lines) + "\n"


def not_by_triton(runs: Mapping[str, Any]) -> list[str]:
    """Report the models without a Triton kernel in MLflow."""
    kernels = {model: runs[model]["kernel"] if model in runs else "nothing: it failed" for model in KERNELS}
    return [
        f"the MLflow run of {model} says '{kernel}', where a Triton kernel was expected"
        for model, kernel in kernels.items()
        if not kernel.startswith("triton")
    ]


def has_gpu() -> bool:
    """Whether torch can train on a GPU."""
    import torch

    return torch.cuda.is_available()


def measured(options: argparse.Namespace, triton: str) -> dict[str, Any]:
    """Run one night in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gpu.night", "--one"]
    command += [f"--{name}={getattr(options, name)}" for name in SETTINGS]
    environment = {**os.environ, "KERNELS_TRITON": triton}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def night(options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Train in a new home, and return the data of each model's run in MLflow."""
    import mlflow
    from rich.console import Console

    from forecast.installation import Installation
    from forecast.progress import Reporter
    from pipelines.ingestion.ingest import ingest
    from pipelines.retrain import retrain

    with tempfile.TemporaryDirectory() as folder:
        settings = {name: getattr(options, name) for name in SETTINGS}
        settings["options"] = NARROW if options.narrow else "{}"
        (Path(folder) / "forecast.toml").write_text(JOB.format(**settings), encoding="utf-8")
        installation = Installation.open(Path(folder))
        with installation.ledger:
            ingest(installation.dataset("gpu"))
            done = retrain(installation.dataset("gpu"), Reporter(Console(stderr=True)))
        client = mlflow.MlflowClient(installation.home.tracking_uri)
        parent = client.get_run(done.tracking_run)
        children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{done.tracking_run}'")
        return {
            run.data.tags["model_name"]: {
                "kernel": run.data.tags.get(f"kernel.{KERNELS[run.data.tags['model_name']]}", "none recorded"),
                "windows_per_second": run.data.metrics["cost/windows_per_second"],
            }
            for run in children
        }


if __name__ == "__main__":
    sys.exit(main())
