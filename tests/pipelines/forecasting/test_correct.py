from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import numpy as np
import polars as pl
import pytest

from api.state.histories import Histories
from api.state.issued import read_issued
from api.state.long_horizon import LongHorizons
from forecast.installation import Installation
from forecast.runtime.calibration import Calibration
from forecast.runtime.manifest import Manifest
from forecast.runtime.model import load
from pipelines.forecasting.correct import corrected
from pipelines.forecasting.issue import issue
from pipelines.forecasting.recursion import extend
from pipelines.ingestion.ingest import ingest
from pipelines.monitoring.score import score
from pipelines.preparation.clean import clean

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
NARROW = Calibration(group=24, quantile_offsets=(((-0.02, 0.0, 0.02),) * 2,), mean_offsets=((0.0, 0.0),))
Make = Callable[..., Installation]


def advance(home: Installation, rows: pl.DataFrame, hours: int) -> None:
    kept = rows.filter(pl.col("time") < EPOCH.replace(tzinfo=None) + hours * HOUR)
    kept.write_csv(home.home.path / "rows.csv")
    ingest(home.dataset("tiny"))


@pytest.fixture
def served(
    make_home: Make,
    tiny_rows: Callable[..., pl.DataFrame],
    tiny_document: dict[str, Any],
    crown: Callable[..., Manifest],
) -> Callable[..., Installation]:
    """A home whose champion's bands are far too narrow, which issued a forecast every six hours and scored them."""

    def make(**fields: Any) -> Installation:
        tiny_document["datasets"]["tiny"] |= fields
        rows = tiny_rows(540)
        home = make_home(None, tiny_document)
        advance(home, rows, 400)
        crown(home, calibration=NARROW)
        for hours in range(400, 520, 6):
            advance(home, rows, hours)
            issue(home.dataset("tiny"))
        score(home.dataset("tiny"))
        advance(home, rows, 520)
        return home

    return make


def widths(home: Installation, forecast_id: str, issued_at: datetime) -> float:
    rows = home.dataset("tiny").forecasts.read(forecast_id, issued_at)
    return float((rows["quantiles"].list.last() - rows["quantiles"].list.first()).mean())  # type: ignore[arg-type]


def test_a_forecast_is_moved_by_what_came_true_and_says_by_what(served: Callable[..., Installation]) -> None:
    home = served()
    first = home.ledger.issuances.newest("tiny")[-1]
    assert first.correction is None
    issuance, _ = issue(home.dataset("tiny"))
    assert issuance.correction is not None
    stored = home.ledger.issuances.latest("tiny")
    assert stored is not None
    assert replace(stored, sequence=0) == issuance
    correction = home.ledger.corrections.get(issuance.correction)
    assert correction is not None
    assert correction.moves
    assert correction.until <= issuance.origin
    assert widths(home, issuance.forecast_id, issuance.issued_at) > 5 * widths(home, first.forecast_id, first.issued_at)


def test_the_same_forecast_can_be_made_again_from_what_is_stored(served: Callable[..., Installation]) -> None:
    home = served()
    issuance, _ = issue(home.dataset("tiny"))
    config = home.config.datasets["tiny"]
    panel = clean(home.dataset("tiny").observations.read(version=issuance.data_version), config)
    model = load(home.home.models / issuance.model_folder)
    base = extend(model, panel, config, issuance.horizon)
    again = corrected(base, home.ledger.corrections.get(issuance.correction), model.manifest, panel.series)
    stored = read_issued(issuance, home)
    assert np.array_equal(again.quantiles.transpose(0, 2, 1, 3), stored.quantiles)
    assert np.array_equal(again.mean.transpose(0, 2, 1), stored.mean)
    before = home.dataset("tiny").forecasts.read_many({issuance.forecast_id: issuance.issued_at})
    message = before.sort("series", "channel", "lead")["base"].list.to_array(3).to_numpy().reshape(2, 2, 24, 3)
    assert np.array_equal(message, base.quantiles.transpose(0, 2, 1, 3))


def test_a_correction_is_found_from_quantiles_as_they_were_before_one(served: Callable[..., Installation]) -> None:
    home = served()
    rows = pl.read_csv(home.home.path / "rows.csv", try_parse_dates=True)
    before = home.ledger.corrections.latest("tiny", "repeat_last-1")
    issue(home.dataset("tiny"))
    later = rows.with_columns(pl.col("time") + timedelta(hours=520))
    pl.concat([rows, later.filter(pl.col("time") < datetime(2024, 1, 23))]).write_csv(home.home.path / "rows.csv")  # noqa: DTZ001
    ingest(home.dataset("tiny"))
    score(home.dataset("tiny"))
    after = home.ledger.corrections.latest("tiny", "repeat_last-1")
    assert before is not None
    assert after is not None
    # Had the moved band been scored against itself, the offsets would have fallen towards zero.
    assert after[1].offsets[1][0][2] > 0.5 * before[1].offsets[1][0][2]


def test_bounds_of_channels_hold(served: Callable[..., Installation]) -> None:
    home = served()
    issuance, _ = issue(home.dataset("tiny"))
    rows = home.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at).filter(channel="load")
    assert rows["quantiles"].list.min().min() >= 0  # type: ignore[operator]


def test_it_can_be_switched_off(served: Callable[..., Installation]) -> None:
    home = served(live_correction=False)
    issuance, _ = issue(home.dataset("tiny"))
    assert issuance.correction is None
    assert home.ledger.corrections.latest("tiny", "repeat_last-1") is not None  # found, and at hand


def test_another_champion_is_not_moved_by_what_came_true_of_the_one_before(
    served: Callable[..., Installation], crown: Callable[..., Manifest]
) -> None:
    home = served()
    crown(home, "repeat_last-2", calibration=NARROW)
    assert issue(home.dataset("tiny"))[0].correction is None


def test_a_prolonged_forecast_is_moved_alike(served: Callable[..., Installation]) -> None:
    home = served()
    issuance, _ = issue(home.dataset("tiny"))
    issued = read_issued(issuance, home)
    longer = anyio.run(LongHorizons(home, Histories(home)).reach, issued, 48)
    width = longer.quantiles[..., -1] - longer.quantiles[..., 0]
    assert width[0, 1, 24:].min() > 0.5 * width[0, 1, :24].max()
