"""Each page in a real Chromium, by pointer and by keyboard."""

from __future__ import annotations

import io
import re
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import polars as pl
import pytest

from forecast.ledger.keys import Scope
from forecast.runtime.calibration import Calibration
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from playwright.sync_api import Page

    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest

pytestmark = pytest.mark.timeout(120)
PAGES = ("/", "/accuracy?window=all", "/models", "/runs", "/runs/2", "/data")
SCRIPT = "</script><script>alert(1)</script>"
ATTRIBUTE = "\"><img src=x onerror='alert(2)'>"


def until(page: Page, condition: str) -> None:
    """Wait until a condition holds; Playwright's own way evaluates text in the page, which its policy forbids."""
    deadline = time.monotonic() + 15
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"still false: {condition}"
        page.wait_for_timeout(30)


def is_drawn(page: Page) -> None:
    """Wait until every figure is drawn and every late part is loaded."""
    until(page, "!document.querySelector('[aria-busy=true]')")
    until(page, "[...document.querySelectorAll('.plot, #figure')].every(one => one.querySelector('.main-svg'))")


def findings(page: Page) -> list[str]:
    """Return the serious and critical violations that axe finds."""
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    violations = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(found => found.violations)")
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary']}"
        for one in violations
        if one["impact"] in {"serious", "critical"}
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (390, "dark")])
def test_every_page_is_accessible_fits_and_breaks_no_rule(
    busy: Installation, serve: Callable[..., httpx.Client], look: Callable[..., Any], width: int, theme: str
) -> None:
    base = str(serve(busy).base_url)
    with look(base, viewport={"width": width, "height": 844}, color_scheme=theme) as page:
        for path in PAGES:
            page.goto(path)
            is_drawn(page)
            assert findings(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
            assert page.locator("h1").count() == 1


@pytest.mark.slow
def test_every_control_works_by_keyboard(
    busy: Installation, serve: Callable[..., httpx.Client], look: Callable[..., Any]
) -> None:
    with look(str(serve(busy).base_url)) as page:
        is_drawn(page)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.get_by_label("Series").focus()
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        page.keyboard.press("ArrowDown")  # chosen, not shown yet
        assert "series" not in page.url
        page.keyboard.press("Enter")
        page.wait_for_url("**/?*series=west*")
        page.get_by_label("Issue time").focus()
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**as_of=*")
        assert "1 of 2" in page.locator("#issue-text").inner_text()
        theme = page.get_by_role("button", name="Theme")
        theme.focus()
        for wanted in ("light", "dark"):
            page.keyboard.press("Enter")
            assert page.evaluate("document.documentElement.dataset.theme") == wanted
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        for name in ("Accuracy", "Models", "Runs", "Data", "Forecasts"):
            page.get_by_role("link", name=name, exact=True).focus()
            page.keyboard.press("Enter")
            page.get_by_role("link", name=name, exact=True).and_(page.locator("[aria-current=page]")).wait_for()
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark, "the theme is kept"


def test_a_forecast_is_replayed_compared_and_downloaded(
    busy: Installation, serve: Callable[..., httpx.Client], look: Callable[..., Any]
) -> None:
    traces = "document.getElementById('figure').data.map(trace => trace.name).filter(Boolean)"
    with look(str(serve(busy).base_url)) as page:
        is_drawn(page)
        assert page.evaluate(traces) == ["80% band", "observed", "median"]
        page.get_by_role("checkbox", name="repeat_last-1").check()
        until(page, f"{traces}.includes('repeat_last-1')")
        slider = page.get_by_label("Issue time")
        slider.fill("0")
        until(page, f"{traces}.includes('observed since')")
        assert "repeat_last-1" in page.locator("#issue-text").inner_text()
        page.get_by_role("button", name="Play").click()
        until(page, f"!{traces}.includes('observed since')")
        page.get_by_role("button", name="All").click()
        until(page, "document.getElementById('figure').data.find(one => one.name === 'observed').x.length === 412")
        for kind, read in (("CSV", pl.read_csv), ("Parquet", pl.read_parquet)):
            with page.expect_download() as taken:
                page.get_by_role("link", name=kind).click()
            rows = read(io.BytesIO(taken.value.path().read_bytes()))
            assert (len(rows), set(rows["series"]), set(rows["channel"])) == (24, {"east"}, {"load"})
        with page.expect_download() as taken:
            page.get_by_role("button", name="PNG").click()
        assert taken.value.path().read_bytes().startswith(b"\x89PNG")
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy curl").click()
        page.get_by_text("Copied.").wait_for()
        assert re.match(r"curl 'http://127\.0\.0\.1:\d+/v1/", page.evaluate("navigator.clipboard.readText()"))


def test_hostile_names_are_only_names_on_every_page(
    make_home: Callable[..., Installation],
    busy_document: dict[str, Any],
    fill: Callable[..., None],
    serve: Callable[..., httpx.Client],
    look: Callable[..., Any],
) -> None:
    tiny = busy_document["datasets"]["tiny"]
    tiny["title"] = SCRIPT
    tiny["channels"]["load"]["unit"] = ATTRIBUTE
    home = make_home(None, busy_document)
    fill(home, series=(SCRIPT, ATTRIBUTE))
    with look(str(serve(home).base_url)) as page:
        page.on("dialog", lambda _: pytest.fail("a name was run"))
        for path in PAGES:
            page.goto(path)
            is_drawn(page)
            assert page.locator("img:not([src^='/static/'])").count() == 0, path
        page.goto("/")
        is_drawn(page)
        assert ATTRIBUTE in page.locator("h1").inner_text()
        page.goto(f"/?{urlencode({'series': SCRIPT})}")
        is_drawn(page)
        assert SCRIPT in page.locator("h1").inner_text()


def test_a_key_for_reading_sees_no_buttons(
    busy: Installation, serve: Callable[..., httpx.Client], make_key: Callable[..., str]
) -> None:
    client, key = serve(busy), make_key(busy, Scope.READ)
    while client.get("/v1/datasets").status_code != 401:
        pass
    answer = client.get("/runs", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    assert "data-method" not in answer.text


@pytest.mark.slow
def test_a_year_of_fifty_channels_is_drawn_from_few_points(
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    tiny_rows: Callable[..., pl.DataFrame],
    crown: Callable[..., Manifest],
    serve: Callable[..., httpx.Client],
    look: Callable[..., Any],
) -> None:
    config, names = tiny_document["datasets"]["tiny"], [f"load{number}" for number in range(50)]
    config["channels"] = {name: {"role": "target", "unit": "MW"} for name in names}
    rows = tiny_rows(8760, series=("east",))
    whole = rows.select("time", "site", *(pl.col("load").alias(name) for name in names))
    home = make_home(whole, tiny_document)
    ingest(home.dataset("tiny"))
    band = Calibration(group=24, quantile_offsets=(((-1.0, 0.0, 1.0),) * 50,), mean_offsets=((0.0,) * 50,))
    crown(home, series=("east",), calibration=band)
    issue(home.dataset("tiny"))
    client = serve(home)
    with look(str(client.base_url), "/data") as page:
        views = [first_view(page, f"/?channel=load{number}") for number in (7, 31, 49)]
        rounded = [tuple(round(seconds, 2) for seconds in view) for view in views]
        print("seconds until there is a preview, and until the figure is drawn:", rounded)  # noqa: T201
        assert len(client.get("/").content) < 200_000
        page.get_by_role("button", name="1 year").click()
        observed = "document.getElementById('figure').data.find(one => one.name === 'observed').x.length"
        until(page, f"{observed} > 1000 && {observed} <= 1502")
        page.evaluate("Plotly.relayout('figure', {'xaxis.range[0]': '2024-06-01', 'xaxis.range[1]': '2024-06-15'})")
        until(page, f"{observed} === 28 * 24")  # in detail, with as much again around it


def first_view(page: Page, path: str) -> tuple[float, float]:
    """Return the seconds from the request of a page to its preview, and to its interactive figure."""
    began = time.monotonic()
    page.goto(path)
    is_drawn(page)
    whole = time.monotonic() - began
    return page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"), whole
