"""Create the home of the screenshots: the sample, a week of refreshes, and two real nights.

    python -m benchmarks.screenshots.home FOLDER

Takes minutes, mostly for the two trainings; an existing home is left unchanged.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console

from forecast.clock import SystemClock
from forecast.config.jobs import Cause, Due, JobStep
from forecast.installation import Installation
from pipelines.worker import work

_START = datetime(2013, 10, 25, 1, tzinfo=ZoneInfo("America/New_York"))
_DAYS = 8
_TRAINED = frozenset({0, 6})
"""Days with a training at night; on other days only the refreshes run."""
_CHANGES = {
    "itransformer = {": "# itransformer = {",
    "quantiles = [0.1, 0.5, 0.9]": "quantiles = [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975]",
    'models = ["itransformer", "patch_tsmixer"]': 'models = ["patch_tsmixer"]',
    "start = 2013-11-01T22:30:00": f"start = {_START:%Y-%m-%dT%H:%M:%S}",
    "speed = 720 ": "speed = 1 ",
}


def prepare(folder: Path) -> Installation:
    """Return the home; create it unless it exists."""
    if (folder / "forecast.toml").exists():
        return Installation.open(folder)
    folder.mkdir(parents=True)
    text = (Path(__file__).parents[2] / "forecast" / "config" / "sample.toml").read_text(encoding="utf-8")
    for before, after in _CHANGES.items():
        text = text.replace(before, after)
    (folder / "forecast.toml").write_text(text, encoding="utf-8")
    installation = Installation.open(folder)
    name = next(iter(installation.config.datasets))
    installation.dataset(name).clock.now()  # sets the replay's clock to its start
    jobs = installation.config.jobs
    zone = installation.config.datasets[name].zone
    end = _START + timedelta(days=_DAYS)
    dues = sorted(
        (due, job) for job, definition in jobs.items() if (cron := definition.cron_in(zone))
        for due in cron.between(_START, end)
    )  # fmt: skip
    for due, job in dues:
        day = (due - _START) // timedelta(days=1)
        if JobStep.RETRAIN in jobs[job].steps and day not in _TRAINED:
            continue
        installation.ledger.clocks.move(name, due.astimezone(UTC))
        _run(installation, job, due)
    return installation


def _run(installation: Installation, job: str, due: datetime) -> None:
    definition, ledger, now = installation.config.jobs[job], installation.ledger, SystemClock().now
    cron = definition.cron_in(installation.config.datasets[definition.dataset].zone)
    assert cron is not None  # noqa: S101 - only jobs with a schedule are run here
    ledger.runs.claim(job, definition, [Due(logical_date=cron.logical_date(due), at=due, cause=Cause.CRON)], now())
    run = ledger.runs.take("this-machine", now(), trainings=1, others=1)
    assert run is not None  # noqa: S101 - it was queued in the line before
    with (installation.home.logs / f"run-{run.run_id}.log").open("w", encoding="utf-8") as log:
        work(installation, run.run_id, run.attempt, Console(file=log, width=120))


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
