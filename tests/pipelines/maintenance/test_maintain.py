from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forecast.errors import StorageError
from forecast.installation import Installation
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.maintenance.maintain import check_tables, maintain

MakeHome = Callable[..., Installation]
MakeRows = Callable[..., pl.DataFrame]


def data_file(installation: Installation) -> Path:
    return min((installation.home.lake / "tiny" / "observations").glob("month=*/*.parquet"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_maintenance_changes_nothing_that_is_read(tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    before = tiny_home.dataset("tiny").observations.read()
    forecast = tiny_home.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at)
    done = maintain(tiny_home.dataset("tiny"))
    assert set(done) == {"observations", "forecasts"}
    assert tiny_home.dataset("tiny").observations.read().equals(before)
    assert tiny_home.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at).equals(forecast)
    assert not issue(tiny_home.dataset("tiny"))[1]  # neither data nor model are new


def test_every_version_within_the_retention_stays_readable(
    make_home: MakeHome, tiny_rows: MakeRows, tiny_document: dict[str, Any]
) -> None:
    for hours in (100, 101, 102):
        ingest(make_home(tiny_rows(hours)).dataset("tiny"))
    installation = make_home(document=tiny_document)
    before = [installation.dataset("tiny").observations.read(version=version) for version in range(3)]
    maintain(installation.dataset("tiny"), timedelta(days=1))
    after = [installation.dataset("tiny").observations.read(version=version) for version in range(3)]
    assert [len(rows) for rows in after] == [200, 202, 204]
    assert all(one.equals(other) for one, other in zip(before, after, strict=True))


def test_a_flipped_bit_stops_maintenance_and_the_error_names_the_file(tiny_home: Installation) -> None:
    damaged = data_file(tiny_home)
    flip(damaged)
    with pytest.raises(StorageError, match=damaged.name) as caught:
        maintain(Installation.open(tiny_home.home.path).dataset("tiny"))
    assert caught.value.code == "lake.corrupt"
    assert [damage.code for damage in check_tables(tiny_home.dataset("tiny"))] == ["lake.corrupt"]
