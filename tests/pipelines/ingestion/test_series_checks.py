from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config.channels import Channel
from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from forecast.vocabulary import Role
from pipelines.ingestion.checked_batch import CheckedBatch
from pipelines.ingestion.duplicates import resolve_duplicates
from pipelines.ingestion.row_checks import check_rows
from pipelines.ingestion.series_checks import check_series, flat_line, level_jump, spike
from pipelines.sources.batch import Batch

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def checked(
    config: DatasetConfig, hours: int = 800, step: timedelta = timedelta(hours=1), **columns: Any
) -> CheckedBatch:
    """Check one quiet series, some of whose columns are replaced."""
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "time": [datetime(2024, 1, 1) + number * step for number in range(hours)],  # noqa: DTZ001
            "site": ["east"] * hours,
            "load": 50 + random.normal(size=hours),
            "price": 30 + random.normal(size=hours),
            "wind": 5 + random.normal(size=hours),
        }
    ).with_columns(**{name: pl.Series(values) for name, values in columns.items()})
    batch = check_rows(Batch.of(frame, "tiny", config, "rows.csv", ""), config, NOW)
    resolve_duplicates(batch, config.source)
    check_series(batch, config)
    return batch


def counts(batch: CheckedBatch) -> dict[str, int]:
    return {finding.code.removeprefix("ingest."): finding.count for finding in batch.findings}


def quiet(hours: int = 800) -> np.ndarray:
    return np.random.default_rng(1).normal(50, 1, hours)


def test_a_quiet_series_has_no_finding(tiny_config: DatasetConfig) -> None:
    assert counts(checked(tiny_config)) == {}


def test_a_flat_line_is_reported_value_by_value(tiny_config: DatasetConfig) -> None:
    load = quiet()
    load[100:160] = 50.0
    batch = checked(tiny_config, load=load)
    assert counts(batch) == {"flat_line": 60}
    assert "row 101: east 2024-01-05 04:00" in batch.findings[0].first[0]


def test_a_flat_line_becomes_missing_if_so_configured(config_with: Callable[..., DatasetConfig]) -> None:
    load = quiet()
    load[100:160] = 7.0
    assert checked(config_with(checks={"flat_line": "repair"}), load=load).rows["load"].null_count() == 60


def test_rest_at_a_bound_is_no_flat_line(config_with: Callable[..., DatasetConfig]) -> None:
    load = np.maximum(quiet(), 50.0)
    load[100:160] = 50.0
    channels = {"load": {"role": "target", "lower": 50}, "price": {"role": "target"}, "wind": {"role": "past"}}
    assert counts(checked(config_with(channels=channels), load=load)) == {}


def test_a_spike_is_reported(tiny_config: DatasetConfig) -> None:
    load = quiet()
    load[400] = 5000.0
    batch = checked(tiny_config, load=load)
    assert counts(batch) == {"spike": 1}
    assert batch.findings[0].first[0].endswith("load=5000")


def test_a_jump_of_the_level_is_reported_with_its_place(tiny_config: DatasetConfig) -> None:
    load = quiet()
    load[432:] += 40
    batch = checked(tiny_config, load=load)
    assert counts(batch) == {"level_jump": 1}
    assert batch.findings[0].first == ("east 2024-01-19 00:00 load",)


def test_a_channel_without_any_value_is_reported(tiny_config: DatasetConfig) -> None:
    batch = checked(tiny_config, wind=pl.Series([None] * 800, dtype=pl.Float64))
    assert counts(batch) == {"empty_channel": 1}
    assert batch.findings[0].first == ("wind",)


@pytest.mark.parametrize(("hours", "shown"), [(2, "2h"), (24, "1d")])
def test_a_series_of_another_frequency_is_reported(tiny_config: DatasetConfig, hours: int, shown: str) -> None:
    batch = checked(tiny_config, hours=300, step=timedelta(hours=hours))
    assert counts(batch)["frequency"] == 1
    assert batch.findings[0].first == (f"east every {shown}",)


@pytest.mark.parametrize("name", ["frequency", "empty_channel", "level_jump", "flat_line", "spike"])
def test_a_finding_about_a_series_rejects_the_batch_if_so_configured(
    config_with: Callable[..., DatasetConfig], name: str
) -> None:
    load = quiet()
    load[100:160], load[300], load[432:] = 50.0, 5000.0, load[432:] + 400
    wrong = {"load": load, "wind": pl.Series([None] * 800, dtype=pl.Float64)}
    if name == "spike":
        load[432:] -= 400  # beside a jump of 400 a spike of 5000 is no more than usual
    step = timedelta(hours=2 if name == "frequency" else 1)
    with pytest.raises(DataError) as caught:
        checked(config_with(checks={name: "reject"}), step=step, **wrong)
    assert caught.value.code == f"ingest.{name}"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=60), st.integers(2, 6))
def test_marks_of_flat_lines_are_those_of_a_plain_count(values: list[int], length: int) -> None:
    expected = []
    for at, value in enumerate(values):
        begin, end = at, at
        while begin > 0 and values[begin - 1] == value:
            begin -= 1
        while end + 1 < len(values) and values[end + 1] == value:
            end += 1
        expected.append(end - begin + 1 >= length)
    found = flat_line(np.asarray(values, dtype=float), Channel(role=Role.PAST), length)
    assert found.tolist() == expected


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [np.nan] * 50, [0.0] * 500])
def test_short_empty_and_constant_series_have_neither_spikes_nor_jumps(values: list[float]) -> None:
    array = np.asarray(values, dtype=float)
    assert not spike(array, 10).any()
    assert level_jump(array, 24, 20) is None
