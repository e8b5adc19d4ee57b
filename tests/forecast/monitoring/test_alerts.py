from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from forecast.config.alerts import AlertKind, AlertRule
from forecast.config.file import ConfigFile, _describe
from forecast.monitoring.alerts import LivePart, ObservedState, evaluate
from forecast.monitoring.reference import Holdout, Spread

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def part(loss: float = 1.0, origins: int = 100, *, inside: float = 0.8, skill: float = 0.2, seed: int = 0) -> LivePart:
    """Make scores of forecasts with ten values each."""
    noise = 1 + 0.1 * np.random.default_rng(seed).normal(size=origins)
    count = np.full(origins, 10.0)
    return LivePart(
        1, 6, 6, count=count, pinball=loss * noise * count, inside=inside * count, compared=(1 - skill) * count,
        naive=count,
    )  # fmt: skip


def seen(one: LivePart | None = None, **changes: Any) -> ObservedState:
    one = one or part()
    losses = tuple((1 + 0.1 * np.random.default_rng(9).normal(size=200)).tolist())
    usual = ObservedState(
        now=NOW, stale_after="24h", promised_coverage=0.8, parts={("load", 6): one}, groups={6: one},
        channels={"load": one}, holdout=Holdout(loss_by_channel={"load": 1.0}, losses_by_group={6: losses}),
        shifts={"load": (0.1, 0.15)}, issued_at=NOW - HOUR, observed_until=NOW - HOUR,
    )  # fmt: skip
    return replace(usual, **changes)


EVERY = tuple(AlertRule(kind=kind) for kind in AlertKind)


def raised_by(state: ObservedState, *rules: AlertRule) -> list[tuple[str, str]]:
    return [(str(one.kind), one.subject) for one in evaluate(rules or EVERY, state)]


def test_where_all_is_well_nothing_is_found() -> None:
    assert raised_by(seen()) == []


def test_a_loss_above_that_of_the_holdout_is_found_per_channel_and_group_and_tested() -> None:
    found = evaluate(EVERY, seen(part(2.0)))
    assert [(str(one.kind), one.subject) for one in found] == [
        ("error", "load"), ("error", "1-6"), ("regression", "1-6"),
    ]  # fmt: skip
    assert found[0].value == pytest.approx(2.0, rel=0.05)
    assert found[0].limit == 1.5
    assert "times that of the holdout" in found[0].message


def test_an_insignificant_loss_is_not_a_regression() -> None:
    rule = AlertRule(kind=AlertKind.REGRESSION, above=0.0)
    restless = part(1.0)
    spread = 1 + 2 * np.random.default_rng(3).normal(size=100)
    assert raised_by(seen(replace(restless, pinball=1.05 * spread * restless.count)), rule) == []
    assert raised_by(seen(part(1.1)), rule) == [("regression", "1-6")]


def test_too_few_forecasts_raise_no_alert() -> None:
    assert raised_by(seen(part(9.0, origins=7, inside=0.0, skill=-1.0))) == []


def test_a_regression_needs_forecasts_that_do_not_overlap() -> None:
    rule = AlertRule(kind=AlertKind.REGRESSION)
    assert raised_by(seen(replace(part(3.0), overlap=51)), rule) == []


@pytest.mark.parametrize(("inside", "is_found"), [(0.8, False), (0.72, False), (0.6, True), (0.95, True)])
def test_a_band_that_covers_too_little_or_too_much_is_found(inside: float, is_found: bool) -> None:
    assert (("coverage", "load/1-6") in raised_by(seen(part(inside=inside)))) is is_found


def test_only_the_latest_forecasts_count() -> None:
    one = part(inside=0.8)
    one.inside[-20:] = 0.0
    rule = {"kind": AlertKind.COVERAGE}
    assert raised_by(seen(one), AlertRule(**rule, origins=20)) == [("coverage", "load/1-6")]
    assert raised_by(seen(replace(one, inside=one.inside[::-1])), AlertRule(**rule, origins=20)) == []


