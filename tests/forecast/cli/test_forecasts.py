import json
from collections.abc import Callable
from datetime import datetime

import polars as pl
import pytest

from forecast.clock import SystemClock
from forecast.installation import Installation
from pipelines.forecasting.issue import issue
from pipelines.forecasting.report import write_report
from pipelines.ingestion.ingest import ingest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def moment(tiny_home: Installation, tiny_rows: Callable[..., pl.DataFrame]) -> datetime:
    """An instant after which more rows came in."""
    found = SystemClock().now()
    tiny_rows(430).write_csv(tiny_home.home.path / "rows.csv")
    ingest(tiny_home.dataset("tiny"))
    return found


def test_a_forecast_that_comes_out_the_same_is_told_to_people_and_machines(run: Run, tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    code, out, _ = run("replay", issuance.forecast_id, "--home", tiny_home.home.path)
    assert code == 0
    assert "comes out exactly the same" in out
    assert "load: 0 MW" in out
    code, out, _ = run("replay", issuance.forecast_id, "--json", "--home", tiny_home.home.path)
    document = json.loads(out)
    assert code == 0
    assert (document["exact"], document["agrees"], document["largest_difference"]) == (True, True, 0.0)
    assert document["channels"] == {"load": 0.0, "price": 0.0}


def test_a_forecast_that_comes_out_otherwise_is_an_error_that_says_how_far(run: Run, tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    table = tiny_home.dataset("tiny").forecasts
    rows = table.read(issuance.forecast_id, issuance.issued_at)
    table.remove({issuance.forecast_id})
    table.append(rows.with_columns(mean=pl.when(channel="price").then(pl.col("mean") + 0.5).otherwise("mean")))
    code, out, err = run("replay", issuance.forecast_id, "--home", tiny_home.home.path)
    assert code == 6
    assert "price: 0.5 EUR/MWh" in out
    assert "load: 0 MW" in out
    assert "(replay.differs)" in err
    code, out, err = run("replay", issuance.forecast_id, "--json", "--home", tiny_home.home.path)
    assert json.loads(out)["agrees"] is False
    assert json.loads(err)["code"] == "replay.differs"


def test_a_forecast_that_nobody_issued_is_not_found(run: Run, tiny_home: Installation) -> None:
    code, _, err = run("replay", "nothing", "--home", tiny_home.home.path)
    assert code == 3
    assert "(forecast.unknown)" in err


def test_a_forecast_is_made_for_a_past_instant(run: Run, tiny_home: Installation, moment: datetime) -> None:
    home = ("--home", tiny_home.home.path)
    code, out, _ = run("backfill", "--as-of", moment.isoformat(), *home)
    assert code == 0
    assert "back-filled" in out
    code, out, _ = run(
        "backfill", "--as-of", f"{moment:%Y-%m-%dT%H:%M:%S.%f}", "--json", *home
    )  # UTC without saying so
    document = json.loads(out)
    assert (document["is_new"], document["issuance"]["backfilled"]) == (False, True)
    assert document["issuance"]["data_version"] == 0
    assert tiny_home.ledger.issuances.latest("tiny") is None
    code, _, err = run("backfill", "--as-of", "1999-01-01", *home)
    assert (code, "(lake.before_first)" in err) == (3, True)


def test_the_status_and_the_report_tell_the_provenance(run: Run, tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    assert issuance.provenance is not None
    document = json.loads(run("status", "--json", "--home", tiny_home.home.path)[1])
    message = document["datasets"]["tiny"]["forecast"]["provenance"]
    assert message == issuance.provenance.model_dump(mode="json")
    page = write_report(tiny_home.dataset("tiny"), issuance).read_text(encoding="utf-8")
    for value in (message["model_digest"], message["data_digest"], message["runtime"], "data_version"):
        assert f">{value}<" in page
