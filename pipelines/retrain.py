"""One night: train challengers, compare them with the champion on the same held-out origins, promote or not."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import plotly.graph_objects as go

from forecast.clock import SystemClock
from forecast.errors import ForecastError, UnavailableError
from forecast.evaluation import Evidence, score
from forecast.figures import by_lead, fan
from forecast.installation import Installation
from forecast.jobs import DatasetJob
from forecast.ledger import Champion
from forecast.panel import Panel
from forecast.progress import Reporter
from forecast.promotion import Verdict, decide
from forecast.registry import ModelRun, Registry
from forecast.runtime import ServedModel, load
from pipelines.backtest import Slices, Windows, backtest, cut
from pipelines.clean import clean
from pipelines.train import Trained, train


@dataclass(frozen=True, slots=True)
class Night:
    """What came of one night."""

    dataset: str
    data_version: int
    holdout_from: datetime
    holdout_until: datetime
    leaderboard: tuple[Evidence, ...]
    """Every model that was scored, best first; a champion from an earlier night is among them."""
    verdict: Verdict
    champion: str
    """Model version that is champion now."""
    tracking_run: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    trained: Trained
    evidence: Evidence
    run: ModelRun
    uri: str


def retrain(name: str, installation: Installation, reporter: Reporter) -> Night:
    """Train every model the job file names, and promote the best one if it beats the champion."""
    job = installation.jobs.datasets[name]
    table = installation.observations(name)
    if not table.exists:
        raise UnavailableError("history.empty", f"{name} has no rows to train on", f'run "forecast ingest {name}"')
    version = table.version
    panel = clean(table.read(version=version), job)
    incumbent = _incumbent(name, installation, job)
    first = Slices.of(panel, job).calibration
    if incumbent is not None:
        first = max(first, panel.index(incumbent.manifest.fitted_until))
    holdout = cut(panel, job, first, panel.steps)
    now = installation.clock(name).now()
    registry = Registry(installation.home)
    tags = {
        "data_version": str(version),
        "data_digest": _digest(panel),
        "origins_digest": holdout.digest,
        "code_version": code_version(),
    }
    with registry.night(name, f"night {now:%Y-%m-%d %H:%M}", tags) as night:
        candidates = [
            _challenge(name, installation, panel, holdout, model_name, version, now, registry, night, tags, reporter)
            for model_name in job.models
        ]
        challenger = min(candidates, key=lambda candidate: candidate.evidence.pinball)
        evidence = [candidate.evidence for candidate in candidates]
        reigning = None if incumbent is None else _scored(incumbent, holdout, job)
        verdict = decide(challenger.evidence, reigning, job.training.min_gain)
        leaderboard = sorted([*evidence, *([reigning] if reigning else [])], key=lambda item: item.pinball)
        registry.describe(night, verdict.sentence, _markdown(leaderboard, job))
        _log_comparison(registry, night, leaderboard, job)
        if verdict.promote:
            manifest = challenger.trained.manifest
            promoted_at = SystemClock().now()
            installation.ledger.promote(
                Champion(
                    name,
                    manifest.model_name,
                    manifest.model_version,
                    challenger.trained.folder,
                    manifest.network_digest,
                    promoted_at,
                    verdict.sentence,
                )
            )
            registry.promote(name, challenger.run.run_id, challenger.uri, manifest.model_version, verdict.sentence)
    kept = challenger.trained.folder if verdict.promote else None
    for candidate in candidates:  # MLflow keeps every exported file; the home keeps those that were champion
        if candidate.trained.folder != kept:
            shutil.rmtree(installation.home.models / candidate.trained.folder, ignore_errors=True)
    champion = installation.ledger.champion(name)
    if champion is None:  # pragma: no cover - the first verdict promotes unless nothing is finite
        raise UnavailableError(
            "forecast.no_champion", f"{name} has no champion: {verdict.sentence}", "see the models' runs in MLflow"
        )
    return Night(
        name, version, panel.time(first), panel.end, tuple(leaderboard), verdict, champion.model_version, night
    )


def _challenge(
    name: str, installation: Installation, panel: Panel, holdout: Windows, model_name: str, version: int, now: datetime,
    registry: Registry, night: str, tags: dict[str, str], reporter: Reporter,
) -> _Candidate:  # fmt: skip
    job = installation.jobs.datasets[name]
    with reporter.step(model_name) as step, registry.model_run(name, night, model_name, tags) as run:
        run.params(_parameters(job, model_name))
        trained = train(
            name, job, panel, model_name,
            models=installation.home.models, data_version=version, data_digest=tags["data_digest"], now=now, step=step,
        )  # fmt: skip
        evidence = _scored(trained.served, holdout, job)
        step.note(f"pinball {evidence.pinball:.4f}")
        uri = _log(registry, run, trained, evidence, holdout, panel, job, installation)
    return _Candidate(trained, evidence, run, uri)


def _incumbent(name: str, installation: Installation, job: DatasetJob) -> ServedModel | None:
    champion = installation.ledger.champion(name)
    if champion is None:
        return None
    try:
        model = load(installation.home.models / champion.folder)
    except ForecastError:
        return None  # a model that cannot be loaded cannot serve either: any challenger is better
    manifest = model.manifest
    fits = (manifest.targets, manifest.past, manifest.lookback, manifest.horizon, manifest.quantiles)
    return model if fits == (job.targets, job.past_covariates, job.lookback, job.horizon, job.quantiles) else None


def _scored(model: ServedModel, holdout: Windows, job: DatasetJob) -> Evidence:
    manifest = model.manifest
    result = backtest(model, holdout)
    return score(manifest.model_name, manifest.model_version, holdout.digest, result, job.targets, job.horizons)


def _parameters(job: DatasetJob, model_name: str) -> dict[str, object]:
    shared = {
        "model": model_name, "lookback": job.lookback, "horizon": job.horizon, "quantiles": job.quantiles,
        "batch_size": job.training.batch_size, "max_epochs": job.training.max_epochs, "budget": job.training.budget,
        "stride": job.training.stride, "seed": job.training.seed,
    }  # fmt: skip
    return shared | job.options.get(model_name, {})


def _log(
    registry: Registry,
    run: ModelRun,
    trained: Trained,
    evidence: Evidence,
    holdout: Windows,
    panel: Panel,
    job: DatasetJob,
    installation: Installation,
) -> str:
    now = int(SystemClock().now().timestamp() * 1000)
    numbers = {
        "holdout.pinball": evidence.pinball,
        "holdout.coverage": evidence.coverage,
        **{f"holdout.mae.h{h}": value for h, value in evidence.mae.items()},
        **{f"holdout.mse.h{h}": value for h, value in evidence.mse.items()},
        **{f"holdout.mae.{channel}": value for channel, value in evidence.channel_mae.items()},
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
    folder = installation.home.models / trained.folder
    sizes = {
        "past_target": (job.lookback, len(job.targets)),
        "past_covariates": (job.lookback, len(job.past_covariates)),
        "historic_future_covariates": (job.lookback, len(trained.manifest.future)),
        "future_covariates": (job.horizon, len(trained.manifest.future)),
    }
    inputs = {name: np.zeros((1, *sizes[name]), np.float32) for name in trained.served.inputs}
    return registry.log_model(run, folder, inputs, trained.served.run(inputs))


def _example(model: ServedModel, holdout: Windows, panel: Panel, job: DatasetJob, channel: int) -> go.Figure:
    """Draw the newest held-out origin of the first series, with what came true."""
    window = max(i for i, name in enumerate(holdout.series) if name == panel.series[0])
    part = slice(window, window + 1)
    forecast = model.predict(holdout.targets[part], holdout.past[part], holdout.future[part], holdout.series[part])
    origin = panel.index(holdout.origins[window])
    history = [panel.time(i).astimezone(job.tz) for i in range(origin - job.lookback, origin)]
    times = [panel.time(i).astimezone(job.tz) for i in range(origin, origin + job.horizon)]
    levels = model.manifest.quantiles
    truth = [None if np.isnan(value) else float(value) for value in holdout.actual[window, :, channel]]
    name = job.targets[channel]
    return fan(
        f"{model.manifest.model_name}: {name} at {panel.series[0]}", job.channels[name].unit,
        (history, holdout.targets[window, :, channel].tolist()), times,
        forecast.quantiles[0, :, channel, model.median].tolist(), forecast.quantiles[0, :, channel, 0].tolist(),
        forecast.quantiles[0, :, channel, -1].tolist(), f"{levels[-1] - levels[0]:.0%} band", (times, truth),
    )  # fmt: skip


def _log_comparison(registry: Registry, night: str, leaderboard: list[Evidence], job: DatasetJob) -> None:
    curves = {f"{item.model_name} {item.model_version[-6:]}": item.pinball_by_lead for item in leaderboard}
    figure = by_lead(f"Pinball loss by lead time, {job.frequency} steps", "standard deviations", curves)
    registry.figure(night, figure, "pinball_by_lead.html")


def _markdown(leaderboard: list[Evidence], job: DatasetJob) -> str:
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


def _digest(panel: Panel) -> str:
    digest = hashlib.sha256(repr((panel.series, panel.start, panel.step)).encode())
    digest.update(np.ascontiguousarray(panel.targets).tobytes())
    digest.update(np.ascontiguousarray(panel.past).tobytes())
    return digest.hexdigest()


def code_version() -> str:
    """Return the version of the installed package."""
    return importlib.metadata.version("forecast-service")
