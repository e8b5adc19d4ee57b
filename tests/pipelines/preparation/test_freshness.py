from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.installation import Installation
from forecast.panel import Panel
from forecast.runtime.manifest import Manifest
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.preparation.clean import clean
from pipelines.preparation.freshness import imputed_fraction, newest_observed, observed_until

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MakeRows = Callable[..., pl.DataFrame]


def hidden(rows: pl.DataFrame, series: str, channel: str, since: int) -> pl.DataFrame:
    """Rows without a channel's values of a series from an hour on."""
    key = "site" if "site" in rows.columns else "series"
    gone = (pl.col(key) == series) & (pl.col("time").dt.epoch("s") >= (START + since * HOUR).timestamp())
    return rows.with_columns(pl.when(~gone).then(channel).alias(channel))


@pytest.fixture
def panel(tiny_rows: MakeRows, tiny_config: DatasetConfig) -> Panel:
    rows = tiny_rows(100).rename({"site": "series"}).with_columns(pl.col("time").dt.replace_time_zone("UTC"))
    rows = hidden(hidden(rows, "east", "price", 90), "west", "wind", 0)
    return clean(hidden(rows, "west", "load", 70), tiny_config)


def test_the_newest_observed_value_is_reported_by_series_and_channel(panel: Panel, tiny_config: DatasetConfig) -> None:
    newest = START + 99 * HOUR
    assert newest_observed(panel, tiny_config) == {
        "east": {"load": newest, "price": START + 89 * HOUR, "wind": newest},
        "west": {"load": START + 69 * HOUR, "price": newest, "wind": None},
    }


def test_a_forecast_is_as_fresh_as_the_target_that_is_furthest_behind(panel: Panel) -> None:
    assert observed_until(panel) == START + 69 * HOUR
    assert observed_until(panel.only(["east"])) == START + 89 * HOUR


def test_a_target_that_was_never_observed_has_no_newest_value(
    tiny_rows: MakeRows, config_with: Callable[..., DatasetConfig]
) -> None:
    rows = tiny_rows(100).rename({"site": "series"}).with_columns(pl.col("time").dt.replace_time_zone("UTC"))
    panel = clean(hidden(rows, "west", "load", 0), config_with())
    assert observed_until(panel) is None


def test_the_imputed_share_is_that_of_the_targets_in_the_look_back(panel: Panel, tiny_config: DatasetConfig) -> None:
    assert imputed_fraction(panel, tiny_config) == pytest.approx((10 + 30) / (48 * 4))


def test_an_issued_forecast_says_how_fresh_it_is(
    make_home: Callable[..., Installation], tiny_rows: MakeRows, crown: Callable[..., Manifest]
) -> None:
    installation = make_home(hidden(tiny_rows(), "east", "price", 380))
    ingest(installation.dataset("tiny"))
    crown(installation)
    issuance, _ = issue(installation.dataset("tiny"))
    assert issuance.origin == START + 400 * HOUR
    assert issuance.newest_observed == START + 379 * HOUR
    assert issuance.imputed_fraction == pytest.approx(20 / (48 * 4))