def test_a_skill_below_the_limit_is_found() -> None:
    assert raised_by(seen(part(skill=-0.1))) == [("skill", "1-6")]
    assert raised_by(seen(part(skill=0.2)), AlertRule(kind=AlertKind.SKILL, below=0.3)) == [("skill", "1-6")]


def test_a_shift_is_held_against_what_is_usual() -> None:
    assert raised_by(seen(shifts={"load": (0.5, 0.1), "wind": (0.5, 0.6)})) == [("drift", "load")]


def test_what_is_old_is_found_with_its_age() -> None:
    assert raised_by(seen(issued_at=NOW - 25 * HOUR)) == [("stale", "forecast")]
    (found,) = evaluate([AlertRule(kind=AlertKind.STALE, after="6h")], seen(observed_until=NOW - 7 * HOUR))
    assert (found.subject, found.value, found.limit) == ("data", 7 * 3600, 6 * 3600)
    assert raised_by(seen(issued_at=None, observed_until=None)) == []


def test_a_job_that_failed_is_found() -> None:
    assert raised_by(seen(failed_jobs={"nightly": "[lake.full] no space"})) == [("run_failed", "nightly")]


def test_two_rules_of_one_kind_find_a_subject_once() -> None:
    rules = [AlertRule(kind=AlertKind.STALE, after="6h"), AlertRule(kind=AlertKind.STALE, after="12h")]
    assert raised_by(seen(issued_at=NOW - 20 * HOUR), *rules) == [("stale", "forecast")]


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "stale", "above": 1.0}, {"kind": "error", "after": "6h"}, {"kind": "skill", "significance": 0.1},
        {"kind": "run_failed", "origins": 20}, {"kind": "stale", "after": "soon"}, {"kind": "coverage", "origins": 7},
        {"kind": "nothing"}, {"kind": "error", "abov": 1.0},
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_meant_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AlertRule(**fields)


def test_a_typo_in_the_config_file_names_the_nearest_field(tiny_document: dict[str, Any]) -> None:
    tiny_document["datasets"]["tiny"]["alerts"] = [{"kind": "stale", "afer": "6h"}]
    with pytest.raises(ValidationError) as caught:
        ConfigFile.model_validate(tiny_document)
    (mistake,) = caught.value.errors()
    assert _describe(mistake) == '"datasets.tiny.alerts.0.afer" is not a field; did you mean "after"?'


# --- how inputs are spread --------------------------------------------------------------------------------------------


def test_values_of_the_same_kind_are_no_shift_and_others_are() -> None:
    random = np.random.default_rng(0)
    spread = Spread.of(random.normal(size=(2, 3000)), 300)
    assert spread is not None
    assert 0 < spread.usual < 0.2
    for values, is_shift in ((random.normal(size=300), False), (random.normal(1.0, 1, 300), True),
                             (random.normal(0, 2, 300), True)):  # fmt: skip
        shift = spread.shift(values)
        assert shift is not None
        assert (shift > max(0.25, spread.usual)) is is_shift


def test_a_season_that_was_fitted_on_is_usual() -> None:
    hours = np.arange(24 * 365)
    yearly = 3 * np.sin(2 * np.pi * hours / len(hours)) + np.random.default_rng(0).normal(size=len(hours))
    spread = Spread.of(yearly[None], 336)
    assert spread is not None
    shift = spread.shift(yearly[None, :336])
    assert shift is not None
    assert 0.25 < shift <= spread.usual


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e9, 1e9) | st.just(float("nan")), min_size=1, max_size=60),
    st.lists(st.floats(-1e9, 1e9) | st.just(float("nan")), min_size=1, max_size=60),
)
def test_a_shift_is_finite_and_never_negative(then: list[float], now: list[float]) -> None:
    spread = Spread.of(np.asarray([then]), 5)
    if spread is None:
        assert np.isnan(then).all()
        return
    shift = spread.shift(np.asarray(now))
    assert (shift is None) == bool(np.isnan(now).all())
    assert shift is None or 0 <= shift < 1e3
