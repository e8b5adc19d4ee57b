from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from forecast.errors import DataError, ForecastError, StorageError, UnavailableError
from forecast.installation import Installation
from forecast.runtime.manifest import Manifest
from forecast.runtime.model import load
from pipelines.forecasting.issue import issue
from pipelines.forecasting.recursion import extend
from pipelines.forecasting.report import write_report
from pipelines.ingestion.ingest import ingest
from pipelines.preparation.clean import clean

HOUR = timedelta(hours=1)
MakeHome = Callable[..., Installation]
MakeRows = Callable[..., pl.DataFrame]


def test_an_issued_forecast_has_a_row_for_each_series_channel_and_lead(tiny_home: Installation) -> None:
    issuance, is_new = issue(tiny_home.dataset("tiny"))
    assert is_new
    assert (issuance.horizon, issuance.quantiles, issuance.imputed_fraction) == (24, (0.1, 0.5, 0.9), 0.0)
    history = tiny_home.dataset("tiny").observations.read()
    assert issuance.origin == history["time"].max() + HOUR
    rows = tiny_home.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at)
    assert len(rows) == 2 * 2 * 24
    for (series, channel), part in rows.group_by("series", "channel"):
        last = history.filter(series=series)[channel][-1]
        assert part["lead"].to_list() == list(range(1, 25))
        assert part["time"].to_list() == [issuance.origin + lead * HOUR for lead in range(24)]
        assert np.allclose(part["mean"], last, atol=1e-3)
        assert np.allclose(part["quantiles"].to_list(), last, atol=1e-3)


def test_the_same_rows_and_the_same_model_are_not_forecast_again(tiny_home: Installation) -> None:
    first, _ = issue(tiny_home.dataset("tiny"))
    again, is_new = issue(tiny_home.dataset("tiny"))
    assert not is_new
    assert again == tiny_home.ledger.issuances.latest("tiny")
    assert again.forecast_id == first.forecast_id


def test_new_rows_or_a_new_champion_are_forecast_anew(
    tiny_home: Installation, tiny_rows: MakeRows, crown: Callable[..., Manifest]
) -> None:
    issue(tiny_home.dataset("tiny"))
    tiny_rows(401).write_csv(tiny_home.home.path / "rows.csv")
    ingest(tiny_home.dataset("tiny"))
    second, is_new = issue(tiny_home.dataset("tiny"))
    assert is_new
    crown(tiny_home, "repeat_last-2")
    third, is_new = issue(tiny_home.dataset("tiny"))
    assert is_new
    assert (second.model_version, third.model_version) == ("repeat_last-1", "repeat_last-2")
    assert second.data_version == third.data_version == 1
    assert len(tiny_home.ledger.issuances.newest("tiny")) == 3


def test_a_model_forecasts_the_same_from_the_same_version_of_the_data(
    tiny_home: Installation, tiny_rows: MakeRows
) -> None:
    config = tiny_home.config.datasets["tiny"]
    issuance, _ = issue(tiny_home.dataset("tiny"))
    tiny_rows(420, seed=5).write_csv(tiny_home.home.path / "rows.csv")  # later rows, and all others corrected
    ingest(tiny_home.dataset("tiny"))
    then = clean(tiny_home.dataset("tiny").observations.read(version=issuance.data_version), config)
    again = extend(load(tiny_home.home.models / issuance.model_folder), then, config, issuance.horizon)
    rows = tiny_home.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at)
    east = rows.filter(series="east", channel="load")["mean"]
    assert np.array_equal(east, again.mean[0, :, 0])


def test_the_issuance_has_the_share_of_filled_values_in_the_look_back(
    make_home: MakeHome, tiny_rows: MakeRows, crown: Callable[..., Manifest]
) -> None:
    rows = tiny_rows()
    newest = pl.col("time").rank("dense", descending=True) <= 24
    installation = make_home(rows.with_columns(load=pl.when(~newest).then("load")))
    ingest(installation.dataset("tiny"))
    crown(installation)
    assert issue(installation.dataset("tiny"))[0].imputed_fraction == pytest.approx(
        0.25
    )  # half of the rows of half of the channels


def test_without_a_champion_nothing_is_issued(make_home: MakeHome, tiny_rows: MakeRows) -> None:
    installation = make_home(tiny_rows(100))
    ingest(installation.dataset("tiny"))
    with pytest.raises(UnavailableError, match='run "forecast train tiny"') as caught:
        issue(installation.dataset("tiny"))
    assert caught.value.code == "forecast.no_champion"


def test_without_rows_nothing_is_issued(make_home: MakeHome, crown: Callable[..., Manifest]) -> None:
    installation = make_home()
    crown(installation)
    with pytest.raises(UnavailableError, match='run "forecast ingest tiny"'):
        issue(installation.dataset("tiny"))


