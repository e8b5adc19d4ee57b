import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

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


def test_a_reproduced_forecast_is_reported_to_people_and_machines(run: Run, tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    code, out, _ = run("recompute", issuance.forecast_id, "--home", tiny_home.home.path)
    assert code == 0
    assert "is exactly reproduced" in out
    assert "load: 0 MW" in out
    code, out, _ = run("recompute", issuance.forecast_id, "--json", "--home", tiny_home.home.path)
    document = json.loads(out)
    assert code == 0
    assert (document["exact"], document["agrees"], document["largest_difference"]) == (True, True, 0.0)
    assert document["channels"] == {"load": 0.0, "price": 0.0}


def test_a_forecast_that_differs_is_an_error_with_the_difference(run: Run, tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    table = tiny_home.dataset("tiny").forecasts
    rows = table.read(issuance.forecast_id, issuance.issued_at)
    table.remove({issuance.forecast_id})
    table.append(rows.with_columns(mean=pl.when(channel="price").then(pl.col("mean") + 0.5).otherwise("mean")))
    code, out, err = run("recompute", issuance.forecast_id, "--home", tiny_home.home.path)
    assert code == 6
    assert "price: 0.5 EUR/MWh" in out
    assert "load: 0 MW" in out
    assert "(replay.differs)" in err
    code, out, err = run("recompute", issuance.forecast_id, "--json", "--home", tiny_home.home.path)
    assert json.loads(out)["agrees"] is False
    assert json.loads(err)["code"] == "replay.differs"


def test_an_unknown_forecast_is_not_found(run: Run, tiny_home: Installation) -> None:
    code, _, err = run("recompute", "nothing", "--home", tiny_home.home.path)
    assert code == 3
    assert "(forecast.unknown)" in err


def test_a_forecast_is_reissued_as_of_a_past_instant(run: Run, tiny_home: Installation, moment: datetime) -> None:
    home = ("--home", tiny_home.home.path)
    code, out, _ = run("reissue", "--as-of", moment.isoformat(), *home)
    assert code == 0
    assert "reissued" in out
    utc_without_offset = f"{moment:%Y-%m-%dT%H:%M:%S.%f}"
    code, out, _ = run("reissue", "--as-of", utc_without_offset, "--json", *home)
    document = json.loads(out)
    assert (document["is_new"], document["issuance"]["backfilled"]) == (False, True)
    assert document["issuance"]["data_version"] == 0
    assert tiny_home.ledger.issuances.latest("tiny") is None
    code, _, err = run("reissue", "--as-of", "1999-01-01", *home)
    assert (code, "(lake.before_first)" in err) == (3, True)


@pytest.mark.parametrize("name", ["recompute", "reissue"])
def test_the_deprecated_name_of_a_command_prints_the_same(
    run: Run, tiny_home: Installation, moment: datetime, name: str
) -> None:
    old = {"recompute": "replay", "reissue": "backfill"}[name]
    issuance, _ = issue(tiny_home.dataset("tiny"))
    arguments = [issuance.forecast_id] if name == "recompute" else ["--as-of", moment.isoformat()]
    arguments += ["--home", str(tiny_home.home.path)]
    run(name, *arguments)  # the first reissue is new, later ones find it
    for form in ([], ["--json"]):
        assert run(old, *arguments, *form) == run(name, *arguments, *form)
    code, out, _ = run(old, "--help")
    assert code == 0
    assert f'Deprecated: use "forecast {name}"' in out


def test_the_status_and_the_report_show_the_provenance(run: Run, tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    assert issuance.provenance is not None
    document = json.loads(run("status", "--json", "--home", tiny_home.home.path)[1])
    message = document["datasets"]["tiny"]["forecast"]["provenance"]
    assert message == issuance.provenance.model_dump(mode="json")
    page = write_report(tiny_home.dataset("tiny"), issuance).read_text(encoding="utf-8")
    for value in (message["model_digest"], message["data_digest"], message["runtime"], "data_version"):
        assert f">{value}<" in page


def test_a_plot_shows_the_forecast_that_was_issued_and_issues_none(
    tiny_home: Installation, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    home = tiny_home.home.path
    code, _, err = run("plot", "--home", home)
    assert code == 8
    assert "forecast.none_yet" in err
    issuance, _ = issue(tiny_home.dataset("tiny"))
    code, out, _ = run("plot", "--home", home, "--json")
    message = json.loads(out)
    assert (code, message["forecast_id"], opened) == (0, issuance.forecast_id, [])
    page = Path(message["report"]).read_text(encoding="utf-8")
    assert issuance.forecast_id in page
    assert "<script src=" not in page
    assert run("plot", "tiny", "--open", "--home", home)[0] == 0
    assert opened == [Path(message["report"]).as_uri()]
    assert len(tiny_home.ledger.issuances.newest("tiny")) == 1
