"""A backfilled forecast is the one that would have been issued then, and is never served."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.state.latest import LatestForecasts
from forecast.clock import SystemClock
from forecast.errors import ConfigError, NotFoundError
from forecast.installation import Installation
from forecast.ledger.champions import Champion
from forecast.ledger.issuance import Issuance
from forecast.runtime.manifest import Manifest, manifest_digest
from pipelines.forecasting.issue import issue
from pipelines.forecasting.recompute import recompute
from pipelines.ingestion.ingest import ingest

MakeHome = Callable[..., Installation]
MakeRows = Callable[..., pl.DataFrame]


def now() -> datetime:
    return SystemClock().now()


def bring_in(installation: Installation, rows: pl.DataFrame) -> None:
    rows.write_csv(installation.home.path / "rows.csv")
    ingest(installation.dataset("tiny"))


def promote(installation: Installation, version: str) -> None:
    """Promote a stored model now."""
    digest = manifest_digest(installation.home.models / version)
    installation.ledger.champions.promote(Champion("tiny", "repeat_last", version, version, digest, now(), "better"))


def numbers(installation: Installation, issuance: Issuance) -> pl.DataFrame:
    rows = installation.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at)
    return rows.drop("forecast_id", "issued_month")


def test_it_is_what_was_issued_then_number_by_number(tiny_home: Installation, tiny_rows: MakeRows) -> None:
    issued, _ = issue(tiny_home.dataset("tiny"))
    moment = now()
    bring_in(tiny_home, tiny_rows(430, seed=5))
    later, _ = issue(tiny_home.dataset("tiny"))
    made, is_new = issue(tiny_home.dataset("tiny"), moment)
    assert is_new
    assert (made.backfilled, made.issued_at, made.data_version) == (True, moment, issued.data_version)
    assert numbers(tiny_home, made).equals(numbers(tiny_home, issued))
    assert not numbers(tiny_home, made).equals(numbers(tiny_home, later))
    assert made.provenance is not None
    assert issued.provenance is not None
    assert made.provenance.data_digest == issued.provenance.data_digest
    assert not made.provenance.hindsight


def test_a_backfilled_forecast_is_never_served(tiny_home: Installation, tiny_rows: MakeRows) -> None:
    before = now()
    bring_in(tiny_home, tiny_rows(430))
    issued, _ = issue(tiny_home.dataset("tiny"))
    made, _ = issue(tiny_home.dataset("tiny"), before)
    latest = LatestForecasts(tiny_home, lambda _: None)
    latest.refresh()
    assert latest.of("tiny").issuance.forecast_id == issued.forecast_id
    assert tiny_home.ledger.issuances.latest("tiny", as_of=made.issued_at) is None
    assert [each.forecast_id for each in tiny_home.ledger.issuances.newest("tiny")] == [issued.forecast_id]
    assert [each.forecast_id for each in tiny_home.ledger.issuances.newest("tiny", backfilled=True)] == [
        made.forecast_id
    ]
    again, is_new = issue(tiny_home.dataset("tiny"))
    assert (again.forecast_id, is_new) == (issued.forecast_id, False)


def test_it_is_made_once_and_can_be_recomputed(tiny_home: Installation, tiny_rows: MakeRows) -> None:
    moment = now()
    bring_in(tiny_home, tiny_rows(430))
    made, _ = issue(tiny_home.dataset("tiny"), moment)
    assert issue(tiny_home.dataset("tiny"), moment) == (replace(made, sequence=1), False)
    assert recompute(made.forecast_id, tiny_home).exact


def test_the_champion_of_that_time_makes_it_while_its_files_are_there(
    tiny_home: Installation, store_model: Callable[..., Manifest]
) -> None:
    store_model(tiny_home.home.models / "repeat_last-2", tiny_home.config.datasets["tiny"], bias=1.0)
    moment = now()
    promote(tiny_home, "repeat_last-2")
    made, _ = issue(tiny_home.dataset("tiny"), moment)
    assert made.model_version == "repeat_last-1"
    assert made.provenance is not None
    assert not made.provenance.hindsight
    shutil.rmtree(tiny_home.home.models / "repeat_last-1")
    made, is_new = issue(tiny_home.dataset("tiny"), moment)
    assert is_new
    assert made.model_version == "repeat_last-2"
    assert made.provenance is not None
    assert made.provenance.hindsight
    assert tiny_home.ledger.issuances.get(made.forecast_id) == replace(made, sequence=2)


def test_a_champion_promoted_after_the_instant_is_recorded_as_hindsight(
    make_home: MakeHome, tiny_rows: MakeRows, store_model: Callable[..., Manifest]
) -> None:
    installation = make_home(tiny_rows())
    ingest(installation.dataset("tiny"))
    moment = now()
    store_model(installation.home.models / "first", installation.config.datasets["tiny"])
    promote(installation, "first")
    made, _ = issue(installation.dataset("tiny"), moment)
    assert made.provenance is not None
    assert made.provenance.hindsight


def test_an_instant_before_the_first_row_or_in_the_future_is_refused(tiny_home: Installation) -> None:
    for moment, kind, code in (
        (now() - timedelta(days=1), NotFoundError, "lake.before_first"),
        (now() + timedelta(days=1), ConfigError, "backfill.not_past"),
    ):
        with pytest.raises(kind) as caught:
            issue(tiny_home.dataset("tiny"), moment)
        assert getattr(caught.value, "code", None) == code
    assert tiny_home.ledger.issuances.ids("tiny") == frozenset()


def test_of_a_replay_it_is_issued_at_the_end_of_the_rows_that_were_out(
    make_home: MakeHome, tiny_rows: MakeRows, tiny_document: dict[str, Any], crown: Callable[..., Manifest]
) -> None:
    source = {"kind": "replay", "path": "rows.parquet", "start": "2024-01-10T00:00:00", "speed": 60.0}
    tiny_document["datasets"]["tiny"]["source"] = source
    installation = make_home(document=tiny_document)
    tiny_rows().write_parquet(installation.home.path / "rows.parquet")
    ingest(installation.dataset("tiny"))
    crown(installation)
    made, _ = issue(installation.dataset("tiny"), now())
    assert (
        made.issued_at
        == made.origin
        == installation.dataset("tiny").observations.read()["time"].max() + timedelta(hours=1)
    )


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hours=st.integers(200, 400), later=st.integers(1, 60), seed=st.integers(1, 1000), share=st.sampled_from([0.1, 1.0])
)
def test_rows_that_came_in_afterwards_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    make_home: MakeHome,
    tiny_rows: MakeRows,
    crown: Callable[..., Manifest],
    hours: int,
    later: int,
    seed: int,
    share: float,
) -> None:
    folder: Path = tmp_path_factory.mktemp("home")
    installation = make_home(tiny_rows(hours), folder=folder)
    ingest(installation.dataset("tiny"))
    crown(installation, f"repeat_last-{folder.name}", weight=0.7)
    then, _ = issue(installation.dataset("tiny"))
    moment = now()
    # New rows, and corrections of any share of the old ones.
    news = tiny_rows(hours + later, seed=seed).sample(fraction=share, seed=seed, shuffle=True)
    bring_in(installation, news)
    made, _ = issue(installation.dataset("tiny"), moment)
    assert numbers(installation, made).equals(numbers(installation, then))
    assert (made.origin, made.data_version) == (then.origin, then.data_version)
    assert (made.imputed_fraction, made.newest_observed) == (then.imputed_fraction, then.newest_observed)
