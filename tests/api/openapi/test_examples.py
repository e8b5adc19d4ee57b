from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from api.asgi.admission import FORECASTING
from pipelines.ingestion.ingest import ingest

if TYPE_CHECKING:
    import httpx
    import polars as pl

    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest
    from tests.api.conftest import Served

ENDLESS = "text/event-stream"


def examples(document: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Yield method, path as written, path to call and body of every example, and of every GET."""
    for written, item in document["paths"].items():
        for method, operation in item.items():
            path = written
            for parameter in operation.get("parameters", ()):
                path = path.replace(f"{{{parameter['name']}}}", str(parameter.get("example", "")))
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                yield method, written, path, example["value"]
            if method == "get":
                yield method, written, path, None


def test_every_example_of_the_documentation_is_answered(served: Served, subtests: pytest.Subtests) -> None:
    log = served.home.home.run_log(1)  # of the run that the examples ask for
    log.parent.mkdir(exist_ok=True)
    log.write_text("begun\n", encoding="utf-8")
    document = served.client.get("/openapi.json").json()
    seen = set()
    for method, written, path, body in examples(document):
        with subtests.test(method=method, path=written), served.client.stream(method, path, json=body) as answer:
            content = b"" if answer.headers["content-type"].startswith(ENDLESS) else answer.read()
            assert 200 <= answer.status_code < 300, content[:500]
        seen.add(written)
    assert seen >= FORECASTING


def test_examples_fit_a_data_set_with_covariates_that_are_known_beforehand(
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    tiny_rows: Callable[..., pl.DataFrame],
    crown: Callable[..., Manifest],
    serve: Callable[[Installation], httpx.Client],
) -> None:
    tiny_document["datasets"]["tiny"]["channels"]["wind"] = {"role": "future", "lower": 2, "fill": "forward"}
    tiny_document["datasets"]["tiny"]["checks"] = {"out_of_range": "warn"}
    installation = make_home(tiny_rows(), document=tiny_document)
    ingest(installation.dataset("tiny"))
    crown(installation)
    client = serve(installation)
    for method, written, path, body in examples(client.get("/openapi.json").json()):
        if written in FORECASTING:
            answer = client.request(method, path, json=body)
            assert answer.status_code == 200, answer.text[:500]
