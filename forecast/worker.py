"""A worker: executes one claimed run in a process of its own and writes how it ended."""

from __future__ import annotations

import logging

from rich.console import Console

from forecast.clock import SystemClock
from forecast.errors import ForecastError
from forecast.installation import Installation
from forecast.ledger import Run
from forecast.progress import Reporter
from pipelines.ingest import ingest
from pipelines.maintain import maintain
from pipelines.predict import issue
from pipelines.rollback import watch

_LOG = logging.getLogger(__name__)


def work(installation: Installation, run_id: int, console: Console) -> bool:
    """Execute a run; returns whether it succeeded. The ledger knows how it ended either way."""
    run = installation.ledger.run(run_id)
    try:
        summary = _execute(installation, run, console)
    except ForecastError as error:
        state, summary = "failed", f"[{error.code}] {error}"
    except Exception as error:  # noqa: BLE001  # the boundary of a job: whatever happened, the ledger must know
        _LOG.exception("run %d failed", run_id)
        state, summary = "failed", f"[internal] {type(error).__name__}: {error}"
    else:
        state = "succeeded"
    installation.ledger.end(run_id, state, SystemClock().now(), summary)
    # As it is: "[code]" is no markup, and a line of a log is not wrapped.
    console.print(f"run {run_id} {state}: {summary}", markup=False, emoji=False, highlight=False, soft_wrap=True)
    return state == "succeeded"


def _execute(installation: Installation, run: Run, console: Console) -> str:
    if run.kind == "maintain":
        done = maintain(run.dataset, installation).items()
        return "; ".join(f"{what}: {count.files_before} -> {count.files_after} files" for what, count in done)
    receipt = ingest(run.dataset, installation)
    told = [f"{receipt.new} new and {receipt.changed} changed rows"]
    judged = watch(run.dataset, installation)
    if judged is not None and judged.promote:
        told.append(f"rolled back: {judged.sentence}")
    if run.kind == "retrain":
        from pipelines.retrain import retrain  # torch, darts and MLflow: only a training pays for them

        told.append(retrain(run.dataset, installation, Reporter(console)).verdict.sentence)
    issuance, is_new = issue(run.dataset, installation)
    told.append(f"forecast {issuance.forecast_id} " + ("issued" if is_new else "still stands"))
    return "; ".join(told)
