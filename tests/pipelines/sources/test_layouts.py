from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from forecast.config.dataset import DatasetConfig
from forecast.config.sources import PushSource, Source
from forecast.errors import ConfigError, ForecastError
from forecast.vocabulary import Conflicts, Layout
from pipelines.sources import SOURCES, Batch

Make = Callable[..., DatasetConfig]
LONG = {"kind": "push", "layout": "long"}


def batch_of(config: DatasetConfig, rows: list[dict[str, Any]]) -> Batch:
    return Batch.of(pl.DataFrame(rows, infer_schema_length=None), "tiny", config, "rows", "")


def long(*rows: tuple[Any, Any, Any, Any]) -> list[dict[str, Any]]:
    return [dict(zip(("time", "site", "channel", "value"), row, strict=True)) for row in rows]


def test_every_kind_of_source_that_a_job_file_may_name_can_be_read() -> None:
    schema = TypeAdapter(Source).json_schema()["discriminator"]["mapping"]
    assert set(SOURCES) == set(schema)


def test_channels_may_be_called_otherwise_in_the_source(config_with: Make) -> None:
    config = config_with(
        time="Zeit (UTC)",
        series="Standort",
        channels={
            "load": {"role": "target", "column": "Last [MW]"},
            "price": {"role": "target", "column": "Größe, €/MWh"},
            "time_of_day": {"role": "past", "column": "row"},
        },
    )
    row = {"Last [MW]": 1, "row": 3, " Größe, €/MWh ": 2, "Zeit (UTC)": "t", "Standort": "Köln"}
    found = batch_of(config, [row]).rows
    assert found.rows(named=True) == [
        {"row": 1, "series": "Köln", "time": "t", "load": 1, "price": 2, "time_of_day": 3}
    ]


def test_a_source_without_a_series_column_has_one_series_called_as_the_data_set(config_with: Make) -> None:
    found = batch_of(config_with(series=""), [{"time": "t", "load": 1, "price": 2, "wind": 3}]).rows
    assert found["series"].to_list() == ["tiny"]


def test_a_column_of_versions_comes_along(config_with: Make) -> None:
    config = config_with(source={"kind": "push", "version": "revision"})
    row = {"time": "t", "site": "a", "load": 1, "price": 2, "wind": 3, "revision": 7}
    assert batch_of(config, [row]).rows.row(0) == (1, "a", "t", 7, 1, 2, 3)


def test_long_rows_become_a_row_per_key(config_with: Make) -> None:
    found = batch_of(
        config_with(source=LONG),
        long(("t1", "a", "load", 1), ("t1", "a", " price", 2), ("t1", "b", "load", 3), ("t2", "a", "wind", None)),
    )
    assert found.rows.columns == ["row", "series", "time", "load", "price", "wind"]
    assert found.rows.rows() == [
        (1, "a", "t1", 1, 2, None),
        (3, "b", "t1", 3, None, None),
        (4, "a", "t2", None, None, None),
    ]
    assert found.unknown_channels == ()


def test_long_rows_that_repeat_become_rows_that_repeat_and_conflicting_ones_differ_in_that_channel(
    config_with: Make,
) -> None:
    repeated = batch_of(
        config_with(source=LONG), long(("t", "a", "load", 1), ("t", "a", "price", 2), ("t", "a", "load", 1))
    )
    assert repeated.rows.rows() == [(1, "a", "t", 1, 2, None), (3, "a", "t", 1, 2, None)]
    conflicting = batch_of(
        config_with(source=LONG),
        long(("t", "a", "load", 1), ("t", "a", "price", 2), ("t", "a", "load", None), ("t", "a", "load", 5)),
    )
    assert conflicting.rows.rows() == [
        (1, "a", "t", 1, 2, None),
        (3, "a", "t", None, 2, None),
        (4, "a", "t", 5, 2, None),
    ]


def test_long_rows_of_several_versions_stay_apart(config_with: Make) -> None:
    config = config_with(source=LONG | {"version": "v", "channel": "name", "value": "reading"})
    rows = [
        {"time": "t", "site": "a", "v": version, "name": name, "reading": value}
        for version, name, value in ((1, "load", 1.0), (1, "wind", 2.0), (2, "load", 3.0))
    ]
    assert batch_of(config, rows).rows.rows() == [(1, "a", "t", 1, 1.0, None, 2.0), (3, "a", "t", 2, 3.0, None, None)]


def test_long_channels_that_the_job_does_not_know_are_left_out_and_reported(config_with: Make) -> None:
    rows = long(("t", "a", "lod", 1), ("t", "a", None, 1), ("t", "a", "load", 2), ("t", "a", "Wind", 1))
    found = batch_of(config_with(source=LONG), rows)
    assert found.rows.rows() == [(3, "a", "t", 2, None, None)]
    assert found.unknown_channels == ("", "Wind", "lod")


