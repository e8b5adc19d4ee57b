import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from forecast.errors import ConflictError, ForecastError, NotFoundError, StorageError
from forecast.installation import Installation
from forecast.ledger.issuance import ISSUANCES
from forecast.runtime.manifest import Manifest
from pipelines.forecasting.issue import issue
from pipelines.forecasting.recompute import TOLERANCE, recompute
from pipelines.ingestion.ingest import ingest
from pipelines.maintenance.maintain import maintain

MakeHome = Callable[..., Installation]
MakeRows = Callable[..., pl.DataFrame]


def bring_in(installation: Installation, rows: pl.DataFrame) -> None:
    rows.write_csv(installation.home.path / "rows.csv")
    ingest(installation.dataset("tiny"))


def nudge(installation: Installation, forecast_id: str, factor: float) -> None:
    """Change one number of an issued forecast, as if another machine had made it."""
    issued_at = installation.ledger.issuances.get(forecast_id).issued_at  # type: ignore[union-attr]
    table = installation.dataset("tiny").forecasts
    rows = table.read(forecast_id, issued_at)
    table.remove({forecast_id})
    first = pl.int_range(pl.len()) == 0
    table.append(rows.with_columns(mean=pl.when(first).then(pl.col("mean") * factor).otherwise("mean")))


def code_of(act: Callable[[], object], kind: type[ForecastError]) -> str:
    with pytest.raises(kind) as caught:
        act()
    assert caught.value.remedy
    return caught.value.code


def test_every_forecast_comes_out_exactly_the_same_whatever_came_in_since(
    tiny_home: Installation, tiny_rows: MakeRows, crown: Callable[..., Manifest]
) -> None:
    first, _ = issue(tiny_home.dataset("tiny"))
    bring_in(tiny_home, tiny_rows(420, seed=5))  # later rows, and all others corrected
    second, _ = issue(tiny_home.dataset("tiny"))
    crown(tiny_home, "repeat_last-2", weight=0.7)
    third, _ = issue(tiny_home.dataset("tiny"))
    for issuance in (first, second, third):
        again = recompute(issuance.forecast_id, tiny_home)
        assert again.exact
        assert again.agrees
        assert again.channels == {"load": 0.0, "price": 0.0}
        assert again.otherwise == {}
        assert (again.data_version, again.model_version) == (issuance.data_version, issuance.model_version)


@pytest.mark.parametrize(("factor", "agrees"), [(1 + 1e-12, True), (1 + 1e-6, False)])
def test_a_difference_is_reported_by_channel_and_compared_with_the_tolerance(
    tiny_home: Installation, factor: float, agrees: bool
) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    nudge(tiny_home, issuance.forecast_id, factor)
    again = recompute(issuance.forecast_id, tiny_home)
    assert not again.exact
    assert again.agrees is agrees
    assert again.largest_difference == again.channels["load"] > 0 == again.channels["price"]
    assert (again.largest_relative <= TOLERANCE) is agrees


def test_an_unknown_id_is_an_error_that_names_the_nearest(tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    with pytest.raises(NotFoundError, match=f'did you mean "{issuance.forecast_id}"') as caught:
        recompute(issuance.forecast_id[:-1], tiny_home)
    assert caught.value.code == "forecast.unknown"


def test_rows_removed_by_maintenance_are_an_error_that_names_the_retention(
    tiny_home: Installation, tiny_rows: MakeRows
) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    bring_in(tiny_home, tiny_rows(401))
    maintain(tiny_home.dataset("tiny"), timedelta(0))
    with pytest.raises(NotFoundError, match='increase "retention" of tiny') as caught:
        recompute(issuance.forecast_id, tiny_home)
    assert caught.value.code == "replay.rows_gone"


def test_a_model_with_missing_or_changed_files_is_an_error(tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    folder = tiny_home.home.models / issuance.model_folder
    manifest = folder / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"mean_offsets":[[0.0,0.0]]', '"mean_offsets":[[8.0,0.0]]'), encoding="utf-8")
    assert code_of(lambda: recompute(issuance.forecast_id, tiny_home), StorageError) == "replay.model_changed"
    manifest.write_text(text, encoding="utf-8")
    network = folder / "model.onnx"
    network.write_bytes(network.read_bytes()[:-1] + b"\x01")
    assert code_of(lambda: recompute(issuance.forecast_id, tiny_home), StorageError) == "replay.model_changed"
    shutil.rmtree(folder)
    assert code_of(lambda: recompute(issuance.forecast_id, tiny_home), NotFoundError) == "replay.model_gone"


def test_a_config_with_another_forecast_is_an_error(
    tiny_home: Installation, tiny_document: dict[str, Any], make_home: MakeHome
) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    channels = tiny_document["datasets"]["tiny"]["channels"]
    tiny_document["datasets"]["tiny"]["channels"] = {name: channels[name] for name in ("price", "load", "wind")}
    changed = make_home(document=tiny_document)
    assert code_of(lambda: recompute(issuance.forecast_id, changed), ConflictError) == "replay.job_changed"


def test_rows_that_are_now_cleaned_differently_are_reported(
    make_home: MakeHome, tiny_rows: MakeRows, tiny_document: dict[str, Any], crown: Callable[..., Manifest]
) -> None:
    newest = pl.col("time").rank("dense", descending=True) <= 3
    installation = make_home(tiny_rows().with_columns(load=pl.when(~newest).then("load")))
    ingest(installation.dataset("tiny"))
    crown(installation)
    issuance, _ = issue(installation.dataset("tiny"))
    tiny_document["datasets"]["tiny"]["channels"]["load"] |= {"fill": "zero"}
    again = recompute(issuance.forecast_id, make_home(document=tiny_document))
    assert not again.agrees
    assert list(again.otherwise) == ["data_digest"]


def test_a_forecast_of_an_earlier_release_is_checked_by_the_champions_of_the_ledger(tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    with tiny_home.ledger._database._engine.begin() as connection:
        connection.execute(sa.update(ISSUANCES).values(provenance=None))
    assert recompute(issuance.forecast_id, tiny_home).exact
    manifest = tiny_home.home.models / issuance.model_folder / "manifest.json"
    document = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps(document), encoding="utf-8")
    assert code_of(lambda: recompute(issuance.forecast_id, tiny_home), StorageError) == "replay.model_changed"


def test_missing_rows_of_a_forecast_are_an_error(tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    tiny_home.dataset("tiny").forecasts.remove({issuance.forecast_id})
    assert code_of(lambda: recompute(issuance.forecast_id, tiny_home), StorageError) == "forecast.damaged"
