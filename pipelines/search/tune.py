"""Search for better options of a model within a time budget; results persist when the search is stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from filelock import FileLock, Timeout

from forecast.clock import SystemClock
from forecast.config.training import EngineName
from forecast.errors import (
    ConfigError,
    ConflictError,
    ForecastError,
    StorageError,
    TrainingError,
    first_line,
    nearest,
)
from forecast.installation import Dataset
from forecast.plots.study import history as history_figure
from forecast.plots.study import importance as importance_figure
from forecast.progress import Reporter
from forecast.tracking.registry import Registry
from forecast.tracking.runs import TrackedNight, TrackedRun
from models.catalog import ModelName
from models.search_spaces import SEARCH_SPACES, Option
from pipelines.preparation.training_data import TrainingData
from pipelines.search.trial_training import Outcome, TrialTask, train_trial
from pipelines.search.trials import TrialRow, Trials
from pipelines.tracking.log import code_version, parameters
from pipelines.training.engines import LocalEngine, RayEngine

_AT_ONCE = 8
"""Trials per batch on a cluster; the sampler learns from the whole batch before it proposes the next."""
_CUT_OFF = "interrupted; the next search resumes it"
_MAX_FAILURES = 5
"""Consecutive failures, without any complete trial, after which the search ends."""
_SHOWN = 10
"""Trials on the leaderboard."""

Stopped: TypeAlias = Literal["minutes", "trials", "interrupted"]


@dataclass(frozen=True, slots=True)
class Tuning:
    """Result of a search."""

    dataset: str
    model: str
    study: str
    trials: tuple[TrialRow, ...]
    """All trials of this study, including earlier searches, in order."""
    best: TrialRow | None
    """The complete trial with the lowest loss."""
    present: TrialRow | None
    """The trial of the config's own options."""
    importance: Mapping[str, float]
    toml: str
    """Lines for the config file with the best trial's options; empty if the config has them already."""
    stopped: Stopped
    """Reason for the end of this search: its minutes, its number of trials, or Ctrl-C."""
    tracking_run: str

    @property
    def summary(self) -> str:
        """The outcome in a sentence."""
        done = len(self.trials)
        if self.best is None or self.best.loss is None:
            return f"{self.model}: none of {done} trials completed"
        now = (
            ""
            if self.present is None or self.present.loss is None
            else f", {self.present.loss:.4f} with the present options"
        )
        return f"{self.model}: best loss {self.best.loss:.4f} of {done} trials{now}"

    @property
    def leaderboard(self) -> list[TrialRow]:
        """The best complete trials, best first."""
        return sorted((row for row in self.trials if row.state == "complete"), key=_loss)[:_SHOWN]


def tune(
    dataset: Dataset,
    model_name: str,
    reporter: Reporter,
    *,
    minutes: float,
    limit: int | None = None,
    engine: EngineName | None = None,
) -> Tuning:
    """Try options of a model until the minutes are over or ``limit`` trials are done.

    A trial is trained on the fit slice; its score is the lowest loss on the validation slice, and no other rows are
    read. A trial that fails does not end the search. Ctrl-C ends it like the end of its minutes: the running trial is
    put back, and the next search resumes it from its last complete epoch. Raises ``model.unknown``,
    ``tuning.nothing_to_tune``, ``tuning.no_time``, ``tuning.running`` and ``tuning.all_failed``.
    """
    if not minutes > 0:
        raise ConfigError("tuning.no_time", f"a search cannot take {minutes:g} minutes", "give --minutes above 0")
    until = SystemClock().now() + timedelta(minutes=minutes)
    model = _tunable(model_name)
    engine_name = engine or dataset.config.training.engine
    try:
        with FileLock(dataset.home.locks / f"{dataset.name}.{model}.tuning.lock", timeout=0):
            return _Search(dataset, TrainingData.read(dataset), model, reporter, until, limit, engine_name).run()
    except Timeout as error:
        raise ConflictError(
            "tuning.running", f"{model} of {dataset.name} is being tuned already", "wait until that search ends"
        ) from error


