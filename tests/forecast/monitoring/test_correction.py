from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.evaluation.metrics import pinball
from forecast.monitoring.correction import LEAST, Correction, offsets_of
from forecast.panel import Array

LEVELS = (0.1, 0.5, 0.9)
NORMAL = np.asarray([-1.2815515655, 0.0, 1.2815515655])
NOW = datetime(2024, 5, 1, tzinfo=UTC)
HORIZON, WINDOW = 24, 336
ENDS = (6, 24)


def correction(offsets: tuple[tuple[float, ...], ...], levels: tuple[float, ...] = LEVELS) -> Correction:
    """Make a correction of one channel with the given offsets of each group."""
    return Correction(
        model_version="m", until=NOW, channels=("load",), levels=levels, ends=ENDS[: len(offsets)],
        offsets=tuple((group,) for group in offsets), seen=((99,),) * len(offsets),
    )  # fmt: skip


def autoregressive(count: int, memory: float, seed: int) -> Array:
    noise = np.random.default_rng(seed).normal(size=count)
    values = np.zeros(count)
    for step in range(1, count):
        values[step] = memory * values[step - 1] + noise[step] * (1 - memory**2) ** 0.5
    return values


def issued(values: Array, memory: float) -> tuple[Array, Array, Array, Array]:
    """Forecast from every step as the process was before it changed, correcting every sixth step as time goes on.

    Returns origins [N], what happened [N, H], and quantiles [N, H, Q] without and with correction.
    """
    leads = np.arange(1, HORIZON + 1)
    origins = np.arange(1, len(values) - HORIZON)
    median = values[origins - 1][:, None] * memory**leads
    base = median[..., None] + NORMAL * np.sqrt(1 - memory ** (2 * leads))[:, None]
    actual = values[origins[:, None] + np.arange(HORIZON)]
    moved = base.copy()
    found = correction(((0.0,) * 3,) * 2)
    for number, origin in enumerate(origins):
        if number % 6 == 0:
            found = correction(tuple(known(origins, actual, base, int(origin), begin) for begin in range(2)))
        moved[number] = found.apply(base[number][None, :, None], np.ones((1, 1)))[0, :, 0]
    return origins, actual, base, moved


def known(origins: Array, actual: Array, base: Array, now: int, group: int) -> tuple[float, ...]:
    """Find the offsets of a group of lead times from what had come true."""
    part = np.s_[max(now - WINDOW - HORIZON - 1, 0) : now, (0, *ENDS)[group] : ENDS[group]]
    steps = (origins[:, None] + np.arange(HORIZON))[part]
    seen = (steps < now) & (steps >= now - WINDOW)
    return offsets_of(actual[part][seen], base[part][seen], np.ones(seen.sum()), steps[seen], LEVELS)[0]


