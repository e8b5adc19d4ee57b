"""Take the screenshots of MLflow: a night's runs and the comparison of its models, by the clicks of a user."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.serve.servers import running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("mlflow-runs", "mlflow")
_UNSHOWN = ("Dataset", "Source", "Models")
_SHOWN = ("cost/latency_ms", "accuracy/coverage", "accuracy/mase", "accuracy/mae", "accuracy/pinball")
_PRESET = ("best_epoch", "option.averaging", "accuracy/pinball")
"""Axes that MLflow shows at first, beside the model; the last added metric gives lines their colours."""
_HIDE = "buttons => buttons.forEach((button) => (button.style.visibility = 'hidden'))"
"""Hides buttons that float over the page."""


def take(browser: Browser, home: Path, images: Path, log: Path) -> None:
    """Start MLflow on a home as ``forecast ui`` does, and take ``mlflow-runs.png`` and ``mlflow.png``."""
    command = [sys.executable, "-m", "forecast", "ui", "--home", str(home), "--ui-port", "PORT"]
    with running(command, "/health", log) as server:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"http://127.0.0.1:{server.port}/#/experiments?workflowType=machine_learning")
        page.get_by_role("button", name="Close").click()  # of the assistant for language models
        experiment = page.get_by_role("link", name="nyc-airports", exact=True).get_attribute("href")
        page.goto(f"http://127.0.0.1:{server.port}/{experiment}/runs?workflowType=machine_learning")
        models = _night(page)
        _columns(page)
        for model in models:
            row = page.get_by_role("row").filter(has=page.get_by_role("link", name=model, exact=True))
            row.locator(".ag-selection-checkbox input").check()
        _shoot(page, images / "mlflow-runs.png", 500)
        page.get_by_role("button", name="Compare").click()
        page.get_by_text("Parallel Coordinates Plot").wait_for()
        page.goto(f"{page.url}&workflowType=machine_learning")
        _axes(page)
        _shoot(page, images / "mlflow.png", 900)
        page.close()


def _shoot(page: Page, file: Path, height: int) -> None:
    page.get_by_role("button", name="MLflow Assistant").evaluate_all(_HIDE)
    page.mouse.move(700, 890)
    page.screenshot(path=file, clip={"x": 0, "y": 0, "width": 1440, "height": height})


def _night(page: Page) -> list[str]:
    """Unfold the newest night, and return the names of its models."""
    night = page.get_by_role("row").filter(has_text="night ").first
    night.locator("[col-id*='Run Name'] svg").first.click()
    page.get_by_role("link", name="seasonal_naive", exact=True).wait_for()
    links = page.locator("[role=row] [col-id*='Run Name'] a").all_inner_texts()
    return [name for name in links if not name.startswith("night ")]


def _columns(page: Page) -> None:
    page.get_by_test_id("column-selection-dropdown").first.click()
    for name in (*_UNSHOWN, *_SHOWN):
        page.get_by_placeholder("Search columns").fill(name)
        page.locator("[class*=tree-treenode]").get_by_text(name, exact=True).click()
    page.keyboard.press("Escape")
    for name in _SHOWN:
        page.get_by_role("columnheader", name=name).locator(".ag-header-cell-resize").dblclick()
    page.wait_for_timeout(1000)  # headings slide to their places


def _axes(page: Page) -> None:
    page.get_by_text("Parallel Coordinates Plot").wait_for()
    for name in _PRESET:
        page.locator("[class*=selection-item-remove]").locator("..").filter(has_text=name).locator(
            "[class*=remove]"
        ).click()
    metrics = page.get_by_role("combobox").nth(1)
    for name in _SHOWN:
        metrics.click()
        metrics.fill(name)
        page.keyboard.press("Enter")
    page.keyboard.press("Escape")
