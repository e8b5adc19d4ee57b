from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config.dataset import DatasetConfig
from forecast.config.file import ConfigFile
from forecast.errors import DataError
from forecast.lake.schemas import TIME
from pipelines.preparation.clean import clean

START = datetime(2024, 1, 1, tzinfo=UTC)
NAN = float("nan")
MakeJob = Callable[..., DatasetConfig]


def lake_rows(values: dict[int, float | None], series: str = "east", wind: float | None = 2.0) -> pl.DataFrame:
    """Rows as the lake returns them: one per hour that is named."""
    return pl.DataFrame(
        {
            "series": [series] * len(values),
            "time": [START + timedelta(hours=hour) for hour in values],
            "load": list(values.values()),
            "wind": [wind] * len(values),
        },
        schema={"series": pl.String, "time": TIME, "load": pl.Float64, "wind": pl.Float64},
    ).sort("time")


@pytest.fixture
def config(config_with: MakeJob) -> Callable[[str, int], DatasetConfig]:
    def make(fill: str = "linear", limit: int = 48) -> DatasetConfig:
        return config_with(
            channels={"load": {"role": "target", "fill": fill, "fill_limit": limit}, "wind": {"role": "past"}}
        )

    return make


def filled(config: DatasetConfig, *values: float | None) -> list[float]:
    return clean(lake_rows(dict(enumerate(values))), config).targets[0, :, 0].tolist()


def same(ours: list[float], theirs: list[float]) -> bool:
    return bool(np.array_equal(ours, theirs, equal_nan=True))


def test_all_series_lie_on_one_regular_grid_from_the_first_to_the_last_row_of_any(config: MakeJob) -> None:
    rows = pl.concat([lake_rows({5: 1.0, 7: 3.0}, "west"), lake_rows({2: 9.0, 3: 9.0})])
    panel = clean(rows, config())
    assert panel.series == ("east", "west")
    assert (panel.start, panel.end, panel.step) == (
        START + timedelta(hours=2),
        START + timedelta(hours=8),
        timedelta(hours=1),
    )
    assert panel.targets.shape == (2, 6, 1)
    assert panel.past.shape == (2, 6, 1)
    assert panel.observed[:, :, 0].tolist() == [
        [True, True, False, False, False, False],
        [False, False, False, True, False, True],
    ]


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("linear", [1, 2, 3, 4, 4, 4]),
        ("forward", [1, 1, 1, 4, 4, 4]),
        ("zero", [1, 0, 0, 4, 0, 0]),
    ],
)
def test_gaps_are_filled_by_policy_and_the_newest_rows_have_nothing_to_interpolate_to(
    config: MakeJob, fill: str, expected: list[float]
) -> None:
    assert filled(config(fill), 1.0, None, None, 4.0, None, None) == expected


@pytest.mark.parametrize("fill", ["linear", "forward", "zero"])
def test_a_gap_longer_than_the_limit_stays_whole(config: MakeJob, fill: str) -> None:
    ours = filled(config(fill, 2), 1.0, None, None, None, 5.0, None, None, 8.0)
    assert same([ours[place] for place in (0, 1, 2, 3, 4, 7)], [1, NAN, NAN, NAN, 5, 8])
    assert np.isfinite(ours[5:7]).all()


def test_a_limit_of_zero_fills_nothing(config: MakeJob) -> None:
    assert same(filled(config("zero", 0), 1.0, None, 3.0), [1, NAN, 3])


@pytest.mark.parametrize("fill", ["linear", "forward"])
def test_before_the_first_value_there_is_nothing_to_fill_from(config: MakeJob, fill: str) -> None:
    assert same(filled(config(fill), None, None, 3.0), [NAN, NAN, 3])


def test_missing_rows_are_gaps_like_missing_values(config: MakeJob) -> None:
    panel = clean(lake_rows({0: 1.0, 3: 4.0}), config())
    assert panel.targets[0, :, 0].tolist() == [1, 2, 3, 4]
    assert panel.filled == {"load": 2, "wind": 2}


def test_a_gap_in_one_series_does_not_reach_into_the_next(config: MakeJob) -> None:
    rows = pl.concat([lake_rows({0: 1.0, 1: None, 2: None}), lake_rows({0: None, 1: None, 2: 9.0}, "west")])
    panel = clean(rows, config())
    assert panel.targets[0, :, 0].tolist() == [1, 1, 1]
    assert same(panel.targets[1, :, 0].tolist(), [NAN, NAN, 9])


def test_each_channel_has_its_own_gaps(config: MakeJob) -> None:
    rows = lake_rows({0: 1.0, 1: None, 2: 3.0}).with_columns(wind=pl.Series([5.0, 6.0, None]))
    panel = clean(rows, config("zero"))
    assert panel.targets[0, :, 0].tolist() == [1, 0, 3]
    assert panel.past[0, :, 0].tolist() == [5, 6, 6]
    assert panel.filled == {"load": 1, "wind": 1}


def test_without_rows_there_is_no_history(config: MakeJob) -> None:
    with pytest.raises(DataError) as caught:
        clean(lake_rows({}), config())
    assert caught.value.code == "history.empty"


def test_an_all_zero_and_a_constant_series_stay_what_they_are(config: MakeJob) -> None:
    assert filled(config(), *[0.0] * 5) == [0.0] * 5
    assert filled(config(), *[7.0] * 5) == [7.0] * 5


gaps = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(
    east=gaps,
    west=gaps,
    fill=st.sampled_from(["linear", "forward", "zero"]),
    limit=st.integers(0, 5),
    seed=st.randoms(use_true_random=False),
)
def test_observed_values_are_never_changed_and_only_short_gaps_are_filled(
    east: list[float | None], west: list[float | None], fill: str, limit: int, seed: Random
) -> None:
    channel = {"role": "target", "fill": fill, "fill_limit": limit}
    config = ConfigFile.model_validate(
        {
            "datasets": {
                "x": {
                    "source": {"kind": "csv", "path": "x"},
                    "frequency": "1h",
                    "horizons": [1],
                    "lookback": 1,
                    "season": 1,
                    "models": ["linear"],
                    "channels": {"load": channel, "wind": {"role": "past"}},
                }
            }
        }
    ).datasets["x"]
    rows = pl.concat([lake_rows(dict(enumerate(east))), lake_rows(dict(enumerate(west)), "west")])
    order = list(range(len(rows)))
    seed.shuffle(order)
    panel = clean(rows[order], config)
    for number, values in enumerate((east, west)):
        ours = panel.targets[number, :, 0]
        truth = np.array([NAN if value is None else value for value in values])
        seen = np.isfinite(truth)
        assert np.array_equal(ours[: len(truth)][seen], truth[seen])
        assert np.array_equal(panel.observed[number, : len(truth), 0], seen)
        assert not panel.observed[number, len(truth) :].any()
        unknown = ~panel.observed[number, :, 0]
        edges = np.flatnonzero(np.diff(unknown.astype(int), prepend=0, append=0))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            if end - begin > limit:
                assert np.isnan(ours[begin:end]).all()
            elif begin > 0 or fill == "zero":
                assert np.isfinite(ours[begin:end]).all()
