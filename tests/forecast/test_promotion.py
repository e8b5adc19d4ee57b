from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.errors import ConflictError
from forecast.evaluation import Evidence
from forecast.promotion import COVERAGE_TOLERANCE, decide

CHAMPION = Evidence(
    model_name="linear",
    model_version="v1",
    origins_digest="same",
    windows=10,
    pinball=1.0,
    coverage=0.8,
    promised_coverage=0.8,
    mae={24: 1.0},
    mse={24: 1.0},
    channel_mae={"load": 1.0},
    pinball_by_lead=(1.0,),
    is_finite=True,
)
CHALLENGER = replace(CHAMPION, model_name="itransformer", model_version="v2")
NAN = float("nan")


def test_the_first_model_becomes_champion() -> None:
    verdict = decide(CHALLENGER, None, 0.01)
    assert verdict.promote
    assert verdict.champion is None
    assert verdict.gain is None
    assert "first champion" in verdict.sentence


@pytest.mark.parametrize(
    ("pinball", "promoted"), [(0.5, True), (0.989, True), (0.991, False), (1.0, False), (2.0, False)]
)
def test_a_challenger_must_gain_at_least_the_minimum(pinball: float, promoted: bool) -> None:
    verdict = decide(replace(CHALLENGER, pinball=pinball), CHAMPION, 0.01)
    assert verdict.promote is promoted
    assert verdict.gain == pytest.approx(1 - pinball)


@given(st.floats(0.001, 10), st.floats(0.001, 10), st.floats(0, 0.99))
def test_nobody_is_replaced_by_a_worse_model(challenger: float, champion: float, min_gain: float) -> None:
    verdict = decide(replace(CHALLENGER, pinball=challenger), replace(CHAMPION, pinball=champion), min_gain)
    assert not verdict.promote or challenger <= champion


def test_the_verdict_names_both_and_the_numbers() -> None:
    sentence = decide(replace(CHALLENGER, pinball=0.5), CHAMPION, 0.01).sentence
    assert all(part in sentence for part in ("v2", "v1", "0.5000", "1.0000", "+50.0%", "80%"))


def test_scores_on_different_windows_are_not_compared() -> None:
    with pytest.raises(ConflictError, match="different windows") as caught:
        decide(replace(CHALLENGER, origins_digest="other"), CHAMPION, 0.01)
    assert caught.value.code == "promotion.not_comparable"


@pytest.mark.parametrize("champion", [None, CHAMPION])
def test_a_challenger_with_forecasts_that_are_not_finite_is_refused(champion: Evidence | None) -> None:
    verdict = decide(replace(CHALLENGER, is_finite=False, pinball=0.1), champion, 0.01)
    assert not verdict.promote
    assert "not finite" in verdict.sentence


@pytest.mark.parametrize("champion", [None, CHAMPION])
def test_a_challenger_whose_score_is_not_a_number_is_refused(champion: Evidence | None) -> None:
    assert not decide(replace(CHALLENGER, pinball=NAN), champion, 0.01).promote


def test_a_champion_that_cannot_be_scored_is_replaced_by_one_that_can() -> None:
    assert decide(CHALLENGER, replace(CHAMPION, pinball=NAN, is_finite=False), 0.01).promote


@pytest.mark.parametrize("coverage", [0.8 - COVERAGE_TOLERANCE - 0.01, 0.8 + COVERAGE_TOLERANCE + 0.01, 0.0])
def test_a_better_challenger_whose_band_does_not_cover_is_refused(coverage: float) -> None:
    verdict = decide(replace(CHALLENGER, pinball=0.1, coverage=coverage), CHAMPION, 0.01)
    assert not verdict.promote
    assert "80% band covers" in verdict.sentence


def test_a_band_that_misses_its_promise_is_no_reason_to_keep_one_that_misses_more() -> None:
    assert decide(replace(CHALLENGER, pinball=0.5, coverage=0.5), replace(CHAMPION, coverage=0.3), 0.01).promote


def test_against_a_perfect_champion_nobody_gains() -> None:
    assert not decide(replace(CHALLENGER, pinball=0.0), replace(CHAMPION, pinball=0.0), 0.01).promote
