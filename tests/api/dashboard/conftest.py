"""A real browser, and a home with forecasts, scores, a night, runs and quarantined rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from forecast.config.jobs import Cause, Due
from forecast.config.training import PromotionPolicy
from forecast.evaluation.night import NightRecord, judge
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.monitoring.score import score

if TYPE_CHECKING:
    import polars as pl
    from playwright.sync_api import Browser, Page

    from forecast.evaluation.scores import Evidence
    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
JOB = {"dataset": "tiny", "steps": ["ingest", "score", "forecast"], "cron": "0 */6 * * *"}
NIGHTLY = {"dataset": "tiny", "steps": ["ingest", "retrain", "forecast"], "cron": "30 2 * * *"}


@pytest.fixture(scope="module")  # while it is open the thread's event loop runs, and no other test could start one
def browser() -> Iterator[Browser]:
    """The system's Chromium, without background networking."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=program, args=arguments)
        yield opened
        opened.close()


@dataclass
class Window:
    """A page of the browser, and the errors of its console."""

    page: Page
    errors: list[str] = field(default_factory=list)


@pytest.fixture
def look(browser: Browser) -> Callable[..., Any]:
    """Open a window on an address; an error in its console fails the test."""

    @contextmanager
    def opened(base: str, path: str = "/", **context: Any) -> Iterator[Page]:
        given = {"viewport": {"width": 1440, "height": 900}, "base_url": base, "accept_downloads": True} | context
        session = browser.new_context(**given)
        page = session.new_page()
        page.set_default_timeout(15_000)
        window = Window(page)
        page.on("console", lambda message: message.type == "error" and window.errors.append(message.text))
        page.on("pageerror", lambda error: window.errors.append(str(error)))
        page.on("dialog", lambda dialog: dialog.accept())
        try:
            page.goto(path)
            yield page
            assert not window.errors
        finally:
            session.close()

    return opened


@pytest.fixture
def busy_document(tiny_document: dict[str, Any]) -> dict[str, Any]:
    tiny_document["jobs"] = {"refresh": JOB, "nightly": NIGHTLY}
    return tiny_document


@pytest.fixture
def fill(
    tiny_rows: Callable[..., pl.DataFrame], crowned: Callable[..., Manifest], make_evidence: Callable[..., Evidence]
) -> Callable[..., None]:
    """Fill a home with forecasts, scores, a night, runs and a quarantined row."""

    def make(home: Installation, series: tuple[str, ...] = ("east", "west")) -> None:
        file = home.home.path / "rows.csv"
        whole = tiny_rows(412, series=series)
        early = whole.filter(whole["time"] < whole["time"].max() - timedelta(hours=11))  # type: ignore[operator]
        early.write_csv(file)
        ingest(home.dataset("tiny"))
        crowned(home, series=series)
        issue(home.dataset("tiny"))
        whole.write_csv(file)
        name = series[0].replace('"', '""')
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f'no time at all,"{name}",1,2,3\n')
        ingest(home.dataset("tiny"))
        crowned(home, "repeat_last-2", series=series)
        issue(home.dataset("tiny"))
        score(home.dataset("tiny"))
        _keep_night(home, make_evidence)
        _keep_runs(home)

    return make


def _keep_night(home: Installation, make_evidence: Callable[..., Evidence]) -> None:
    scored = (
        make_evidence("linear-1", 1.0),
        make_evidence("seasonal_naive-1", 1.5),
        make_evidence("itransformer-1", 1.2),
    )
    policy, now = PromotionPolicy(max_coverage_error=1.0), datetime.now(UTC)
    verdict = judge(scored, make_evidence("repeat_last-2", 1.1), policy, "")
    home.ledger.nights.add(
        NightRecord(
            dataset="tiny", recorded_at=now, data_version=1, data_digest="d", holdout_from=now, holdout_until=now,
            origins=200, candidates=scored, champion_evidence=make_evidence("repeat_last-2", 1.1),
            baselines=("seasonal_naive", "linear"), policy=policy, unfit="", verdict=verdict, champion="repeat_last-2",
            tracking_run="0123", tracking_experiment="7", tracking_models={"linear-1": "45", "itransformer-1": "67"},
            failures={"s_mamba": "out of memory"},
        )
    )  # fmt: skip


def _keep_runs(home: Installation) -> None:
    now = datetime.now(UTC)
    ends = [("refresh", "succeeded"), ("refresh", "failed"), ("nightly", "succeeded")]
    for number, (name, outcome) in enumerate(ends):
        job, at = home.config.jobs[name], now - timedelta(days=3 - number)
        home.ledger.runs.claim(name, job, [Due(logical_date=f"{number}", at=at, cause=Cause.CRON)], now)
        run = home.ledger.runs.take("a-host", now, trainings=1, others=1)
        assert run is not None
        (home.home.logs / f"run-{run.run_id}.log").write_text(f"<b>{outcome}</b>\n", encoding="utf-8")
        home.ledger.runs.finish(run, outcome, now, f"it {outcome}")  # type: ignore[arg-type]


@pytest.fixture
def busy(
    make_home: Callable[..., Installation], busy_document: dict[str, Any], fill: Callable[..., None]
) -> Installation:
    """A home with forecasts, scores, a night, runs and a quarantined row."""
    home = make_home(None, busy_document)
    fill(home)
    return home
