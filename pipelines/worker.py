"""A worker: executes one attempt at a run in its own process, sends heartbeats, and records the outcome."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType

from rich.console import Console

from forecast.clock import SystemClock
from forecast.config.jobs import Cause, Job, JobStep
from forecast.errors import ConfigError, DataError, ForecastError, NotFoundError, UnavailableError
from forecast.installation import Dataset, Installation
from forecast.ledger.run import Outcome, Run
from forecast.progress import Reporter, Step
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.maintenance.maintain import maintain
from pipelines.training.rollback import rollback, rollback_if_worse

_LOG = logging.getLogger(__name__)
_BEAT_SECONDS = 2.0
_EVENTS_KEPT = timedelta(days=30)
"""Events serve live followers; the results of runs, forecasts and alerts stay in their own tables."""
NOT_OWNED = 75
"""Exit code of a worker whose run was abandoned and belongs to another worker now."""

_FINAL = (ConfigError, NotFoundError, DataError, UnavailableError)
"""Failures that a retry with the same inputs would only repeat."""


@dataclass(frozen=True, slots=True)
class _Task:
    """Inputs of a step."""

    installation: Installation
    run: Run
    definition: Job
    reporter: Reporter

    @property
    def dataset(self) -> Dataset:
        return self.installation.dataset(self.run.dataset)


def work(installation: Installation, run_id: int, attempt: int, console: Console) -> bool:
    """Execute an attempt at a run; returns whether it succeeded. The ledger records the outcome in every case."""
    run = installation.ledger.runs.get(run_id)
    if (run.attempt, run.state) != (attempt, "running"):
        console.print(f"run {run_id} is {run.state}, attempt {run.attempt}: nothing to do", markup=False)
        return False
    # The ledger refuses promotions and forecasts of this attempt once the run belongs to another worker.
    installation = replace(installation, ledger=installation.ledger.owned_by(run_id, attempt))
    installation.ledger.runs.started(run, os.getpid())  # the host may have died before it could record this
    with _heartbeats(installation, run) as progress:
        parts: list[str] = []
        outcome: Outcome = "failed"
        retry = False
        try:
            definition = run.definition
            task = _Task(installation, run, definition, _RecordingReporter(console, progress))
            for step in definition.steps:
                progress.set(str(step), None)
                parts.append(_STEPS[step](task))
        except ForecastError as error:
            retry = not isinstance(error, _FINAL)
            parts.append(f"[{error.code}] {error}")
        except (SystemExit, KeyboardInterrupt):
            raise  # the process was asked to end: the supervisor records the reason
        except BaseException as error:  # noqa: BLE001  # the boundary of a job: the ledger must record any failure
            _LOG.exception("run %d failed", run_id)
            retry = True
            parts.append(f"[internal] {type(error).__name__}: {error}")
        else:
            outcome = "succeeded"
    summary = "; ".join(parts)
    state = installation.ledger.runs.finish(run, outcome, SystemClock().now(), summary, retry=retry)
    label = state or "was abandoned meanwhile"
    # Printed verbatim: "[code]" is no markup, and lines of a log are not wrapped.
    console.print(f"run {run_id} {label}: {summary}", markup=False, emoji=False, highlight=False, soft_wrap=True)
    return state == "succeeded"


def _ingest(task: _Task) -> str:
    receipt = ingest(task.dataset)
    message = f"{receipt.new} new and {receipt.changed} changed rows"
    verdict = rollback_if_worse(task.dataset)
    return f"{message}; rolled back: {verdict.sentence}" if verdict is not None and verdict.promote else message


def _retrain(task: _Task) -> str:
    from pipelines.retrain import (
        retrain,
    )  # torch, darts and MLflow take seconds to import: only a training pays for them

    night = retrain(task.dataset, task.reporter)
    task.installation.ledger.runs.link(task.run, tracking_run=night.tracking_run)
    return night.verdict.sentence


def _forecast(task: _Task) -> str:
    is_replay = task.dataset.config.replay is not None
    # The lake records arrival times on the machine's clock, which does not apply to a replay's dates.
    as_of = task.run.due_at if task.run.cause == Cause.BACKFILL and not is_replay else None
    issuance, is_new = issue(task.dataset, as_of)
    task.installation.ledger.runs.link(task.run, forecast_id=issuance.forecast_id)
    return f"forecast {issuance.forecast_id} " + ("issued" if is_new else "is still the latest")


def _score(task: _Task) -> str:
    from pipelines.monitoring.score import score

    return score(task.dataset).message


def _tune(task: _Task) -> str:
    from pipelines.search.tune import tune

    model, minutes = task.definition.model, task.definition.minutes
    found = tune(task.dataset, model, task.reporter, minutes=minutes)
    task.installation.ledger.runs.link(task.run, tracking_run=found.tracking_run)
    return found.summary


def _maintain(task: _Task) -> str:
    task.installation.ledger.events.forget(SystemClock().now() - _EVENTS_KEPT)
    done = maintain(task.dataset).items()
    return "; ".join(f"{what}: {count.files_before} -> {count.files_after} files" for what, count in done)


def _rollback(task: _Task) -> str:
    why = f"requested by run {task.run.run_id}"
    return rollback(task.dataset, task.definition.version or None, why).verdict


_STEPS: Mapping[JobStep, Callable[[_Task], str]] = MappingProxyType(
    {
        JobStep.INGEST: _ingest,
        JobStep.RETRAIN: _retrain,
        JobStep.FORECAST: _forecast,
        JobStep.SCORE: _score,
        JobStep.TUNE: _tune,
        JobStep.MAINTAIN: _maintain,
        JobStep.ROLLBACK: _rollback,
    }
)


class _Progress:
    """Current activity and progress, shared with the heartbeat thread."""

    def __init__(self) -> None:
        self._state: tuple[str | None, float | None] = (None, None)

    def set(self, doing: str, progress: float | None) -> None:
        self._state = (doing, progress)

    @property
    def state(self) -> tuple[str | None, float | None]:
        return self._state


class _RecordedStep(Step):
    """A step whose progress is shown and also sent to the ledger."""

    def __init__(self, shown: Step, title: str, progress: _Progress) -> None:
        self._shown = shown
        self._title = title
        self._progress = progress
        self._note = ""
        self._fraction = 0.0
        self._publish()

    def reach(self, fraction: float) -> None:
        self._shown.reach(fraction)
        self._fraction = fraction
        self._publish()

    def note(self, text: str) -> None:
        self._shown.note(text)
        self._note = text
        self._publish()

    def _publish(self) -> None:
        self._progress.set(": ".join(filter(None, (self._title, self._note))), min(self._fraction, 1.0))


class _RecordingReporter(Reporter):
    def __init__(self, console: Console, progress: _Progress) -> None:
        super().__init__(console)
        self._progress = progress

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        with super().step(title) as shown:
            yield _RecordedStep(shown, title, self._progress)


@contextmanager
def _heartbeats(installation: Installation, run: Run) -> Iterator[_Progress]:
    """Send heartbeats to the ledger while the body runs; end the process if another worker takes over the run."""
    shared, over = _Progress(), threading.Event()

    def beat() -> None:
        sent: tuple[str | None, float | None] = (None, None)
        while not over.wait(_BEAT_SECONDS):
            doing, progress = state = shared.state
            try:
                held = installation.ledger.runs.beat(run, SystemClock().now(), progress, doing, tell=state != sent)
            except ForecastError as error:  # the work continues; its outcome is recorded later, or the run is abandoned
                _LOG.warning("the heartbeat failed: %s", error)
                continue
            sent = state
            if not held and not over.is_set():
                _LOG.error("run %d was abandoned and belongs to another worker now", run.run_id)
                os._exit(NOT_OWNED)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield shared
    finally:
        over.set()
        thread.join()
