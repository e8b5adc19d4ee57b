"""One night: train challengers, compare them with the champion on the same held-out origins, promote or not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from forecast.clock import SystemClock
from forecast.config.dataset import DatasetConfig
from forecast.config.training import EngineName
from forecast.errors import ConflictError, ForecastError, TrainingError, UnavailableError
from forecast.evaluation.night import NightRecord, judge
from forecast.evaluation.scores import Evidence, Yardstick
from forecast.installation import Dataset, Installation
from forecast.ledger.champions import Champion
from forecast.panel import Panel
from forecast.progress import Reporter
from forecast.runtime.manifest import NETWORK, evaluated_in, manifest_digest
from forecast.runtime.model import ServedModel, load_evaluated
from forecast.runtime.smoke_test import smoke_test
from forecast.tracking.entities import Lineage
from forecast.tracking.registry import Registry
from forecast.tracking.runs import TrackedNight as Tracked
from forecast.tracking.runs import TrackedRun
from pipelines.forecasting.issue import fits
from pipelines.preparation.slices import Slices
from pipelines.preparation.training_data import TrainingData
from pipelines.preparation.windows import Windows, cut
from pipelines.tracking.log import (
    lineage,
    log_candidate,
    log_comparison,
    log_refitted,
    log_task,
    night_tags,
    version_tags,
)
from pipelines.training.backtest import evidence_of
from pipelines.training.candidates import Candidate, Start, Task, examine, refit, start_from
from pipelines.training.engines import Engine as Workers
from pipelines.training.engines import LocalEngine, RayEngine
from pipelines.training.fit import check_models
from pipelines.training.rollback import mirror


def retrain(dataset: Dataset, reporter: Reporter, engine: EngineName | None = None) -> NightRecord:
    """Train every model of the job file and the baselines, and promote the best one if it beats the champion.

    A model that fails leaves the others to the night; raises ``training.all_failed`` if none is left, and
    ``training.running`` while another process trains the same data set. A night that is killed leaves checkpoints, from
    which the next one goes on if it is of the same data and settings.
    """
    try:
        with FileLock(dataset.home.locks / f"{dataset.name}.retrain.lock", timeout=0):
            _sweep(dataset)  # what an interrupted night left
            try:
                return _retrain(dataset, reporter, engine)
            finally:
                _sweep(dataset)
    except Timeout as error:
        raise ConflictError(
            "training.running", f"{dataset.name} is being trained already", "wait until that is done"
        ) from error


@dataclass(frozen=True, slots=True)
class _Setting:
    """What all models of a night share."""

    installation: Installation
    history: TrainingData
    first: int
    """Row from which on the holdout's targets lie."""
    holdout: Windows
    yardstick: Yardstick
    now: datetime
    champion: Champion | None
    champion_model: ServedModel | None
    """The champion's network, if it can be scored on the same windows as the candidates."""
    unfit: str
    """Else why not."""

    @property
    def config(self) -> DatasetConfig:
        return self.history.config

    @property
    def panel(self) -> Panel:
        return self.history.panel

    @property
    def models(self) -> Path:
        return self.installation.home.models

    @property
    def checkpoints(self) -> Path:
        return self.installation.home.checkpoints / self.history.name

    def task(self, model_name: str) -> Task:
        history = self.history
        return Task(
            dataset=history.name, config=history.config, panel=history.panel, slices=history.slices,
            model_name=model_name, data_version=history.version, data_digest=history.digest, now=self.now,
            holdout=(self.first, history.slices.holdout), yardstick=self.yardstick,
            champion=self._start(model_name), checkpoints=self.checkpoints,
        )  # fmt: skip

    def _start(self, model_name: str) -> Start | None:
        """Return what the champion gives to start from, if it is of this kind."""
        if self.champion is None or self.champion_model is None or self.champion.model_name != model_name:
            return None
        return start_from(self.models / self.champion.folder)


def _retrain(dataset: Dataset, reporter: Reporter, engine: EngineName | None) -> NightRecord:
    setting = _setting(dataset)
    config, registry = setting.config, Registry(dataset.home)
    tags = night_tags(setting.history.version, setting.history.digest, setting.holdout)
    tables = dataset.home.tables
    data = lineage(dataset.name, config, tables, setting.history.version, setting.history.digest, setting.holdout)
    with registry.night(dataset.name, f"night {setting.now:%Y-%m-%d %H:%M}", tags) as tracked:
        candidates: dict[str, tuple[Candidate, TrackedRun, str]] = {}
        failures: dict[str, str] = {}
        for model_name, run, outcome in _examined(setting, tracked, data, reporter, engine or config.training.engine):
            if isinstance(outcome, ForecastError):
                failures[model_name] = f"[{outcome.code}] {outcome}"
                run.end("FAILED", failures[model_name])
            else:
                model = log_candidate(run, outcome, setting.models, setting.holdout, setting.panel, config, data[1])
                run.end()
                candidates[outcome.evidence.model_version] = (outcome, run, model)
        if not candidates:
            raise TrainingError("training.all_failed", f"no model could be trained: {'; '.join(failures.values())}")
        scored = [candidate.evidence for candidate, _, _ in candidates.values()]
        champion_evidence = _scored(setting)
        verdict = judge(scored, champion_evidence, config.promotion, setting.unfit)
        night = NightRecord(
            dataset=dataset.name,
            recorded_at=SystemClock().now(),
            data_version=setting.history.version,
            data_digest=setting.history.digest,
            holdout_from=setting.panel.time(setting.first),
            holdout_until=setting.panel.time(setting.history.slices.holdout),
            origins=len(set(setting.holdout.origins)),
            candidates=tuple(scored),
            champion_evidence=champion_evidence,
            baselines=config.training.baselines,
            policy=config.promotion,
            unfit=setting.unfit,
            verdict=verdict,
            champion=None if setting.champion is None else setting.champion.model_version,
            tracking_run=tracked.run_id,
            tracking_experiment=tracked.experiment,
            tracking_models={version: run.run_id for version, (_, run, _) in candidates.items()},
            failures=failures,
        )
        log_comparison(tracked, night.leaderboard, verdict, config, config.training.baselines)
        candidate, run, model = candidates[verdict.challenger]
        folder = candidate.folder
        if verdict.promote and config.training.refit:
            with reporter.step(f"{candidate.manifest.model_name} on all rows") as step:
                folder = refit(candidate, setting.task(candidate.manifest.model_name), setting.models, step)
            model = log_refitted(run, setting.models / folder, setting.holdout, setting.panel, config)
        about = version_tags(config, candidate.evidence, verdict, setting.history.version, setting.history.digest)
        registry.register(dataset.name, run, model, Path(folder).name, verdict.sentence, about)
        promoted = _champion(setting, candidate, folder, verdict.sentence) if verdict.promote else None
        if promoted is not None:
            night = night.model_copy(update={"champion": promoted.model_version})
        dataset.ledger.nights.add(night, promoted)
        mirror(dataset)
    shutil.rmtree(setting.checkpoints, ignore_errors=True)
    if night.champion is None:
        message = f"{dataset.name} has no champion: {verdict.sentence}"
        raise UnavailableError("forecast.no_champion", message, f'run "forecast compare {dataset.name}" to see why')
    return night