@pytest.mark.parametrize("layout", ["wide", "long"])
def test_channels_may_be_called_like_anything_else_in_the_source(config_with: Make, layout: str) -> None:
    names = ("self", "channel", "value", "keys")
    config = config_with(
        source={"kind": "push", "layout": layout, "channel": "name", "value": "reading"},
        channels={name: {"role": "target", "column": "time" if name == "keys" else name} for name in names},
    )
    long = [{"time": "t", "site": "a", "name": name, "reading": name} for name in ("self", "channel", "value", "time")]
    wide = [{"time": "t", "site": "a", "self": "self", "channel": "channel", "value": "value"}]
    found = batch_of(config, wide if layout == "wide" else long).rows
    assert found.columns == ["row", "series", "time", *names]
    assert found.row(0) == (1, "a", "t", "self", "channel", "value", "t" if layout == "wide" else "time")


def test_a_long_source_may_have_no_row_yet(config_with: Make) -> None:
    empty = pl.DataFrame(schema=["time", "site", "channel", "value"])
    found = Batch.of(empty, "tiny", config_with(source=LONG), "rows", "")
    assert found.rows.is_empty()
    assert found.rows.columns == ["row", "series", "time", "load", "price", "wind"]


VALUES = st.one_of(st.none(), st.integers(0, 3))
CELLS = st.tuples(
    st.sampled_from(["t1", "t2"]), st.sampled_from(["a", None]), st.sampled_from(["load", "price"]), VALUES
)


@given(cells=st.lists(CELLS, max_size=12))
@settings(deadline=None)
def test_no_value_of_a_long_source_is_lost_or_made_up(
    plain_job: DatasetConfig, cells: list[tuple[str, str, str, int | None]]
) -> None:
    config = plain_job.model_copy(update={"source": PushSource(kind="push", layout=Layout.LONG)})
    schema = {"time": pl.String, "site": pl.String, "channel": pl.String, "value": pl.Int64}
    found = Batch.of(pl.DataFrame(cells, schema=schema, orient="row"), "tiny", config, "rows", "").rows
    for time in ("t1", "t2"):
        for site in ("a", None):
            wide = found.filter(pl.col("time") == time, pl.col("series").eq_missing(site))
            values_by_name = {
                name: [cell[3] for cell in cells if cell[:3] == (time, site, name)] for name in ("load", "price")
            }
            assert len(wide) == max(map(len, values_by_name.values()))
            for name, values in values_by_name.items():
                last = values[-1:] if values else [None]
                assert wide[name].to_list() == values + last * (len(wide) - len(values))
    assert found["row"].is_sorted()


@pytest.mark.parametrize("missing", ["time", "site", "load"])
def test_a_missing_column_is_named_with_the_nearest(config_with: Make, missing: str) -> None:
    row = {"time": "t", "site": "a", "load": 1, "price": 2, "wind": 3}
    with pytest.raises(ForecastError, match=f'"rows" has no column "{missing}"; did you mean "{missing}s"') as caught:
        batch_of(config_with(), [{name + "s" if name == missing else name: value for name, value in row.items()}])
    assert caught.value.code == "ingest.missing_column"


def test_a_caller_keeps_the_names_of_the_frame_that_is_laid_out(config_with: Make) -> None:
    frame = pl.DataFrame({" time": ["t"], "site": ["a"], "load": [1], "price": [2], "wind": [3]})
    Batch.of(frame, "tiny", config_with(), "rows", "")
    assert frame.columns[0] == " time"


@pytest.mark.parametrize(
    ("source", "is_snapshot"),
    [
        ({"kind": "csv", "path": "rows.csv"}, True),
        ({"kind": "csv", "path": "in/"}, False),
        ({"kind": "csv", "path": "in/*.csv"}, False),
        ({"kind": "csv", "path": "s3://box/in/"}, False),
        ({"kind": "csv", "path": "https://example.org/rows?day=1"}, True),
        ({"kind": "sql", "url": "sqlite:///x", "table": "x"}, True),
        ({"kind": "push"}, False),
        ({"kind": "benchmark", "name": "etth1"}, True),
        ({"kind": "replay", "path": "x", "start": "2024-01-01T00:00:00"}, True),
    ],
)
def test_a_source_that_sends_all_rows_again_resolves_conflicts_by_the_last_row(
    config_with: Make, source: dict[str, Any], is_snapshot: bool
) -> None:
    found = config_with(source=source).source
    assert (found.is_snapshot, found.layout) == (is_snapshot, Layout.WIDE)
    assert found.conflict_rule is (Conflicts.LATEST if is_snapshot else Conflicts.DIGEST)
    assert config_with(source=source | {"conflicts": "digest"}).source.conflict_rule is Conflicts.DIGEST


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "csv", "path": "rows.csv", "separator": '"'},
        {"kind": "csv", "path": "rows.csv", "separator": ",,"},
        {"kind": "csv", "path": "rows.csv", "timeout": "soon"},
        {"kind": "csv", "path": "rows.csv", "max_bytes": 0},
        {"kind": "sql", "url": "sqlite:///x"},
        {"kind": "sql", "url": "sqlite:///x", "table": "x", "query": "x"},
        {"kind": "sql", "url": "sqlite:///x", "url_from": "X", "table": "x"},
        {"kind": "benchmark", "name": "etth3"},
        {"kind": "excel", "path": "x"},
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(config_with: Make, source: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, ConfigError)):
        config_with(source=source)