def _tunable(model_name: str) -> ModelName:
    if model_name not in set(ModelName):
        raise ConfigError("model.unknown", f'model "{model_name}" does not exist', nearest(model_name, SEARCH_SPACES))
    model = ModelName(model_name)
    if model not in SEARCH_SPACES:
        raise ConfigError(
            "tuning.nothing_to_tune", f"{model} has no options to tune: it is not trained here",
            f"choose among {', '.join(SEARCH_SPACES)}",
        )  # fmt: skip
    return model


@dataclass(frozen=True, slots=True)
class _Search:
    dataset: Dataset
    history: TrainingData
    model: ModelName
    reporter: Reporter
    until: datetime
    limit: int | None
    engine: EngineName

    def run(self) -> Tuning:
        trials = Trials.open(self.history, self.dataset, self.model)
        tags = {
            "model_name": self.model, "study": trials.title, "data_version": self.history.version,
            "data_digest": self.history.digest, "code_version": code_version(),
        }  # fmt: skip
        now = self.dataset.clock.now()
        title = f"tuning {self.model} {now:%Y-%m-%d %H:%M}"
        with Registry(self.dataset.home).night(self.dataset.name, title, tags, f"tuning {self.model}") as night:
            stopped = self._run_batches(trials, night)
            found = _summarize(self.history, self.model, trials, stopped, night.run_id)
            _log(night, found)
        return found

    def _run_batches(self, trials: Trials, night: TrackedNight) -> Stopped:
        """Run batches of trials until the time, the number of trials or the user's patience is over.

        ``failed`` counts consecutive failures only: a complete trial sets it back to 0.

            state of each trial   failed   failed   complete   failed   failed ...
            failed                1        2        0          1        2

        After ``_MAX_FAILURES`` of them without a single complete trial, of earlier searches too, the cause is the data
        or the config, and further trials would fail as well.
        """
        done, failed = 0, 0
        while self.limit is None or done < self.limit:
            if SystemClock().now() >= self.until:
                return "minutes"
            batch = _AT_ONCE if self.engine is EngineName.RAY else 1
            try:
                outcomes = self._run_batch(
                    trials, night, batch if self.limit is None else min(batch, self.limit - done)
                )
            except KeyboardInterrupt:
                return "interrupted"
            done += len(outcomes)
            for outcome in outcomes:
                failed = failed + 1 if outcome.state == "failed" else 0
            if failed >= _MAX_FAILURES and all(row.state != "complete" for row in trials.rows()):
                message = f"{failed} consecutive trials failed: {outcomes[-1].reason}"
                raise TrainingError("tuning.all_failed", message)
        return "trials"

    def _run_batch(self, trials: Trials, night: TrackedNight, count: int) -> list[Outcome]:
        """Train ``count`` trials and close each with its outcome; interrupted trials are put back."""
        checkpoints = self.dataset.home.checkpoints / f"{self.history.name}.tuning"
        tasks = [TrialTask(self.history, self.model, trials.next(), self.until, checkpoints) for _ in range(count)]
        runs = [night.open(task.title, {"model_name": self.model, "trial": task.attempt.number}) for task in tasks]
        engine = (RayEngine if self.engine is EngineName.RAY else LocalEngine)(self.dataset.home.models)
        outcomes: dict[int, Outcome] = {}
        try:
            for run, task in zip(runs, tasks, strict=True):
                run.log(params=parameters(task.config, self.model))
            for number, outcome in engine.run(train_trial, tasks, self.reporter):
                if isinstance(outcome, TrainingError):  # raised by the cluster
                    outcomes[number] = Outcome("failed", 0.0, f"[{outcome.code}] {first_line(outcome)}")
                elif isinstance(outcome, ForecastError):
                    raise outcome
                else:
                    outcomes[number] = outcome
                _close(trials, tasks[number], runs[number], outcomes[number])
        finally:
            for number in set(range(count)) - set(outcomes):
                trials.put_back(tasks[number].attempt, 0.0)
                with suppress(StorageError):
                    runs[number].end("KILLED", _CUT_OFF)
        return list(outcomes.values())


