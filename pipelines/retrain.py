"""One night: train candidates, compare them with the champion on the same held-out origins, promote or not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from forecast.clock import SystemClock
from forecast.config.training import EngineName
from forecast.errors import ConflictError, ForecastError, TrainingError, UnavailableError
from forecast.evaluation.night import NightRecord, judge
from forecast.installation import Dataset
from forecast.ledger.champions import Champion
from forecast.progress import Reporter
from forecast.runtime.manifest import manifest_digest
from forecast.tracking.registry import Registry
from forecast.tracking.runs import TrackedNight, TrackedRun
from pipelines.tracking.log import (
    lineage,
    log_candidate,
    log_comparison,
    log_refitted,
    log_task,
    night_tags,
    version_tags,
)
from pipelines.training.candidates import Candidate, refit, train_candidate
from pipelines.training.engines import Engine, LocalEngine, RayEngine
from pipelines.training.night import RetrainContext
from pipelines.training.rollback import sync_aliases


@dataclass(frozen=True, slots=True)
class _Trained:
    """A scored candidate, its run in MLflow, and what a promotion would register and serve."""

    candidate: Candidate
    run: TrackedRun
    model: str
    """MLflow's identifier of the model to register."""
    folder: str


def retrain(dataset: Dataset, reporter: Reporter, engine: EngineName | None = None) -> NightRecord:
    """Train every model of the config file and the baselines; promote the best one if it beats the champion.

    A model that fails does not stop the others. Raises ``training.all_failed`` if every model fails, and
    ``training.running`` while another process trains the same data set. A night that was killed leaves checkpoints; the
    next one resumes from them if data and settings are the same.
    """
    with _exclusively(dataset):
        night = RetrainContext.read(dataset)
        tags = night_tags(night.data.version, night.data.digest, night.holdout)
        registry = Registry(dataset.home)
        with registry.night(dataset.name, f"night {night.now:%Y-%m-%d %H:%M}", tags) as tracked:
            candidates, failures = _train(night, tracked, reporter, engine or night.config.training.engine)
            record = _compare(night, tracked, candidates, failures)
            winner = candidates[record.verdict.challenger]
            if record.verdict.promote and night.config.training.refit:
                winner = _refit(night, winner, reporter)
            record = _register(night, registry, winner, record)
        shutil.rmtree(night.checkpoints, ignore_errors=True)
    if record.champion is None:
        message = f"{dataset.name} has no champion: {record.verdict.sentence}"
        raise UnavailableError("forecast.no_champion", message, f'run "forecast compare {dataset.name}" to see why')
    return record


@contextmanager
def _exclusively(dataset: Dataset) -> Iterator[None]:
    """Hold the data set's training lock; remove what an interrupted night left, and at the end this night's losers."""
    try:
        with FileLock(dataset.home.locks / f"{dataset.name}.retrain.lock", timeout=0):
            _remove_unpromoted(dataset)
            try:
                yield
            finally:
                _remove_unpromoted(dataset)
    except Timeout as error:
        raise ConflictError(
            "training.running", f"{dataset.name} is being trained already", "wait until that training ends"
        ) from error


def _train(
    night: RetrainContext, tracked: TrackedNight, reporter: Reporter, engine_name: EngineName
) -> tuple[dict[str, _Trained], dict[str, str]]:
    """Train and score every model; returns candidates by version, and the reason of each failure by model name."""
    data, config = night.data, night.config
    fitted_on, scored_on = lineage(
        data.name, config, night.dataset.home.tables, data.version, data.digest, night.holdout
    )
    engine: Engine = RayEngine(night.models) if engine_name is EngineName.RAY else LocalEngine(night.models)
    tasks = [night.task(model_name) for model_name in config.candidates]
    candidates: dict[str, _Trained] = {}
    failures: dict[str, str] = {}
    # Ray takes all tasks at once. Locally each run in MLflow begins with its own training.
    for group in [tasks] if engine_name is EngineName.RAY else [[task] for task in tasks]:
        runs = [tracked.open(task.model_name) for task in group]
        for run, task in zip(runs, group, strict=True):
            log_task(run, config, task.model_name, night.panel, data.slices, (fitted_on, scored_on))
        for number, outcome in engine.run(train_candidate, group, reporter):
            run = runs[number]
            if isinstance(outcome, ForecastError):
                failures[group[number].model_name] = f"[{outcome.code}] {outcome}"
                run.end("FAILED", failures[group[number].model_name])
                continue
            model = log_candidate(run, outcome, night.models, night.holdout, night.panel, config, scored_on)
            run.end()
            candidates[outcome.evidence.model_version] = _Trained(outcome, run, model, outcome.folder)
    if not candidates:
        raise TrainingError("training.all_failed", f"no model could be trained: {'; '.join(failures.values())}")
    return candidates, failures


