from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from darts import TimeSeries, concatenate

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from pipelines.sources.frames import from_darts, from_frame

FRAME = pl.DataFrame(
    {"time": ["t1", "t2"], "site": ["a", "b"], "load": [1.0, None], "price": [2, 3], "wind": [4.5, 5.5], "more": [0, 0]}
)
ROWS = [(1, "a", "t1", 1.0, 2, 4.5), (2, "b", "t2", None, 3, 5.5)]
NAMES = ("load", "price", "wind")


def series(values: Any = 0.0, start: str = "2024-01-01", site: str | None = None) -> TimeSeries:
    times = pd.date_range(start, periods=3, freq="h")
    filled = np.broadcast_to(np.asarray(values), (3, 3)).astype(float)
    covariates = None if site is None else pd.DataFrame({"site": [site]})
    return TimeSeries.from_times_and_values(times, filled, columns=list(NAMES), static_covariates=covariates)


def test_a_polars_and_a_pandas_frame_give_the_same_rows(tiny_config: DatasetConfig) -> None:
    polars, pandas = from_frame(FRAME, tiny_config, "tiny"), from_frame(FRAME.to_pandas(), tiny_config, "tiny")
    assert polars.rows.rows() == pandas.rows.rows() == ROWS
    assert polars.name == "frame"


def test_the_digest_is_that_of_the_values_however_memory_holds_them(tiny_config: DatasetConfig) -> None:
    digest = from_frame(FRAME, tiny_config, "tiny").digest
    pieces = pl.concat([FRAME[:1], FRAME[1:]], rechunk=False)
    assert from_frame(pieces, tiny_config, "tiny").digest == digest
    assert from_frame(pl.concat([FRAME, FRAME])[2:], tiny_config, "tiny").digest == digest
    assert from_frame(FRAME.with_columns(price=pl.Series([2, 4])), tiny_config, "tiny").digest != digest


@pytest.mark.parametrize("name", ["time", None, "stamp"])
def test_an_index_of_times_is_the_column_of_times(tiny_config: DatasetConfig, name: str | None) -> None:
    frame = FRAME.to_pandas().set_index("time").rename_axis(name)
    assert from_frame(frame, tiny_config, "tiny").rows.rows() == ROWS


def test_an_index_of_series_and_times_gives_both(tiny_config: DatasetConfig) -> None:
    frame = FRAME.to_pandas().set_index(["site", "time"])
    assert from_frame(frame, tiny_config, "tiny").rows.rows() == ROWS


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (FRAME.drop("load"), "ingest.missing_column"),
        (FRAME.to_pandas().drop(columns="load"), "ingest.missing_column"),
        (FRAME.to_pandas().assign(load=[1, "x"]), "source.malformed"),
        (FRAME.to_pandas().assign(load=[{1, 2}, object()]), "source.malformed"),
        (FRAME.with_columns(pl.lit(1).alias("load ")), "source.doubled_column"),
        ([1, 2], "source.malformed"),
        (None, "source.malformed"),
    ],
)
def test_a_frame_that_cannot_be_rows_is_refused(tiny_config: DatasetConfig, given: Any, code: str) -> None:
    with pytest.raises(DataError) as caught:
        from_frame(given, tiny_config, "tiny")
    assert caught.value.code == code


def test_one_darts_series_is_called_as_the_data_set_unless_it_says_otherwise(tiny_config: DatasetConfig) -> None:
    batch = from_darts(series([1.5, 2, np.nan]), tiny_config, "tiny")
    assert batch.rows.columns == ["row", "series", "time", *NAMES]
    assert batch.rows["series"].to_list() == ["tiny"] * 3
    assert batch.rows["time"].dt.to_string("%H").to_list() == ["00", "01", "02"]
    assert batch.rows.fill_nan(-1).row(2)[3:] == (1.5, 2, -1)
    assert from_darts(series(site="east"), tiny_config, "tiny").rows["series"].to_list() == ["east"] * 3


def test_several_darts_series_are_called_by_their_static_covariate(config_with: Callable[..., DatasetConfig]) -> None:
    several = [series(1, site="east"), series(2, "2024-02-01", site="west")]
    for layout in ("wide", "long"):
        config = config_with(source={"kind": "push", "layout": layout})
        rows = from_darts(several, config, "tiny").rows
        assert rows.group_by("series", maintain_order=True).agg(pl.len(), pl.col("load").first()).rows() == [
            ("east", 3, 1.0),
            ("west", 3, 2.0),
        ]


def test_darts_series_from_a_frame_by_group_come_in_as_they_are(tiny_config: DatasetConfig) -> None:
    times = pd.date_range("2024-01-01", periods=3, freq="h")
    frame = pd.concat([pd.DataFrame({"time": times, "site": site, **dict.fromkeys(NAMES, 1.0)}) for site in "ab"])
    several = TimeSeries.from_group_dataframe(frame, group_cols="site", time_col="time", value_cols=list(NAMES))
    rows = from_darts(several, tiny_config, "tiny").rows
    assert rows["series"].to_list() == ["a"] * 3 + ["b"] * 3


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        ([], "the sequence of series is empty"),
        ([series(site="a"), series()], 'series 2 of 2 has no static covariate "site"'),
        (TimeSeries.from_values(np.zeros((3, 3)), columns=list(NAMES)), "has a numeric index, not times"),
        (concatenate([series(), series()], axis="sample"), "has samples"),
        (series()["load"], 'no column "price"'),
    ],
)
def test_darts_series_that_cannot_be_rows_are_refused(tiny_config: DatasetConfig, given: Any, fact: str) -> None:
    with pytest.raises(DataError, match=fact):
        from_darts(given, tiny_config, "tiny")
