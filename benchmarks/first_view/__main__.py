"""Measure the load time of the forecast page: of its preview and of its interactive figure.

``python -m benchmarks.first_view [HOME] [--rounds 5]``. Needs Chromium; HOME is created if it does not exist.

Each round starts a new browser without a cache, opens the page twice, and closes it: the first view is cold, the second
one uses the cache. Times are the browser's own, from the start of the navigation; the table shows medians.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.first_view.home import CHANNELS, make_home
from benchmarks.serve.servers import service
from forecast.errors import NotFoundError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Marks the frame in which the figure is on the screen: the second one after its elements are in the page.
_WATCH = """new MutationObserver((_, watcher) => {
  const figure = document.getElementById("figure");
  if (!figure?.querySelector(".main-svg .scatterlayer path") || figure.getAttribute("aria-busy") !== "false") return;
  watcher.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("drawn")));
}).observe(document, { subtree: true, childList: true, attributes: true });"""
_TIMES = """() => ({
  page: performance.getEntriesByType("navigation")[0].responseEnd,
  picture: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
  script: Math.max(...performance.getEntriesByType("resource").filter((one) => one.name.includes("plotly")).map((one) => one.responseEnd)),
  drawn: performance.getEntriesByName("drawn")[0]?.startTime ?? null,
  bytes: performance.getEntriesByType("resource").reduce((sum, one) => sum + one.transferSize, performance.getEntriesByType("navigation")[0].transferSize),
})"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class View:
    """One view of the page: milliseconds after the request, and bytes over the network."""

    page: float
    """The page has arrived."""
    picture: float
    """The browser shows the text and the preview that the service draws."""
    script: float
    """plotly's script has arrived."""
    drawn: float
    """The browser shows the interactive figure."""
    bytes: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise NotFoundError("chromium.not_found", "Chromium is not installed", "apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        home = given.home or Path(folder) / "home"
        make_home(home)
        views: list[tuple[View, View]] = []
        with service(home, Path(folder) / "service.log") as running, sync_playwright() as playwright:
            arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            for place in range(given.rounds + 1):
                browser = playwright.chromium.launch(executable_path=program, args=arguments)
                views.append(_opened_twice(browser, f"http://127.0.0.1:{running.port}/?channel={CHANNELS[place]}"))
                browser.close()
    for name, seen in zip(("cold", "again"), zip(*views[1:], strict=True), strict=True):  # the first view warms up
        medians = {field: statistics.median(getattr(view, field) for view in seen) for field in View.__slots__}
        slowest = max(view.drawn for view in seen)
        print(name, {field: round(value) for field, value in medians.items()}, f"slowest drawn {slowest:.0f}")  # noqa: T201


def _opened_twice(browser: Browser, address: str) -> tuple[View, View]:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.add_init_script(_WATCH)
    return _opened(page, address), _opened(page, address)


def _opened(page: Page, address: str) -> View:
    page.goto(address)
    while None in (times := page.evaluate(_TIMES)).values():
        page.wait_for_timeout(20)
    return View(**times)


if __name__ == "__main__":
    main()