def _setting(dataset: Dataset) -> _Setting:
    check_models(dataset.config)
    history = TrainingData.read(dataset)
    config, panel, slices = history.config, history.panel, history.slices
    champion_model, unfit = _champion_model(dataset, config, panel, slices)
    first = slices.calibration
    if champion_model is not None:
        first = max(first, panel.index(champion_model.manifest.fitted_until))
    return _Setting(
        installation=dataset.installation,
        history=history,
        first=first,
        holdout=cut(panel, config, first, slices.holdout),
        yardstick=Yardstick.fit(panel, history.scaler, config.season, slices.fit),
        now=dataset.clock.now(),
        champion=dataset.ledger.champions.current(dataset.name),
        champion_model=champion_model,
        unfit=unfit,
    )


def _champion_model(
    dataset: Dataset, config: DatasetConfig, panel: Panel, slices: Slices
) -> tuple[ServedModel | None, str]:
    """Return the champion if it can be scored beside challengers of this job file; else why it cannot.

    Of a champion that was fitted again on all rows it is the network before that.
    """
    champion = dataset.ledger.champions.current(dataset.name)
    if champion is None:
        return None, ""
    try:
        model = load_evaluated(dataset.home.models / champion.folder, champion.digest)
    except ForecastError as error:
        return None, f"{champion.model_version} cannot be loaded ({error.fact})"
    manifest = model.manifest
    trained_for, wanted = (
        (manifest.lookback, manifest.horizon, manifest.quantiles),
        (config.lookback, config.horizon, config.quantiles),
    )
    if trained_for != wanted or not fits(manifest, config):
        return None, f"{champion.model_version} was trained for other channels, quantiles, look-back or horizon"
    unseen = sorted(set(panel.series) - set(manifest.scaler.targets))
    if unseen:
        return None, f"{champion.model_version} was not trained on series {', '.join(unseen)}"
    if panel.index(manifest.fitted_until) > slices.holdout - config.horizon:
        return None, f"{champion.model_version} was trained on the rows that it would be compared on"
    return model, ""


def _examined(
    setting: _Setting, tracked: Tracked, data: Sequence[Lineage], reporter: Reporter, engine: EngineName
) -> Iterator[tuple[str, TrackedRun, Candidate | ForecastError]]:
    """Train and score every model; each run in MLflow begins with its training."""
    tasks = [setting.task(model_name) for model_name in setting.config.candidates]
    crew: Workers = RayEngine(setting.models) if engine is EngineName.RAY else LocalEngine(setting.models)
    for group in [tasks] if engine is EngineName.RAY else [[task] for task in tasks]:
        runs = [tracked.open(task.model_name) for task in group]
        for run, task in zip(runs, group, strict=True):
            log_task(run, setting.config, task.model_name, setting.panel, setting.history.slices, data)
        for number, outcome in crew.run(examine, group, reporter):
            yield group[number].model_name, runs[number], outcome


def _scored(setting: _Setting) -> Evidence | None:
    """Score the champion on the windows that challengers are scored on, under the name that it serves under."""
    if setting.champion is None or setting.champion_model is None:
        return None
    folder = setting.models / setting.champion.folder
    seen = smoke_test(setting.champion_model, evaluated_in(folder) / NETWORK)
    evidence = evidence_of(setting.champion_model, setting.holdout, setting.yardstick, setting.config, seen)
    return evidence.model_copy(update={"model_version": setting.champion.model_version})


def _champion(setting: _Setting, candidate: Candidate, folder: str, sentence: str) -> Champion:
    return Champion(
        dataset=setting.history.name,
        model_name=candidate.manifest.model_name,
        model_version=Path(folder).name,
        folder=folder,
        digest=manifest_digest(setting.models / folder),
        promoted_at=SystemClock().now(),
        verdict=sentence,
    )


def _sweep(dataset: Dataset) -> None:
    """Remove models that never were champion; MLflow keeps every exported file."""
    kept = dataset.ledger.champions.folders(dataset.name)
    for folder in (dataset.home.models / dataset.name).glob("*"):
        if f"{dataset.name}/{folder.name}" not in kept:
            shutil.rmtree(folder, ignore_errors=True)
