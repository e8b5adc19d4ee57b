from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.config.dataset import DatasetConfig
from forecast.runtime.scaler import Scaler
from pipelines.preparation.windows import Windows, some
from pipelines.study.perturb import in_blocks, newest, noisy, scattered, without

STEPS, LOOKBACK = 72, 48
SCALER = Scaler(
    targets={"east": ((0.0, 0.0), (2.0, 5.0)), "west": ((0.0, 0.0), (1.0, 1.0))},
    past={"east": ((0.0,), (3.0,)), "west": ((0.0,), (1.0,))},
)


def windows(count: int = 40, series: str = "east") -> Windows:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    hours = np.arange(STEPS + 24.0)
    daily = np.sin(2 * np.pi * hours / 24)[None, :, None]
    return Windows(
        origins=tuple(start + timedelta(hours=hour) for hour in range(count)),
        series=(series,) * count,
        targets=np.tile(daily[:, :STEPS], (count, 1, 2)),
        past=np.tile(daily[:, :STEPS], (count, 1, 1)),
        future=np.tile(daily, (count, 1, 3)),
        actual=np.tile(daily[:, STEPS:], (count, 1, 2)),
    )


def test_noise_has_the_requested_level_in_deviations_of_each_channel() -> None:
    given_ = windows(400)
    added = noisy(given_, SCALER, 0.5)
    assert (added.targets - given_.targets).std(axis=(0, 1)) == pytest.approx([1.0, 2.5], rel=0.03)
    assert (added.past - given_.past).std() == pytest.approx(1.5, rel=0.03)
    assert np.array_equal(added.future, given_.future)
    assert np.array_equal(added.actual, given_.actual)
    assert np.array_equal(noisy(given_, SCALER, 0.0).targets, given_.targets)


def test_every_model_gets_the_same_noise() -> None:
    assert np.array_equal(noisy(windows(), SCALER, 0.5).targets, noisy(windows(), SCALER, 0.5).targets)


def test_values_are_missing_one_by_one_in_the_look_back_alone() -> None:
    missing = scattered(windows(400), 0.2, LOOKBACK)
    assert not missing[:, : STEPS - LOOKBACK].any()
    assert missing[:, STEPS - LOOKBACK :].mean() == pytest.approx(0.2, abs=0.01)


@given(
    share=st.floats(0.01, 0.9),
    block=st.integers(1, 60),
    lookback=st.integers(2, STEPS),
    seed=st.integers(0, 5),
)
def test_blocks_keep_their_length_and_take_all_channels_of_the_look_back(
    share: float, block: int, lookback: int, seed: int
) -> None:
    missing = in_blocks(windows(7), share, block, lookback, seed)
    assert missing.shape == (7, STEPS, 3)
    assert not missing[:, : STEPS - lookback].any()
    assert (missing == missing[..., :1]).all()
    length = min(block, lookback - 1)
    for window in missing[..., 0]:
        edges = np.flatnonzero(np.diff(window.astype(int), prepend=0, append=0))
        lengths = edges[1::2] - edges[::2]
        assert len(lengths) > 0
        assert (lengths == length).all()


def test_blocks_reach_the_requested_share() -> None:
    assert in_blocks(windows(), 0.25, 6, LOOKBACK)[:, -LOOKBACK:].mean() == pytest.approx(0.25)


@pytest.mark.parametrize("fill", ["linear", "forward", "seasonal", "zero"])
def test_what_was_taken_away_is_filled_as_history_is_and_the_rest_stays(
    config_with: Callable[..., DatasetConfig], fill: str
) -> None:
    role = {"load": "target", "price": "target", "wind": "past"}
    config = config_with(channels={name: {"role": kind, "fill": fill} for name, kind in role.items()})
    given_ = windows()
    # Around a daily curve with nothing else, a gap that is filled from the day before is as if it never were.
    missing = in_blocks(given_, 0.25, 6, LOOKBACK)
    filled, whole = without(given_, missing, config)
    assert whole.all()
    kept = ~missing[..., :2]
    assert np.array_equal(filled.targets[kept], given_.targets[kept])
    inside = filled.targets[missing[..., :2]]
    if fill == "zero":
        assert (inside == 0).all()
    if fill == "seasonal":
        assert filled.targets == pytest.approx(given_.targets)
        assert filled.past == pytest.approx(given_.past)


def test_a_window_with_a_gap_beyond_the_limit_is_not_whole(config_with: Callable[..., DatasetConfig]) -> None:
    config = config_with(
        channels={
            "load": {"role": "target", "fill_limit": 3},
            "price": {"role": "target"},
            "wind": {"role": "past"},
        }
    )
    given_ = windows(3)
    missing = np.zeros((3, STEPS, 3), bool)
    missing[1, 20:23, 0] = missing[2, 20:24, 0] = True
    filled, whole = without(given_, missing, config)
    assert whole.tolist() == [True, True, False]
    assert np.isfinite(some(filled, whole).targets).all()
    assert some(filled, whole).origins == given_.origins[:2]


def test_shorter_look_backs_are_the_newest_part_of_the_same_windows() -> None:
    given_ = windows()
    short = newest(given_, 10)
    assert np.array_equal(short.targets, given_.targets[:, -10:])
    assert np.array_equal(short.past, given_.past[:, -10:])
    assert np.array_equal(short.future, given_.future[:, -34:])
    assert replace(short, targets=given_.targets, past=given_.past, future=given_.future) == given_
