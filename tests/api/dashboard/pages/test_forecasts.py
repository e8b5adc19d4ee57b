from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    import polars as pl

    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest
    from tests.api.conftest import Served

SCRIPT = "</script><script>alert(1)</script>"
ATTRIBUTE = "\"><img src=x onerror='alert(2)'>"


class Page(HTMLParser):
    """A parsed page: its elements, its words, and the text inside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def drawn(self) -> dict[str, Any]:
        """The JSON that the page's script draws."""
        return json.loads(next(text for text in self.scripts if text.strip()))

    @property
    def shown(self) -> dict[str, Any]:
        """The shown forecast of that JSON."""
        return self.drawn["shown"]

    @property
    def median(self) -> list[float]:
        return self.shown["quantiles"][self.shown["levels"].index(0.5)]

    @property
    def observed(self) -> list[float]:
        history = self.shown["history"]
        pairs = zip(history["times"], history["values"], strict=True)
        return [value for time, value in pairs if time >= self.shown["times"][0] and value is not None]


def test_the_page_shows_history_median_and_band(served: Served) -> None:
    answer = served.client.get("/")
    assert answer.status_code == 200
    page = Page(answer.text)
    assert page.shown["levels"] == [0.1, 0.5, 0.9]
    assert len(page.shown["history"]["values"]) == 14 * 24
    assert [len(values) for values in page.shown["quantiles"]] == [24] * 3
    for text in ("load at east", "80% band", "repeat_last-1", served.issuance.forecast_id, "fresh", "Download"):
        assert text in page.words
    assert not page.observed


def test_every_control_of_the_form_has_a_label_and_the_form_works_without_scripts(served: Served) -> None:
    text = served.client.get("/").text
    page = Page(text)
    assert [select["name"] for select in page.all("select")] == ["series", "channel", "horizon", "model", "as_of"]
    assert text.count("<label>") == 5
    assert {"method": "get", "action": "/"}.items() <= page.all("form")[0].items()
    assert page.all("button")
    chosen = served.client.get(
        "/", params={"dataset": "tiny", "series": "west", "channel": "price", "horizon": 6, "as_of": ""}
    )
    assert "price at west" in Page(chosen.text).words
    assert len(Page(chosen.text).median) == 6


def test_the_curl_of_the_page_answers_what_the_page_shows(served: Served) -> None:
    page = Page(served.client.get("/", params={"series": "west", "channel": "price", "horizon": 30}).text)
    address = re.search(r"curl '([^']+)'", page.words)[1]
    line = served.client.get(address).json()["forecasts"][0]
    assert (line["series"], line["channel"]) == ("west", "price")
    assert page.median == pytest.approx([point["quantiles"]["0.5"] for point in line["points"]], rel=1e-5)


def test_a_recursive_part_is_marked(served: Served) -> None:
    page = Page(served.client.get("/", params={"horizon": 48}).text)
    assert page.shown["trained"] < len(page.shown["times"])
    assert "beyond the 24 steps" in page.words


def test_gaps_stay_gaps(
    make_home: Callable[..., Installation],
    tiny_rows: Callable[..., pl.DataFrame],
    crowned: Callable[..., Manifest],
    serve: Callable[[Installation], httpx.Client],
) -> None:
    import polars as pl

    rows = (
        tiny_rows()
        .with_row_index()
        .with_columns(pl.when(pl.col("index").is_between(350, 355)).then(None).otherwise("load").alias("load"))
    )
    installation = make_home(rows.drop("index"))
    ingest(installation.dataset("tiny"))
    crowned(installation)
    issue(installation.dataset("tiny"))
    assert Page(serve(installation).get("/").text).shown["history"]["values"].count(None) == 6


def test_an_earlier_forecast_is_shown_with_the_observations_since(
    served: Served, tiny_rows: Callable[..., pl.DataFrame], wait_until: Callable[..., None]
) -> None:
    tiny_rows(hours=410).write_csv(served.home.home.path / "rows.csv")
    ingest(served.home.dataset("tiny"))
    second, _ = issue(served.home.dataset("tiny"))
    wait_until(lambda: served.get().json()["forecast_id"] == second.forecast_id)
    offered = re.findall(r'<option value="([^"]*\d{2}:\d{2}[^"]*)"', served.client.get("/").text)
    assert len(offered) == 1
    page = Page(served.client.get("/", params={"as_of": html.unescape(offered[0])}).text)
    assert len(page.observed) == 10
    assert "10 of its first 24 steps have been observed" in page.words
    assert served.issuance.forecast_id in page.words


def test_before_the_first_forecast_the_page_says_what_to_run(
    make_home: Callable[..., Installation],
    tiny_rows: Callable[..., pl.DataFrame],
    serve: Callable[[Installation], httpx.Client],
) -> None:
    installation = make_home(tiny_rows())
    client = serve(installation)
    words = Page(client.get("/").text).words
    for command in ("forecast ingest tiny", "forecast train tiny", "forecast forecast tiny"):
        assert command in words
    assert "done" not in words
    ingest(installation.dataset("tiny"))
    assert "done" in Page(client.get("/").text).words


@pytest.mark.parametrize("query", [{"dataset": "x"}, {"series": SCRIPT}, {"channel": "x"}, {"as_of": "1999"}])
def test_a_selection_that_does_not_exist_gets_an_error_page(served: Served, query: dict[str, Any]) -> None:
    answer = served.client.get("/", params=query)
    assert answer.status_code in {404, 422}
    assert answer.headers["content-type"].startswith("text/html")
    assert "This page cannot be shown" in Page(answer.text).words
    assert SCRIPT not in answer.text


def test_hostile_names_are_shown_but_never_run(
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    tiny_rows: Callable[..., pl.DataFrame],
    crowned: Callable[..., Manifest],
    serve: Callable[[Installation], httpx.Client],
) -> None:
    names = (SCRIPT, ATTRIBUTE)
    tiny_document["datasets"]["tiny"]["title"] = SCRIPT
    tiny_document["datasets"]["tiny"]["channels"]["load"]["unit"] = SCRIPT
    installation = make_home(tiny_rows(series=names), tiny_document)
    ingest(installation.dataset("tiny"))
    crowned(installation, series=names)
    issue(installation.dataset("tiny"))
    client = serve(installation)
    for name in names:
        answer = client.get("/", params={"series": name})
        page = Page(answer.text)
        assert name in page.words
        assert not page.all("img") or all(image["src"].startswith("/static/") for image in page.all("img"))
        scripts = [script.get("src", script.get("type")).partition("?")[0] for script in page.all("script")]
        assert scripts[3:] == ["/static/figures.js", "/static/forecasts.js", "/static/arrivals.js", "application/json"]
        assert page.drawn["unit"] == SCRIPT
        assert not any("onerror" in attributes for _, attributes in page.elements)
    forecast = client.get("/v1/datasets/tiny/forecast")
    assert forecast.headers["content-type"] == "application/json"
    assert {line["series"] for line in forecast.json()["forecasts"]} == set(names)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"horizon": "abc"}, "horizon.not_a_number"),
        ({"horizon": "0"}, "horizon.out_of_range"),
        ({"x": "1"}, "parameter.unknown"),
    ],
)
def test_an_invalid_parameter_gets_an_error_page(served: Served, query: dict[str, str], code: str) -> None:
    answer = served.client.get("/", params=query)
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("text/html")
    assert code in Page(answer.text).words