def covers(actual: Array, quantiles: Array) -> float:
    return float(((actual >= quantiles[..., 0]) & (actual <= quantiles[..., -1])).mean())


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_when_the_noise_doubles_after_the_training_the_band_comes_back_to_what_it_promises(memory: float) -> None:
    without, mended, losses = [], [], []
    for seed in range(2):
        values = autoregressive(2400, memory, seed)
        values[800:] *= 2
        origins, actual, base, moved = issued(values, memory)
        late = origins > 800 + WINDOW + HORIZON
        without.append(covers(actual[late], base[late]))
        mended.append(covers(actual[late], moved[late]))
        losses.append([pinball(actual[late], one[late], LEVELS).mean() for one in (base, moved)])
    assert np.mean(without) < 0.55
    assert np.mean(mended) == pytest.approx(0.8, abs=0.04)
    before, after = np.mean(losses, axis=0)
    assert after < 0.93 * before


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_where_nothing_changes_it_costs_less_than_one_percent_of_the_loss(memory: float) -> None:
    losses = []
    for seed in range(3):
        origins, actual, base, moved = issued(autoregressive(2400, memory, seed), memory)
        late = origins > WINDOW
        losses.append([pinball(actual[late], one[late], LEVELS).mean() for one in (base, moved)])
        assert covers(actual[late], moved[late]) == pytest.approx(0.8, abs=0.04)
    before, after = np.mean(losses, axis=0)
    assert after < 1.01 * before


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.0, 1e-9, 1.0, 1e6]),
    offsets=st.lists(st.floats(-1e6, 1e6), min_size=10, max_size=10),
)  # fmt: skip
def test_quantiles_never_cross_and_the_median_stays(seed: int, spread: float, offsets: list[float]) -> None:
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    offsets[2] = offsets[7] = 0.0
    quantiles = np.sort(np.random.default_rng(seed).normal(0, spread, (2, 30, 1, 5)), axis=-1)
    one = correction((tuple(offsets[:5]), tuple(offsets[5:])), levels)
    moved = one.apply(quantiles, np.ones((2, 1)))
    assert np.isfinite(moved).all()
    assert (np.diff(moved, axis=-1) >= 0).all()
    assert np.array_equal(moved[..., 2], quantiles[..., 2])


def test_each_group_of_lead_times_has_its_own_offsets_and_later_steps_the_last_ones() -> None:
    quantiles = np.broadcast_to(np.asarray([-1.0, 0.0, 1.0]), (1, 40, 1, 3))
    one = correction(((0.0, 0.0, 0.0), (-1.0, 0.0, 2.0)))
    moved = one.apply(quantiles, np.zeros((1, 1)))[0, :, 0]
    assert np.array_equal(moved[:6], quantiles[0, :6, 0])
    assert np.allclose(moved[6:], [-2.0, 0.0, 3.0])


@pytest.mark.parametrize("steps", [0, 1, LEAST - 1])
def test_with_too_few_steps_nothing_is_moved(steps: int) -> None:
    actual = np.full(3 * steps, 9.0)  # far outside, three values of each step
    quantiles = np.broadcast_to(NORMAL, (3 * steps, 3))
    found, seen = offsets_of(actual, quantiles, np.ones(3 * steps), np.repeat(np.arange(steps), 3), LEVELS)
    assert (found, seen) == ((0.0, 0.0, 0.0), steps)


def test_the_order_of_the_values_does_not_matter() -> None:
    random = np.random.default_rng(0)
    actual, steps = random.normal(0, 2, 600), np.repeat(np.arange(200), 3)
    quantiles = np.broadcast_to(NORMAL, (600, 3))
    order = random.permutation(600)
    once, _ = offsets_of(actual, quantiles, np.ones(600), steps, LEVELS)
    again, _ = offsets_of(actual[order], quantiles[order], np.ones(600), steps[order], LEVELS)
    assert once == pytest.approx(again)
    assert once[0] < -0.3
    assert once[2] > 0.3


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 1000), noise=st.floats(0.2, 5))
def test_other_units_change_nothing(factor: float, seed: int, noise: float) -> None:
    actual = np.random.default_rng(seed).normal(0, noise, 300)
    quantiles, steps = np.broadcast_to(NORMAL, (300, 3)), np.arange(300)
    once, _ = offsets_of(actual, quantiles, np.ones(300), steps, LEVELS)
    again, _ = offsets_of(actual * factor, quantiles * factor, np.full(300, factor), steps, LEVELS)
    assert again == pytest.approx(once, rel=1e-6, abs=1e-9)


def test_a_band_without_width_can_still_be_widened() -> None:
    actual = np.random.default_rng(0).normal(size=400)
    found, _ = offsets_of(actual, np.zeros((400, 3)), np.ones(400), np.arange(400), LEVELS)
    moved = correction((found,)).apply(np.zeros((1, 6, 1, 3)), np.ones((1, 1)))
    assert covers(actual[:, None], moved[0, :1, 0]) == pytest.approx(0.8, abs=0.05)
