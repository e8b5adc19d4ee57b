from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast.ledger import Ledger
from forecast.ledger.issuances import day_of
from forecast.ledger.scores import DayScores
from forecast.ledger.tables import LEAD_SCORES
from forecast.monitoring.correction import Correction
from forecast.monitoring.live_scores import MEASURES, Points, Tally
from forecast.monitoring.reference import Reference
from forecast.panel import Array

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


def points(seed: int = 0, *, lacking: float = 0.3, levels: tuple[float, ...] = LEVELS) -> Points:
    """Make three forecasts of two series, two channels and five steps."""
    random = np.random.default_rng(seed)
    shape = (3, 2, 2, 5)

    def some(*, missing: float = lacking) -> Array:
        return np.where(random.random(shape) < missing, np.nan, random.normal(size=shape))

    naive_errors = np.where(random.random((2, 2)) < lacking, np.nan, random.uniform(0.5, 2, (2, 2)))
    quantiles = np.sort(random.normal(size=(*shape, len(levels))), axis=-1)
    return Points(some(), some(missing=0.1), quantiles, some(), levels, random.uniform(0.5, 2, (2, 2)), naive_errors)


def day(number: int, seed: int, *, model: str = "m-1", levels: tuple[float, ...] = LEVELS) -> DayScores:
    sums = points(seed, levels=levels).sums()
    by_lead, by_series = sums.sum(axis=(1, 2)), sums.sum(axis=(1, 4))
    names = ("load", "price")
    return DayScores(
        "tiny", day_of(NOW + timedelta(days=number)), model, "d", levels, (2, 5),
        {name: by_lead[:, c] for c, name in enumerate(names)},
        {(one, name): by_series[:, s, c] for s, one in enumerate(("east", "west")) for c, name in enumerate(names)},
        [],
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lacking=st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_no_sum_is_ever_nan_and_what_is_missing_adds_nothing(seed: int, lacking: float) -> None:
    one = points(seed, lacking=lacking)
    sums = one.sums()
    assert sums.shape == (len(MEASURES) + 3, 3, 2, 2, 5)
    assert np.isfinite(sums).all()
    seen = np.isfinite(one.actual) & np.isfinite(one.mean)
    assert np.array_equal(sums[0], seen)
    assert (sums[:, ~seen] == 0).all()
    tally = Tally()
    tally.add(sums.sum(axis=(1, 2, 3, 4)), LEVELS)
    message = tally.accuracy("all", in_units=True)
    assert (message is None) == (not seen.any())
    if message is not None:
        numbers = [value for name in message.__slots__ if isinstance(value := getattr(message, name), float)]
        assert all(math.isfinite(value) for value in numbers)
        error = np.abs(one.actual - one.quantiles[..., 1])[seen]
        assert message.mae_in_units == pytest.approx(error.mean())
        assert message.count == seen.sum()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(5)), repeats=st.lists(st.integers(0, 4), max_size=4))
def test_days_may_be_kept_in_any_order_and_again(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], repeats: list[int]
) -> None:
    found = []
    for numbers in ([*order, *repeats], range(5)):
        with Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.db'}") as ledger:
            for number in numbers:
                ledger.scores.replace([day(number, number)])
            parts = ("all", "lead_time", "lead_group", "channel", "model", "series")
            found.append([ledger.scores.accuracy("tiny", by) for by in parts])  # type: ignore[arg-type]
    assert found[0] == found[1]


def test_windows_add_up(ledger: Ledger) -> None:
    ledger.scores.replace(day(number, number) for number in range(6))
    (whole,) = ledger.scores.accuracy("tiny")
    (first,) = ledger.scores.accuracy("tiny", until=NOW.replace(hour=0) + timedelta(days=2))
    (rest,) = ledger.scores.accuracy("tiny", since=NOW + timedelta(days=2))
    assert first.count + rest.count == whole.count
    assert first.mae * first.count + rest.mae * rest.count == pytest.approx(whole.mae * whole.count)


def test_models_with_other_levels_are_added_up_level_by_level(ledger: Ledger) -> None:
    ledger.scores.replace([day(0, 0), day(0, 1, model="m-2", levels=(0.05, 0.5, 0.95))])
    (whole,) = ledger.scores.accuracy("tiny")
    first, second = ledger.scores.accuracy("tiny", "model")
    assert list(whole.pinball_by_level) == ["0.05", "0.1", "0.5", "0.9", "0.95"]
    assert whole.pinball_by_level["0.1"] == first.pinball_by_level["0.1"]
    assert 0.8 < whole.promised_coverage < 0.9
    total = first.pinball_by_level["0.5"] * first.count + second.pinball_by_level["0.5"] * second.count
    assert whole.pinball_by_level["0.5"] == pytest.approx(total / whole.count)


def test_one_model_or_channel_can_be_asked_for(ledger: Ledger) -> None:
    ledger.scores.replace([day(0, 0), day(0, 1, model="m-2")])
    by_model = {row.part: row.count for row in ledger.scores.accuracy("tiny", "model")}
    (second,) = ledger.scores.accuracy("tiny", model="m-2")
    assert second.count == by_model["m-2"]
    (load,) = ledger.scores.accuracy("tiny", channel="load")
    assert load.mae_in_units is not None
    assert load.count < sum(by_model.values())
    assert [row.part for row in ledger.scores.accuracy("tiny", "series", channel="load")] == ["east", "west"]


def test_a_day_that_is_scored_again_replaces_what_was_there(ledger: Ledger) -> None:
    ledger.scores.replace([day(0, 0)])
    ledger.scores.replace([day(0, 1)])
    fresh = ledger.scores.accuracy("tiny")
    assert ledger.scores.scored_days("tiny") == {(day_of(NOW), "m-1"): "d"}
    with ledger._database.transaction() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(LEAD_SCORES)).scalar() == 2
    assert fresh[0].count == int(points(1).sums()[0].sum())


def correction(version: str = "m-1", offset: float = 0.5) -> Correction:
    return Correction(
        model_version=version, until=NOW, channels=("load",), levels=LEVELS, ends=(5,),
        offsets=(((-offset, 0.0, offset),),), seen=((99,),),
    )  # fmt: skip


def test_the_same_correction_is_kept_once_and_found_by_its_number(ledger: Ledger) -> None:
    first = ledger.corrections.add("tiny", correction(), NOW)
    assert ledger.corrections.add("tiny", correction(), NOW) == first
    second = ledger.corrections.add("tiny", correction(offset=0.7), NOW)
    assert second > first
    assert ledger.corrections.latest("tiny", "m-1") == (second, correction(offset=0.7))
    assert ledger.corrections.latest("tiny", "m-2") is None
    assert ledger.corrections.get(first) == correction()
    assert ledger.corrections.get(None) is None


def test_what_a_model_was_fitted_on_is_kept_as_it_was_first_told(ledger: Ledger) -> None:
    message = Reference(
        moments={"load": {"east": (1.0, 2.0)}}, naive_errors={"load": {"east": float("nan")}}, spreads={}
    )
    ledger.references.add("tiny", "m-1", message)
    ledger.references.add("tiny", "m-1", message.model_copy(update={"moments": {}}))
    kept = ledger.references.get("tiny", "m-1")
    assert kept is not None
    assert kept.deviations_of(("east", "west"), ("load", "price")).tolist()[0][0] == 2.0
    assert np.isnan(kept.deviations_of(("east", "west"), ("load", "price"))).sum() == 3
    assert np.isnan(kept.naive_errors_of(("east",), ("load",))).all()
    assert ledger.references.get("tiny", "m-2") is None