def _close(trials: Trials, task: TrialTask, run: TrackedRun, outcome: Outcome) -> None:
    """Record the outcome of a trial in the ledger's database and in MLflow."""
    attempt, losses = task.attempt, outcome.losses.get("val_loss", ())
    match outcome.state:
        case "complete":
            trials.complete(attempt, min(losses), outcome.seconds, losses)
        case "pruned":
            trials.prune(attempt, outcome.seconds, outcome.reason)
        case "failed":
            trials.fail(attempt, outcome.seconds, outcome.reason)
        case "cut off":
            trials.put_back(attempt, outcome.seconds)
    numbers = {"seconds": outcome.seconds}
    if outcome.best_loss is not None:
        numbers |= {"best_val_loss": outcome.best_loss, "best_epoch": outcome.best_epoch}
    run.log(tags={"state": outcome.state, "reason": outcome.reason}, metrics=numbers, curves=outcome.losses)
    if outcome.state == "failed":
        run.end("FAILED", outcome.reason)
    elif outcome.state == "cut off":
        run.end("KILLED", _CUT_OFF)
    else:
        run.end()
    if outcome.state != "cut off":
        task.checkpoint.unlink(missing_ok=True)


def _summarize(history: TrainingData, model: ModelName, trials: Trials, stopped: Stopped, tracking_run: str) -> Tuning:
    rows = trials.rows()
    complete = [row for row in rows if row.state == "complete"]
    best = min(complete, key=_loss, default=None)
    present = history.config.options.get(model, {})
    return Tuning(
        dataset=history.name,
        model=model,
        study=trials.title,
        trials=tuple(rows),
        best=best,
        present=next((row for row in complete if row.options == present), None),
        importance=trials.importance(),
        toml="" if best is None or best.options == present else toml_lines(history.name, model, best.options),
        stopped=stopped,
        tracking_run=tracking_run,
    )


def toml_lines(dataset: str, model: str, options: Mapping[str, Option]) -> str:
    """Return lines for the config file with a model's options.

    >>> print(toml_lines("etth1", "dlinear", {"kernel_size": 25, "scale_windows": True}))
    [datasets.etth1.options]
    dlinear = { kernel_size = 25, scale_windows = true }
    """
    # JSON's literals for numbers, strings and booleans are TOML's too.
    values = ", ".join(f"{name} = {json.dumps(value)}" for name, value in sorted(options.items()))
    return f"[datasets.{dataset}.options]\n{model} = {{ {values} }}"


def options_label(options: Mapping[str, Option]) -> str:
    """Return options as one line of text.

    >>> options_label({"kernel_size": 25, "scale_windows": True})
    'kernel_size 25, scale_windows true'
    """
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in sorted(options.items())) or "the preset's"


def _loss(row: TrialRow) -> float:
    return math.inf if row.loss is None else row.loss


def _log(night: TrackedNight, found: Tuning) -> None:
    """Log history, importances and the best trials to the night's run."""
    title = f"{found.model} on {found.dataset}"
    drawn = [(row.number, row.state, row.loss) for row in found.trials if row.loss is not None]
    night.figure(history_figure(f"Trials of {title}", drawn), "figures/history.html")
    if found.importance:
        night.figure(importance_figure(f"Importance of options: {title}", found.importance), "figures/importance.html")
    night.log(tags={"stopped": found.stopped}, metrics={"trials": len(found.trials)})
    if found.best is None:
        return
    night.log(metrics={"best_val_loss": _loss(found.best)})
    lines = [f"| {row.number} | {row.loss:.5f} | {options_label(row.options)} |" for row in found.leaderboard]
    table = "\n".join(("| trial | validation loss | options |", "| --- | --- | --- |", *lines))
    night.note(f"{table}\n\n```toml\n{found.toml}\n```")