def _compare(
    night: RetrainContext, tracked: TrackedNight, candidates: Mapping[str, _Trained], failures: dict[str, str]
) -> NightRecord:
    """Decide by the policy whether the best candidate replaces the champion, and log the comparison."""
    config, data = night.config, night.data
    scored = tuple(trained.candidate.evidence for trained in candidates.values())
    champion_evidence = night.champion_evidence()
    record = NightRecord(
        dataset=data.name,
        recorded_at=SystemClock().now(),
        data_version=data.version,
        data_digest=data.digest,
        holdout_from=data.panel.time(night.first),
        holdout_until=data.panel.time(data.slices.holdout),
        origins=len(set(night.holdout.origins)),
        candidates=scored,
        champion_evidence=champion_evidence,
        baselines=config.training.baselines,
        policy=config.promotion,
        unfit=night.unfit,
        verdict=judge(scored, champion_evidence, config.promotion, night.unfit),
        champion=None if night.champion is None else night.champion.model_version,
        tracking_run=tracked.run_id,
        tracking_experiment=tracked.experiment,
        tracking_models={version: trained.run.run_id for version, trained in candidates.items()},
        failures=failures,
    )
    log_comparison(tracked, record.leaderboard, record.verdict, config, config.training.baselines)
    return record


def _refit(night: RetrainContext, winner: _Trained, reporter: Reporter) -> _Trained:
    """Fit the winner again on all rows, the holdout included."""
    model_name = winner.candidate.manifest.model_name
    with reporter.step(f"{model_name} on all rows") as step:
        folder = refit(winner.candidate, night.task(model_name), night.models, step)
    model = log_refitted(winner.run, night.models / folder, night.holdout, night.panel, night.config)
    return replace(winner, model=model, folder=folder)


def _register(night: RetrainContext, registry: Registry, winner: _Trained, record: NightRecord) -> NightRecord:
    """Register the winner in MLflow; keep the night in the ledger, with the new champion if it is promoted."""
    dataset, verdict, version = night.dataset, record.verdict, Path(winner.folder).name
    tags = version_tags(night.config, winner.candidate.evidence, verdict, record.data_version, record.data_digest)
    registry.register(dataset.name, winner.run, winner.model, version, verdict.sentence, tags)
    promoted = None
    if verdict.promote:
        promoted = Champion(
            dataset=dataset.name,
            model_name=winner.candidate.manifest.model_name,
            model_version=version,
            folder=winner.folder,
            digest=manifest_digest(night.models / winner.folder),
            promoted_at=SystemClock().now(),
            verdict=verdict.sentence,
        )
        record = record.model_copy(update={"champion": version})
    dataset.ledger.nights.add(record, promoted)  # both or neither
    sync_aliases(dataset)
    return record


def _remove_unpromoted(dataset: Dataset) -> None:
    """Remove the folders of models that never were champion; MLflow keeps every exported file."""
    kept = dataset.ledger.champions.folders(dataset.name)
    for folder in (dataset.home.models / dataset.name).glob("*"):
        if f"{dataset.name}/{folder.name}" not in kept:
            shutil.rmtree(folder, ignore_errors=True)
