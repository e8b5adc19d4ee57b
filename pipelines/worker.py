"""A worker: executes one attempt at a run in a process of its own, says that it lives, and writes how it ended."""

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
from forecast.installation import Installation
from forecast.ledger.runs import Outcome, Run
from forecast.progress import Reporter, Step
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.maintenance.maintain import maintain
from pipelines.training.rollback import rollback, watch

_LOG = logging.getLogger(__name__)
_BEAT_SECONDS = 2.0
_EVENTS_KEPT = timedelta(days=30)
"""Events are for those who follow them; what runs, forecasts and alerts came to stays in their own tables."""
NOT_OWNED = 75
"""Exit code of a worker whose run was given up and is another's now."""

_FINAL = (ConfigError, NotFoundError, DataError, UnavailableError)
"""Failures that the same work on the same things would only repeat."""


@dataclass(frozen=True, slots=True)
class _Task:
    """What a step works on."""

    installation: Installation
    run: Run
    definition: Job
    reporter: Reporter

    @property
    def dataset(self) -> str:
        return self.run.dataset


def work(installation: Installation, run_id: int, attempt: int, console: Console) -> bool:
    """Execute an attempt at a run; returns whether it succeeded. The ledger knows how it ended either way."""
    run = installation.ledger.runs.get(run_id)
    if (run.attempt, run.state) != (attempt, "running"):
        console.print(f"run {run_id} is {run.state}, attempt {run.attempt}: nothing is left to do", markup=False)
        return False
    # What this attempt promotes and issues is refused once the run is another's.
    installation = replace(installation, ledger=installation.ledger.owned_by(run_id, attempt))
    installation.ledger.runs.started(run, os.getpid())  # its host may have died before it could
    with _signs_of_life(installation, run) as pulse:
        message: list[str] = []
        outcome: Outcome = "failed"
        retry = False
        try:
            definition = run.definition
            task = _Task(installation, run, definition, _WatchedReporter(console, pulse))
            for step in definition.steps:
                pulse.say(str(step), None)
                message.append(_STEPS[step](task))
        except ForecastError as error:
            retry = not isinstance(error, _FINAL)
            message.append(f"[{error.code}] {error}")
        except (SystemExit, KeyboardInterrupt):
            raise  # asked to end: whoever asked says why
        except BaseException as error:  # noqa: BLE001  # the boundary of a job: whatever happened, the ledger must know
            _LOG.exception("run %d failed", run_id)
            retry = True
            message.append(f"[internal] {type(error).__name__}: {error}")
        else:
            outcome = "succeeded"
    summary = "; ".join(message)
    state = installation.ledger.runs.finish(run, outcome, SystemClock().now(), summary, retry=retry)
    # As it is: "[code]" is no markup, and a line of a log is not wrapped.
    told_state = state or "was given up meanwhile"
    console.print(f"run {run_id} {told_state}: {summary}", markup=False, emoji=False, highlight=False, soft_wrap=True)
    return state == "succeeded"


def _ingest(task: _Task) -> str:
    receipt = ingest(task.installation.dataset(task.dataset))
    message = f"{receipt.new} new and {receipt.changed} changed rows"
    judged = watch(task.installation.dataset(task.dataset))
    return f"{message}; rolled back: {judged.sentence}" if judged is not None and judged.promote else message


def _retrain(task: _Task) -> str:
    from pipelines.retrain import retrain  # torch, darts and MLflow: only a training pays for them

    night = retrain(task.installation.dataset(task.dataset), task.reporter)
    task.installation.ledger.runs.link(task.run, tracking_run=night.tracking_run)
    return night.verdict.sentence


def _forecast(task: _Task) -> str:
    config = task.installation.config.datasets[task.dataset]
    # When rows became known is told by the machine's clock, which says nothing of a replay's dates.
    as_of = task.run.due_at if task.run.cause == Cause.BACKFILL and config.replay is None else None
    issuance, is_new = issue(task.installation.dataset(task.dataset), as_of)
    task.installation.ledger.runs.link(task.run, forecast_id=issuance.forecast_id)
    return f"forecast {issuance.forecast_id} " + ("issued" if is_new else "still stands")


def _score(task: _Task) -> str:
    from pipelines.monitoring.score import score

    return score(task.installation.dataset(task.dataset)).message


def _tune(task: _Task) -> str:
    from pipelines.search.tune import tune

    model, minutes = task.definition.model, task.definition.minutes
    found = tune(task.installation.dataset(task.dataset), model, task.reporter, minutes=minutes)
    task.installation.ledger.runs.link(task.run, tracking_run=found.tracking_run)
    return found.summary


def _maintain(task: _Task) -> str:
    task.installation.ledger.events.forget(SystemClock().now() - _EVENTS_KEPT)
    done = maintain(task.installation.dataset(task.dataset)).items()
    return "; ".join(f"{what}: {count.files_before} -> {count.files_after} files" for what, count in done)


def _rollback(task: _Task) -> str:
    why = f"asked for by run {task.run.run_id}"
    return rollback(task.installation.dataset(task.dataset), task.definition.version or None, why).verdict


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


class _Pulse:
    """How far the work is, for the thread that says so."""

    def __init__(self) -> None:
        self._state: tuple[str | None, float | None] = (None, None)

    def say(self, doing: str, progress: float | None) -> None:
        self._state = (doing, progress)

    @property
    def state(self) -> tuple[str | None, float | None]:
        return self._state


class _WatchedStep(Step):
    """A step that is shown and also told to the ledger."""

    def __init__(self, shown: Step, title: str, pulse: _Pulse) -> None:
        self._shown = shown
        self._title = title
        self._pulse = pulse
        self._note = ""
        self._fraction = 0.0
        self._tell()

    def reach(self, fraction: float) -> None:
        self._shown.reach(fraction)
        self._fraction = fraction
        self._tell()

    def note(self, text: str) -> None:
        self._shown.note(text)
        self._note = text
        self._tell()

    def _tell(self) -> None:
        self._pulse.say(": ".join(filter(None, (self._title, self._note))), min(self._fraction, 1.0))


class _WatchedReporter(Reporter):
    def __init__(self, console: Console, pulse: _Pulse) -> None:
        super().__init__(console)
        self._pulse = pulse

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        with super().step(title) as shown:
            yield _WatchedStep(shown, title, self._pulse)


@contextmanager
def _signs_of_life(installation: Installation, run: Run) -> Iterator[_Pulse]:
    """Beat in the ledger while the body runs; the process ends at once when the run is not its own any more."""
    pulse, over = _Pulse(), threading.Event()

    def beat() -> None:
        said: tuple[str | None, float | None] = (None, None)
        while not over.wait(_BEAT_SECONDS):
            doing, progress = state = pulse.state
            try:
                held = installation.ledger.runs.beat(run, SystemClock().now(), progress, doing, tell=state != said)
            except ForecastError as error:  # the work itself may go on; its end will be told, or the run given up
                _LOG.warning("no sign of life could be given: %s", error)
                continue
            said = state
            if not held and not over.is_set():
                _LOG.error("run %d was given up and is another worker's now", run.run_id)
                os._exit(NOT_OWNED)

    thread = threading.Thread(target=beat, name="signs-of-life", daemon=True)
    thread.start()
    try:
        yield pulse
    finally:
        over.set()
        thread.join()
