"""Every button and form that writes, clicked in a real Chromium."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from forecast.clock import SystemClock
from forecast.config.jobs import JobStep
from forecast.ledger.keys import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from playwright.sync_api import Page

    from forecast.installation import Installation

pytestmark = pytest.mark.timeout(120)


@pytest.mark.slow
def test_jobs_are_run_paused_and_cancelled_and_the_page_follows(
    busy: Installation, serve: Callable[..., httpx.Client], look: Callable[..., Any], make_key: Callable[..., str]
) -> None:
    client, key = serve(busy), make_key(busy, Scope.ADMIN)
    while client.get("/v1/datasets").status_code != 401:  # the service reads its keys each second
        pass
    with look(str(client.base_url), "/login") as page:
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/")
        page.goto("/runs")
        assert "went well" in page.locator(".lede").inner_text()
        page.locator("#run-refresh").click()
        page.get_by_text("position 1 in the queue").wait_for()
        now = SystemClock().now()
        run = busy.ledger.runs.take("a-host", now, trainings=1, others=1)
        assert run is not None
        page.locator("#now").get_by_text("a-host").wait_for()
        busy.ledger.runs.beat(run, now, 0.4, "<i>epoch</i> 3")
        page.get_by_text("<i>epoch</i> 3").wait_for()
        busy.ledger.runs.finish(run, "succeeded", now, "it is done")
        page.locator("#latest").get_by_text("it is done").wait_for()
        page.locator("#pause-refresh").click()
        page.locator("#jobs .paused").wait_for()
        page.locator("#run-nightly").click()
        page.locator("#now").get_by_role("button", name="Cancel").click()
        page.locator("#latest .cancelled").first.wait_for()
        page.goto("/runs/2")
        page.get_by_text("<b>failed</b>").wait_for()
        page.goto("/models")
        assert page.get_by_role("link", name="Compare its models").get_attribute("href") == (
            "http://127.0.0.1:5000/#/compare-runs?runs=%5B%2245%22%2C%20%2267%22%5D&experiments=%5B%227%22%5D"
            "&workflowType=machine_learning"
        )


def test_past_dates_are_filled_in_once_up_to_now(
    busy: Installation, serve: Callable[..., httpx.Client], look: Callable[..., Any]
) -> None:
    last = (datetime.now(UTC) - timedelta(days=10)).date()
    first = last - timedelta(days=2)

    def fill_in(page: Page, begin: date, end: date) -> None:
        row = page.locator("#jobs tr").filter(has_text="nightly")
        row.get_by_text("Back-fill").click()
        row.get_by_label("First day").fill(begin.isoformat())
        row.get_by_label("Last day").fill(end.isoformat())
        row.get_by_role("button", name="Queue dates without a run").click()

    with look(str(serve(busy).base_url), "/runs") as page:
        fill_in(page, first, last)
        page.get_by_text("3 runs were queued.").wait_for()
        page.locator("#now").get_by_text("position 3 in the queue").wait_for()
        waiting = [run.logical_date for run in busy.ledger.runs.find(job="nightly", states=["queued"])]
        assert sorted(waiting) == [f"{first + timedelta(days=day)}T02:30" for day in range(3)]
        fill_in(page, first, last)
        page.get_by_text("Every date of this range already has a run.").wait_for()
        fill_in(page, last + timedelta(days=1), datetime.now(UTC).date())  # of today what is due already
        page.get_by_text(re.compile(r"\b(9|10) runs were queued\.")).wait_for()


def test_a_running_run_is_asked_to_stop_from_its_page(
    busy: Installation, serve: Callable[..., httpx.Client], look: Callable[..., Any]
) -> None:
    with look(str(serve(busy).base_url), "/runs") as page:
        page.locator("#pause-refresh").click()
        page.get_by_role("button", name="Resume").click()
        page.get_by_text("refresh was resumed.").wait_for()
        page.locator("#run-refresh").click()
        page.get_by_text("position 1 in the queue").wait_for()
        run = busy.ledger.runs.take("a-host", SystemClock().now(), trainings=1, others=1)
        assert run is not None
        page.goto(f"/runs/{run.run_id}")
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text(f"Stop of run {run.run_id} requested.").wait_for()
        assert busy.ledger.runs.get(run.run_id).cancel_asked_at is not None
        busy.ledger.runs.finish(run, "cancelled", SystemClock().now(), "it was asked to stop")
        page.locator("#run-heading .cancelled").wait_for()
        assert page.get_by_role("button", name="Cancel").count() == 0


@pytest.mark.slow
def test_an_admin_restores_a_former_champion_and_a_reader_sees_the_command(
    busy: Installation, serve: Callable[..., httpx.Client], look: Callable[..., Any], make_key: Callable[..., str]
) -> None:
    client = serve(busy)
    keys = {scope: make_key(busy, scope) for scope in (Scope.READ, Scope.ADMIN)}
    while client.get("/v1/datasets").status_code != 401:  # the service reads its keys each second
        pass
    with look(str(client.base_url), "/login") as page:
        for scope, key in keys.items():
            page.get_by_label("Key").fill(key)
            page.get_by_role("button", name="Log in").click()
            page.get_by_role("link", name="Models", exact=True).click()
            row = page.locator("section[aria-labelledby=champions] tr").filter(has_text="repeat_last-1")
            if scope is Scope.READ:
                assert row.get_by_role("button").count() == 0
                assert "forecast rollback tiny --to repeat_last-1" in row.inner_text()
                page.get_by_role("button", name="Log out").click()
        row.get_by_role("button", name="Restore").click()
        page.get_by_text("Queued: a worker will make repeat_last-1 champion again.").wait_for()
        run = busy.ledger.runs.take("a-host", SystemClock().now(), trainings=1, others=1)
        assert run is not None
        assert (run.definition.steps, run.definition.version) == ((JobStep.ROLLBACK, JobStep.FORECAST), "repeat_last-1")
