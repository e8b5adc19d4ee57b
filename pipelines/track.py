"""What a night leaves in MLflow: parameters, scores, curves, figures, so that its UI compares the models."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from forecast.clock import SystemClock
from forecast.evaluation import Evidence
from forecast.figures import by_lead, fan
from forecast.jobs import DatasetJob
from forecast.panel import Panel
from forecast.promotion import Verdict
from forecast.registry import ModelRun, Registry
from forecast.runtime import ServedModel
from pipelines.train import Trained
from pipelines.windows import Windows


def parameters(job: DatasetJob, model_name: str) -> dict[str, object]:
    """Return what a model is trained with, as MLflow shows it."""
    shared = {
        "model": model_name, "lookback": job.lookback, "horizon": job.horizon, "quantiles": job.quantiles,
        "batch_size": job.training.batch_size, "max_epochs": job.training.max_epochs, "budget": job.training.budget,
        "stride": job.training.stride, "seed": job.training.seed,
    }  # fmt: skip
    return shared | job.options.get(model_name, {})


def log_training(
    run: ModelRun, trained: Trained, evidence: Evidence, holdout: Windows, panel: Panel, job: DatasetJob
) -> None:
    """Log one model's scores on the holdout, its losses by epoch, and its forecast of the newest held-out origin."""
    now = int(SystemClock().now().timestamp() * 1000)
    numbers = {
        "holdout.pinball": evidence.pinball,
        "holdout.coverage": evidence.coverage,
        **{f"holdout.mae.h{h}": value for h, value in evidence.mae.items()},
        **{f"holdout.mse.h{h}": value for h, value in evidence.mse.items()},
        **{f"holdout.mae.{channel}": value for channel, value in evidence.channel_mae.items()},
        **{f"holdout.coverage.{channel}": value for channel, value in evidence.channel_coverage.items()},
        "training.seconds": trained.seconds,
        "training.epochs": float(trained.epochs),
    }
    run.metrics(numbers, now)
    for curve, values in trained.losses.items():
        run.curve(curve, values, now)
    run.curve("holdout.pinball_by_lead", evidence.pinball_by_lead, now)
    run.tags({"model_version": trained.manifest.model_version, "windows": str(evidence.windows)})
    for channel in range(len(job.targets)):
        run.figure(_example(trained.served, holdout, panel, job, channel), f"forecasts/{job.targets[channel]}.html")


def _example(model: ServedModel, holdout: Windows, panel: Panel, job: DatasetJob, channel: int) -> go.Figure:
    """Draw the newest held-out origin of the first series that has one, with what came true."""
    series = holdout.series[0]
    window = max(i for i, name in enumerate(holdout.series) if name == series)
    part = slice(window, window + 1)
    forecast = model.predict(holdout.targets[part], holdout.past[part], holdout.future[part], holdout.series[part])
    origin = panel.index(holdout.origins[window])
    history = [panel.time(i).astimezone(job.tz) for i in range(origin - job.lookback, origin)]
    times = [panel.time(i).astimezone(job.tz) for i in range(origin, origin + job.horizon)]
    levels = model.manifest.quantiles
    truth = [None if np.isnan(value) else float(value) for value in holdout.actual[window, :, channel]]
    name = job.targets[channel]
    return fan(
        f"{model.manifest.model_name}: {name} at {series}", job.channels[name].unit,
        (history, holdout.targets[window, :, channel].tolist()), times,
        forecast.quantiles[0, :, channel, model.median].tolist(), forecast.quantiles[0, :, channel, 0].tolist(),
        forecast.quantiles[0, :, channel, -1].tolist(), f"{levels[-1] - levels[0]:.0%} band", (times, truth),
    )  # fmt: skip


def log_comparison(
    registry: Registry, night: str, leaderboard: Sequence[Evidence], verdict: Verdict, job: DatasetJob
) -> None:
    """Log the verdict, the table of scores and the losses by lead time with the night itself."""
    registry.describe(night, verdict.sentence, _markdown(leaderboard, job))
    curves = {item.model_version: item.pinball_by_lead for item in leaderboard}
    figure = by_lead(f"Pinball loss by lead time, {job.frequency} steps", "standard deviations", curves)
    registry.figure(night, figure, "pinball_by_lead.html")


def _markdown(leaderboard: Sequence[Evidence], job: DatasetJob) -> str:
    names = ["model", "pinball", *[f"MAE {horizon}" for horizon in job.horizons], "coverage"]
    rows = [
        [
            item.model_version,
            f"{item.pinball:.4f}",
            *[f"{item.mae[h]:.3f}" for h in job.horizons],
            f"{item.coverage:.1%}",
        ]
        for item in leaderboard
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows))


def data_digest(panel: Panel) -> str:
    """Return the SHA-256 of the cleaned values that a model is trained from."""
    digest = hashlib.sha256(repr((panel.series, panel.start, panel.step)).encode())
    for values in (panel.targets, panel.past, panel.future, panel.statics):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def code_version() -> str:
    """Return the version of the installed package."""
    return importlib.metadata.version("forecast-service")
