from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forecast.installation import Installation
from forecast.monitoring.revision import Revision, revision
from forecast.runtime.manifest import MANIFEST, Manifest
from forecast.runtime.model import load
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.preparation.features import FUTURE_FEATURES

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
Crown = Callable[..., Manifest]


def bring(home: Installation, rows: pl.DataFrame) -> None:
    rows.write_csv(home.home.path / "rows.csv")
    ingest(home.dataset("tiny"))


def until(rows: pl.DataFrame, hours: int) -> pl.DataFrame:
    return rows.filter(pl.col("time") < EPOCH.replace(tzinfo=None) + hours * HOUR)


def latest(home: Installation) -> Revision:
    issuance, is_new = issue(home.dataset("tiny"))
    assert is_new
    return home.ledger.revisions.latest("tiny", 1)[issuance.forecast_id]


@pytest.fixture
def rows(tiny_rows: Callable[..., pl.DataFrame]) -> pl.DataFrame:
    return tiny_rows(450)


@pytest.fixture
def home(make_home: Callable[..., Installation], rows: pl.DataFrame, crown: Crown) -> Installation:
    """A home that issued its first forecast, of hours 400 to 423."""
    made = make_home(until(rows, 400))
    ingest(made.dataset("tiny"))
    crown(made)
    issue(made.dataset("tiny"))
    return made


def test_the_first_forecast_moved_from_nothing(home: Installation) -> None:
    assert home.ledger.revisions.latest("tiny") == {}


def test_with_the_same_model_new_rows_explain_all_of_it(home: Installation, rows: pl.DataFrame) -> None:
    first = home.ledger.issuances.latest("tiny")
    bring(home, until(rows, 406))
    message = latest(home)
    assert first is not None
    assert (message.previous, message.steps) == (first.forecast_id, 18)
    known = {(row["site"], row["time"].hour, row["time"].day): row for row in rows.iter_rows(named=True)}
    before, after = ([known[site, (h - 1) % 24, 1 + (h - 1) // 24] for site in ("east", "west")] for h in (400, 406))
    for channel in ("load", "price"):
        moves = [abs(new[channel] - old[channel]) for old, new in zip(before, after, strict=True)]
        assert message.by_channel[channel].mean == pytest.approx(np.mean(moves), abs=1e-3)
        assert message.by_channel[channel].largest == pytest.approx(max(moves), abs=1e-3)
    assert message.change.mean == pytest.approx(np.mean([one.mean for one in message.by_channel.values()]) / 10)
    assert message.causes == {"data": message.change.mean}


def test_the_effect_of_a_new_model_is_separated_from_that_of_new_rows(
    home: Installation, rows: pl.DataFrame, crown: Crown
) -> None:
    bring(home, until(rows, 406))
    crown(home, "repeat_last-2", bias=0.5)  # half a deviation of 10 above the last value
    message = latest(home)
    assert set(message.causes) == {"data", "model"}
    assert message.causes["model"] == pytest.approx(0.5, abs=1e-3)
    assert message.causes["data"] > 0


def test_a_new_model_on_the_same_rows_is_all_that_changed(home: Installation, crown: Crown) -> None:
    crown(home, "repeat_last-2", bias=0.5)
    message = latest(home)
    assert message.causes == pytest.approx({"data": 0.0, "model": 0.5}, abs=1e-3)
    assert message.steps == 24


def put_another_in_its_place(folder: Path) -> None:
    """Change what a model says of itself: sound in itself, but not what the ledger knows."""
    message = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps(message | {"trained_at": "2020-01-01T00:00:00Z"}), encoding="utf-8")
    load(folder)


@pytest.mark.parametrize("lose", [shutil.rmtree, put_another_in_its_place])
def test_without_the_earlier_model_the_whole_change_is_unexplained(
    home: Installation, crown: Crown, caplog: pytest.LogCaptureFixture, lose: Callable[[Path], None]
) -> None:
    crown(home, "repeat_last-2", bias=0.5)
    lose(home.home.models / "repeat_last-1")
    message = latest(home)
    assert message.causes == pytest.approx({"unexplained": 0.5}, abs=1e-3)
    assert "the effect of the new model is unknown" in caplog.text


def test_forecasts_without_a_step_in_common_are_not_compared(home: Installation, rows: pl.DataFrame) -> None:
    bring(home, until(rows, 424))
    issue(home.dataset("tiny"))
    assert home.ledger.revisions.latest("tiny") == {}


def test_a_revised_covariate_is_a_cause_of_its_own(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], rows: pl.DataFrame, crown: Crown
) -> None:
    channels = tiny_document["datasets"]["tiny"]["channels"]
    channels["plan"] = {"role": "future"}
    planned = rows.with_columns(plan=pl.lit(1.0))
    known = pl.col("time") < EPOCH.replace(tzinfo=None) + 400 * HOUR
    ahead = [pl.when(known).then(name).alias(name) for name in ("load", "price", "wind")]
    home = make_home(planned.with_columns(ahead), tiny_document)
    ingest(home.dataset("tiny"))
    scaler = {
        "targets": dict.fromkeys(("east", "west"), ((40.0, 40.0), (10.0, 10.0))),
        "past": dict.fromkeys(("east", "west"), ((5.0,), (2.0,))),
        "future": dict.fromkeys(("east", "west"), ((0.0,), (1.0,))),
    }
    crown(home, future=(*FUTURE_FEATURES, "plan"), scaler=scaler, weight=0.5)
    issue(home.dataset("tiny"))
    later = pl.when(pl.col("time") >= EPOCH.replace(tzinfo=None) + 402 * HOUR).then(5.0).otherwise(1.0)
    bring(home, planned.with_columns(ahead).with_columns(plan=later))
    message = latest(home)
    assert set(message.causes) == {"data", "covariates"}
    assert message.causes["data"] == pytest.approx(0.0, abs=1e-6)
    assert message.causes["covariates"] > 0.01


def test_medians_that_are_equal_have_not_moved() -> None:
    same = np.ones((1, 5, 1))
    message = revision("before", {"before": same, "data": same}, ("load",), np.ones((1, 1)))
    assert (message.change.mean, message.change.largest, message.causes) == (0.0, 0.0, {"data": 0.0})
