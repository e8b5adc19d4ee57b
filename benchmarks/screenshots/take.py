"""Take the screenshots of the documentation: every page of the dashboard, and a night in MLflow.

    python -m benchmarks.screenshots.take [HOME] [IMAGES]

HOME is created if it does not exist (:mod:`benchmarks.screenshots.home`). Needs Chromium; nothing is downloaded.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from api.server import listen, server
from benchmarks.screenshots import tracking
from benchmarks.screenshots.home import prepare
from forecast.errors import NotFoundError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from forecast.installation import Installation

_DRAWN = "[...document.querySelectorAll('.plot, #figure')].every(one => one.querySelector('.main-svg'))"
_SHOTS = (
    ("page", "/?series=JFK&channel=departures&horizon=168", 1440, "light"),
    ("dashboard-accuracy", "/accuracy?channel=departures", 1440, "light"),
    ("dashboard-models", "/models", 1440, "light"),
    ("dashboard-runs", "/runs", 1440, "light"),
    ("dashboard-data", "/data", 1440, "light"),
    ("dashboard-dark", "/?series=JFK&channel=mean_delay&horizon=168", 1440, "dark"),
    ("dashboard-phone", "/?series=JFK&channel=departures&horizon=168", 390, "dark"),
)
_HEIGHT, _TALLEST = 900, 1500


def main(home: Path, images: Path) -> None:
    """Take all screenshots."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise NotFoundError("chromium.not_found", "Chromium is not installed", "apt-get install chromium")
    from playwright.sync_api import sync_playwright

    installation = prepare(home)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        with serving(installation) as base:
            for name, path, width, theme in _SHOTS:
                _take(browser, f"{base}{path}", width, theme, images / f"{name}.png")
        with tempfile.TemporaryDirectory() as folder:
            tracking.take(browser, home, images, Path(folder) / "mlflow.log")
        browser.close()
    for name in (*(shot[0] for shot in _SHOTS), *tracking.NAMES):
        with Image.open(file := images / f"{name}.png") as picture:
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def _take(browser: Browser, address: str, width: int, theme: str, file: Path) -> None:
    page = browser.new_page(viewport={"width": width, "height": _HEIGHT}, color_scheme=theme)  # type: ignore[arg-type]
    page.goto(address)
    while not page.evaluate(f"!document.querySelector('[aria-busy=true]') && {_DRAWN}"):
        page.wait_for_timeout(50)
    height = min(page.evaluate("document.documentElement.scrollHeight"), _TALLEST)
    page.screenshot(path=file, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
    page.close()


@contextmanager
def serving(installation: Installation) -> Iterator[str]:
    """Serve a home on a free port while the body runs."""
    listener = listen("127.0.0.1", 0)
    one = server(installation)
    thread = threading.Thread(target=one.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        one.should_exit = True
        thread.join()


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*(given + [Path("screenshots-home"), Path("docs/images")][len(given) :]))