def test_a_forecast_is_visible_whole_or_not_at_all(tiny_home: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in (
        "forecast.ledger.issuances.Issuances.add",
        "forecast.lake.storage.Folder.flush",
        "forecast.lake.storage.Folder.write",
    ):
        with monkeypatch.context() as dying:
            dying.setattr(place, die)
            with pytest.raises(KeyboardInterrupt):
                issue(tiny_home.dataset("tiny"))
        assert tiny_home.ledger.issuances.latest("tiny") is None
    issuance, is_new = issue(tiny_home.dataset("tiny"))
    assert is_new
    assert len(tiny_home.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at)) == 96


def test_a_gap_in_one_series_leaves_the_others_their_forecast(
    make_home: MakeHome, tiny_rows: MakeRows, crown: Callable[..., Manifest]
) -> None:
    rows = tiny_rows()
    hole = (pl.col("site") == "west") & (pl.col("time").rank("dense", descending=True) <= 60)
    installation = make_home(rows.with_columns(load=pl.when(~hole).then("load")))
    ingest(installation.dataset("tiny"))
    crown(installation)
    issuance, _ = issue(installation.dataset("tiny"))
    issued = installation.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at)
    assert issued["series"].unique().to_list() == ["east"]
    assert 'class="plotly-graph-div"' in write_report(installation.dataset("tiny"), issuance).read_text(
        encoding="utf-8"
    )


def test_a_gap_in_every_series_issues_nothing(
    make_home: MakeHome, tiny_rows: MakeRows, crown: Callable[..., Manifest]
) -> None:
    rows = tiny_rows()
    hole = pl.col("time").rank("dense", descending=True) <= 60
    installation = make_home(rows.with_columns(load=pl.when(~hole).then("load")))
    ingest(installation.dataset("tiny"))
    crown(installation)
    with pytest.raises(DataError, match="east has"):
        issue(installation.dataset("tiny"))
    assert installation.ledger.issuances.latest("tiny") is None


def test_a_series_that_is_new_to_the_champion_leaves_the_others_their_forecast(
    tiny_home: Installation, tiny_rows: MakeRows
) -> None:
    tiny_rows(series=("east", "south", "west")).write_csv(tiny_home.home.path / "rows.csv")
    ingest(tiny_home.dataset("tiny"))
    issuance, _ = issue(tiny_home.dataset("tiny"))
    issued = tiny_home.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at)
    assert issued["series"].unique().sort().to_list() == ["east", "west"]


def test_a_broken_champion_is_an_error_and_the_last_forecast_stays(
    tiny_home: Installation, tiny_rows: MakeRows
) -> None:
    before, _ = issue(tiny_home.dataset("tiny"))
    tiny_rows(401).write_csv(tiny_home.home.path / "rows.csv")
    ingest(tiny_home.dataset("tiny"))
    network = tiny_home.home.models / "repeat_last-1" / "model.onnx"
    network.write_bytes(network.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StorageError) as caught:
        issue(tiny_home.dataset("tiny"))
    assert caught.value.code == "model.corrupt"
    assert tiny_home.ledger.issuances.newest("tiny")[0].forecast_id == before.forecast_id


def test_a_champion_whose_manifest_was_changed_is_refused(tiny_home: Installation) -> None:
    # The offsets are not part of the golden example: only a digest of the manifest itself can tell.
    manifest = tiny_home.home.models / "repeat_last-1" / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    assert '"mean_offsets":[[0.0,0.0]]' in text
    manifest.write_text(text.replace('"mean_offsets":[[0.0,0.0]]', '"mean_offsets":[[8.0,0.0]]'), encoding="utf-8")
    with pytest.raises(StorageError) as caught:
        issue(tiny_home.dataset("tiny"))
    assert caught.value.code == "model.corrupt"


@pytest.mark.parametrize(
    "change",
    [
        {"channels": {"price": {"role": "target"}, "load": {"role": "target", "lower": 0}, "wind": {"role": "past"}}},
        {"channels": {"load": {"role": "target", "lower": 0}, "wind": {"role": "past"}}},
        {"channels": {"load": {"role": "target", "lower": 0}, "price": {"role": "past"}, "wind": {"role": "past"}}},
        {"horizons": [6, 12]},
        {"lookback": 24},
        {"lookback": 72},
    ],
    ids=[
        "other order",
        "a target less",
        "another role",
        "a shorter horizon",
        "a shorter look-back",
        "a longer look-back",
    ],
)
def test_after_a_change_of_the_job_the_old_champion_forecasts_rightly_or_says_that_it_cannot(
    tiny_home: Installation, tiny_document: dict[str, Any], make_home: MakeHome, change: dict[str, Any]
) -> None:
    tiny_document["datasets"]["tiny"] |= change
    changed = make_home(document=tiny_document)
    try:
        issuance, _ = issue(changed.dataset("tiny"))
    except ForecastError as error:
        remedy = error.remedy
    else:
        remedy = None
    if remedy is not None:
        assert "train" in remedy
        assert changed.ledger.issuances.latest("tiny") is None
        return
    history = tiny_home.dataset("tiny").observations.read()
    rows = changed.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at)
    for (series, channel), part in rows.group_by("series", "channel"):
        assert np.allclose(part["mean"], history.filter(series=series)[channel][-1], atol=1e-3)
