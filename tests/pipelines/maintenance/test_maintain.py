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
    issuance, _ = issue("tiny", tiny_home)
    before = tiny_home.observations("tiny").read()
    forecast = tiny_home.forecasts("tiny").read(issuance.forecast_id, issuance.issued_at)
    done = maintain("tiny", tiny_home)
    assert set(done) == {"observations", "forecasts"}
    assert tiny_home.observations("tiny").read().equals(before)
    assert tiny_home.forecasts("tiny").read(issuance.forecast_id, issuance.issued_at).equals(forecast)
    assert not issue("tiny", tiny_home)[1]  # neither data nor model are new


def test_every_version_within_the_retention_stays_readable(
    make_home: MakeHome, tiny_rows: MakeRows, tiny_document: dict[str, Any]
) -> None:
    for hours in (100, 101, 102):
        ingest("tiny", make_home(tiny_rows(hours)))
    installation = make_home(document=tiny_document)
    before = [installation.observations("tiny").read(version=version) for version in range(3)]
    maintain("tiny", installation, timedelta(days=1))
    after = [installation.observations("tiny").read(version=version) for version in range(3)]
    assert [len(rows) for rows in after] == [200, 202, 204]
    assert all(one.equals(other) for one, other in zip(before, after, strict=True))


def test_a_flipped_bit_stops_maintenance_and_is_told_with_the_file(tiny_home: Installation) -> None:
    damaged = data_file(tiny_home)
    flip(damaged)
    with pytest.raises(StorageError, match=damaged.name) as caught:
        maintain("tiny", Installation.open(tiny_home.home.path))
    assert caught.value.code == "lake.corrupt"
    assert [damage.code for damage in check_tables("tiny", tiny_home)] == ["lake.corrupt"]
