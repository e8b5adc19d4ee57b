"""One night: train challengers, compare them with the champion on the same held-out origins, promote or not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from filelock import FileLock, Timeout

from forecast.clock import SystemClock
from forecast.errors import ConflictError, DataError, ForecastError, TrainingError, UnavailableError
from forecast.evaluation import Evidence, score
from forecast.installation import Installation
from forecast.jobs import DatasetJob
from forecast.ledger import Champion
from forecast.panel import Panel
from forecast.progress import Reporter
from forecast.promotion import Verdict, decide
from forecast.registry import ModelRun, Registry
from forecast.runtime import ServedModel, load, manifest_digest
from forecast.scaling import Scaler
from pipelines.backtest import backtest
from pipelines.clean import clean
from pipelines.predict import fits
from pipelines.series import fit_scaler
from pipelines.slices import Slices
from pipelines.track import code_version, data_digest, log_comparison, log_training, parameters
from pipelines.train import Trained, check_models, train
from pipelines.windows import Windows, cut


@dataclass(frozen=True, slots=True)
class Night:
    """What came of one night."""

    dataset: str
    data_version: int
    holdout_from: datetime
    holdout_until: datetime
    origins: int
    """Distinct times that forecasts were made at; windows of neighbouring ones overlap."""
    leaderboard: tuple[Evidence, ...]
    """Every model that was scored, best first; a champion from an earlier night is among them."""
    verdict: Verdict
    champion: str
    """Model version that is champion now."""
    tracking_run: str
    failures: Mapping[str, str] = field(default_factory=dict)
    """Models that could not be trained, and why; the others were compared without them."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """What all models of a night share."""

    name: str
    installation: Installation
    job: DatasetJob
    panel: Panel
    holdout: Windows
    unit: Scaler
    """What scores are told in: the same for every model of the night, the champion too."""
    data_version: int
    now: datetime
    registry: Registry
    tags: Mapping[str, str]
    reporter: Reporter


@dataclass(frozen=True, slots=True)
class _Candidate:
    trained: Trained
    evidence: Evidence
    run: ModelRun
    uri: str


def retrain(name: str, installation: Installation, reporter: Reporter) -> Night:
    """Train every model the job file names, and promote the best one if it beats the champion.

    A model that fails leaves the others to the night; raises ``training.all_failed`` if none is left, and
    ``training.running`` while another process trains the same data set.
    """
    try:
        with FileLock(installation.home.locks / f"{name}.retrain.lock", timeout=0):
            _sweep(name, installation)  # what an interrupted night left
            try:
                return _retrain(name, installation, reporter)
            finally:
                _sweep(name, installation)
    except Timeout as error:
        raise ConflictError(
            "training.running", f"{name} is being trained already", "wait until that is done"
        ) from error


def _retrain(name: str, installation: Installation, reporter: Reporter) -> Night:
    job = installation.jobs.datasets[name]
    check_models(job)
    table = installation.observations(name)
    if not table.exists:
        raise UnavailableError("history.empty", f"{name} has no rows to train on", f'run "forecast ingest {name}"')
    version = table.version
    panel = clean(table.read(version=version), job)
    slices = Slices.of(panel, job)
    panel = _trainable(panel, slices.fit, job)
    incumbent, unfit = _incumbent(name, installation, job, panel, slices)
    first = slices.calibration
    if incumbent is not None:
        first = max(first, panel.index(incumbent.manifest.fitted_until))
    holdout = cut(panel, job, first, slices.holdout)
    registry = Registry(installation.home)
    tags = {
        "data_version": str(version),
        "data_digest": data_digest(panel),
        "origins_digest": holdout.digest,
        "code_version": code_version(),
    }
    now = installation.clock(name).now()
    unit = fit_scaler(panel, job, slices.fit)
    setting = _Setting(name, installation, job, panel, holdout, unit, version, now, registry, tags, reporter)
    with registry.night(name, f"night {now:%Y-%m-%d %H:%M}", tags) as night:
        candidates, failures = _challengers(setting, night)
        challenger = min(candidates, key=lambda candidate: candidate.evidence.pinball)
        reigning = None if incumbent is None else _scored(incumbent, setting)
        verdict = decide(challenger.evidence, reigning, job.training.min_gain, unfit)
        scored = [candidate.evidence for candidate in candidates] + ([reigning] if reigning else [])
        leaderboard = tuple(sorted(scored, key=lambda item: item.pinball))
        log_comparison(registry, night, leaderboard, verdict, job)
        if verdict.promote:
            _promote(setting, challenger, verdict)
    champion = installation.ledger.champion(name)
    if champion is None:
        told = f"{name} has no champion: {verdict.sentence}"
        raise UnavailableError("forecast.no_champion", told, "see the models' runs in MLflow")
    return Night(
        dataset=name,
        data_version=version,
        holdout_from=panel.time(first),
        holdout_until=panel.time(slices.holdout),
        origins=len(set(holdout.origins)),
        leaderboard=leaderboard,
        verdict=verdict,
        champion=champion.model_version,
        tracking_run=night,
        failures=failures,
    )


def _trainable(panel: Panel, fit: int, job: DatasetJob) -> Panel:
    """Leave out series with too few rows to fit on: they would be scaled by nothing; a later night takes them in."""
    parts = (values[:, :fit] for values in (panel.targets, panel.past, panel.future))
    whole = np.logical_and.reduce([np.isfinite(values).all(axis=2) for values in parts]).sum(axis=1)
    names = [name for name, rows in zip(panel.series, whole, strict=True) if rows >= job.lookback + job.horizon]
    return panel.only(names) if names else panel


def _incumbent(
    name: str, installation: Installation, job: DatasetJob, panel: Panel, slices: Slices
) -> tuple[ServedModel | None, str]:
    """Return the champion if it can be scored beside challengers of this job file; else why it cannot."""
    champion = installation.ledger.champion(name)
    if champion is None:
        return None, ""
    try:
        model = load(installation.home.models / champion.folder, champion.digest)
    except ForecastError as error:
        return None, f"{champion.model_version} cannot be loaded ({error.fact})"
    manifest = model.manifest
    theirs, ours = (manifest.lookback, manifest.horizon, manifest.quantiles), (job.lookback, job.horizon, job.quantiles)
    if theirs != ours or not fits(manifest, job):
        return None, f"{champion.model_version} was trained for other channels, quantiles, look-back or horizon"
    unseen = sorted(set(panel.series) - set(manifest.scaler.targets))
    if unseen:
        return None, f"{champion.model_version} was not trained on series {', '.join(unseen)}"
    if panel.index(manifest.fitted_until) > slices.holdout - job.horizon:
        return None, f"{champion.model_version} was trained on the rows that it would be compared on"
    return model, ""


def _challengers(setting: _Setting, night: str) -> tuple[list[_Candidate], dict[str, str]]:
    candidates, failures = [], {}
    for model_name in setting.job.models:
        try:
            candidates.append(_challenge(setting, night, model_name))
        except (TrainingError, DataError) as error:
            failures[model_name] = f"[{error.code}] {error}"
        except RuntimeError as error:  # torch's own: a shape, a device, no memory
            failures[model_name] = f"[training.failed] {error}"
    if not candidates:
        raise TrainingError("training.all_failed", f"no model could be trained: {'; '.join(failures.values())}")
    return candidates, failures


def _challenge(setting: _Setting, night: str, model_name: str) -> _Candidate:
    with (
        setting.reporter.step(model_name) as step,
        setting.registry.model_run(setting.name, night, model_name, setting.tags) as run,
    ):
        run.params(parameters(setting.job, model_name))
        trained = train(
            setting.name,
            setting.job,
            setting.panel,
            model_name,
            models=setting.installation.home.models,
            data_version=setting.data_version,
            data_digest=setting.tags["data_digest"],
            now=setting.now,
            step=step,
        )
        evidence = _scored(trained.served, setting)
        step.note(f"pinball {evidence.pinball:.4f}")
        log_training(run, trained, evidence, setting.holdout, setting.panel, setting.job)
        uri = setting.registry.log_model(
            run, setting.installation.home.models / trained.folder, *trained.served.example()
        )
    return _Candidate(trained, evidence, run, uri)


def _scored(model: ServedModel, setting: _Setting) -> Evidence:
    name, version = model.manifest.model_name, model.manifest.model_version
    result = backtest(model, setting.holdout, setting.unit)
    return score(name, version, setting.holdout.digest, result, setting.job.targets, setting.job.horizons)


def _promote(setting: _Setting, challenger: _Candidate, verdict: Verdict) -> None:
    manifest, folder = challenger.trained.manifest, challenger.trained.folder
    champion = Champion(
        dataset=setting.name,
        model_name=manifest.model_name,
        model_version=manifest.model_version,
        folder=folder,
        digest=manifest_digest(setting.installation.home.models / folder),
        promoted_at=SystemClock().now(),
        verdict=verdict.sentence,
    )
    setting.installation.ledger.promote(champion)
    setting.registry.promote(
        setting.name, challenger.run.run_id, challenger.uri, manifest.model_version, verdict.sentence
    )


def _sweep(name: str, installation: Installation) -> None:
    """Remove models that never were champion; MLflow keeps every exported file."""
    kept = installation.ledger.champion_folders(name)
    for folder in (installation.home.models / name).glob("*"):
        if f"{name}/{folder.name}" not in kept:
            shutil.rmtree(folder, ignore_errors=True)
