from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.monitoring.score import score

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    import polars as pl

    from tests.api.conftest import Served

ADDRESS = "/v1/datasets/tiny/accuracy"


@pytest.fixture
def scored(served: Served, tiny_rows: Callable[..., pl.DataFrame]) -> Served:
    """A forecast of 24 steps, half of which have come true and were scored."""
    home = served.home
    later = tiny_rows(12, start=served.issuance.origin)
    later.write_csv(home.home.path / "rows.csv")
    ingest(home.dataset("tiny"))
    issue(home.dataset("tiny"))
    score(home.dataset("tiny"))
    return served


def rows(served: Served, **query: Any) -> list[dict[str, Any]]:
    answer = served.client.get(ADDRESS, params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["rows"])


def test_the_default_grouping_is_by_groups_of_lead_times(scored: Served) -> None:
    answer = scored.client.get(ADDRESS).json()
    assert (answer["dataset"], answer["by"], answer["since"]) == ("tiny", "lead_group", None)
    assert [(row["part"], row["count"]) for row in answer["rows"]] == [("1-6", 24), ("7-24", 24)]
    for row in answer["rows"]:
        assert row["promised_coverage"] == pytest.approx(0.8)
        assert 0 <= row["coverage"] <= 1
        assert set(row["pinball_by_level"]) == {"0.1", "0.5", "0.9"}
        assert row["mae_in_units"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "parts"),
    [
        ("all", ["all"]),
        ("lead_time", [str(lead) for lead in range(1, 13)]),
        ("channel", ["load", "price"]),
        ("series", ["east", "west"]),
        ("model", ["repeat_last-1"]),
    ],
)
def test_rows_are_grouped_as_requested(scored: Served, by: str, parts: list[str]) -> None:
    found = rows(scored, by=by)
    assert [row["part"] for row in found] == parts
    assert sum(row["count"] for row in found) == 48


def test_the_accuracy_of_one_channel_is_also_in_its_unit(scored: Served) -> None:
    (load,) = rows(scored, by="all", channel="load")
    assert load["count"] == 24
    assert load["mae_in_units"] == pytest.approx(load["mae"] * 10)


def test_numbers_are_those_of_the_ledger(scored: Served) -> None:
    (row,) = rows(scored, by="all")
    (stored,) = scored.home.ledger.scores.accuracy("tiny")
    assert row == {name: getattr(stored, name) for name in stored.__slots__}


def test_a_window_leaves_older_forecasts_out(scored: Served) -> None:
    age = scored.home.dataset("tiny").clock.now() - scored.issuance.origin
    days = age // timedelta(days=1)
    assert rows(scored, window=f"{days + 2}d") == rows(scored)
    assert rows(scored, window="1d") == []  # the rows are of 2024


def test_a_model_that_issued_nothing_has_no_rows(scored: Served) -> None:
    assert rows(scored, model="other-1") == []


def test_before_anything_was_scored_there_are_no_rows(served: Served) -> None:
    assert rows(served) == []


def test_an_unchanged_answer_costs_no_body(scored: Served) -> None:
    first = scored.client.get(ADDRESS)
    again = scored.client.get(ADDRESS, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"by": "nothing"}, 422, "by.malformed"),
        ({"window": "a week"}, 422, "window.malformed"),
        ({"window": "0d"}, 422, "window.malformed"),
        ({"window": "999999w"}, 422, "window.out_of_range"),
        ({"channel": "laod"}, 404, "channel.unknown"),
        ({"chanel": "load"}, 422, "parameter.unknown"),
    ],
)
def test_an_invalid_parameter_is_refused_with_its_code(
    served: Served, query: dict[str, str], status: int, code: str
) -> None:
    answer: httpx.Response = served.client.get(ADDRESS, params=query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    document = answer.json() | {"request_id": ""}  # its digits may be any
    assert next(iter(query.values())) not in str(document).replace('"load"', "")


def test_a_data_set_that_does_not_exist_is_not_found(served: Served) -> None:
    answer = served.client.get("/v1/datasets/tyni/accuracy")
    assert (answer.status_code, answer.json()["code"]) == (404, "dataset.unknown")
