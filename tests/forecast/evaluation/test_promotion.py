from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast.config.training import PromotionPolicy
from forecast.errors import ConflictError
from forecast.evaluation.promotion import Verdict, best, decide
from forecast.evaluation.scores import Evidence

Make = Callable[..., Evidence]
POLICY = PromotionPolicy(max_coverage_error=1.0)  # the made-up bands of these tests cover nearly everything
NAN = float("nan")


def broken(evidence: Evidence) -> Evidence:
    scores = evidence.overall.model_copy(update={"pinball": NAN})
    return evidence.model_copy(update={"is_finite": False, "by_horizon": evidence.by_horizon | {4: scores}})


def failed(verdict: Verdict) -> list[str]:
    return [guard.name for guard in verdict.guards if not guard.passed]


def test_the_first_model_becomes_champion(make_evidence: Make) -> None:
    verdict = decide(make_evidence("a"), None, POLICY)
    assert verdict.promote
    assert verdict.champion is None
    assert verdict.gain is None
    assert "first champion" in verdict.sentence


def test_the_verdict_says_why_the_champion_cannot_be_scored(make_evidence: Make) -> None:
    verdict = decide(make_evidence("a"), None, POLICY, "b is of other channels")
    assert "becomes champion, since b is of other channels" in verdict.sentence


@pytest.mark.parametrize(("error", "promoted"), [(0.5, True), (0.9, True), (0.995, False), (1.0, False), (2.0, False)])
def test_a_challenger_must_gain_at_least_the_minimum(make_evidence: Make, error: float, promoted: bool) -> None:
    verdict = decide(make_evidence("a", error), make_evidence("b", 1.0), POLICY)
    assert verdict.promote is promoted
    assert verdict.gain == pytest.approx(1 - error, abs=1e-6)


def test_a_gain_that_may_be_chance_is_none(make_evidence: Make) -> None:
    verdict = decide(make_evidence("a", 0.97, noise=1.0, seed=3), make_evidence("b", noise=1.0, seed=4), POLICY)
    assert verdict.gain is not None
    assert verdict.gain > POLICY.min_gain
    assert not verdict.promote
    assert "may be chance" in verdict.sentence


def test_with_too_few_origins_only_the_gain_counts_and_the_verdict_says_so(make_evidence: Make) -> None:
    verdict = decide(make_evidence("a", 0.9, origins=5), make_evidence("b", origins=5), POLICY)
    assert verdict.promote
    assert "too few origins" in verdict.sentence
    assert all(item.p_better is None for item in verdict.comparisons)


def test_a_challenger_that_is_worse_somewhere_by_more_than_chance_is_not_promoted(make_evidence: Make) -> None:
    champion, challenger = make_evidence("b"), make_evidence("a", 0.5)
    worse_early = (tuple(1.05 * loss for loss in champion.group_losses[0]), challenger.group_losses[1])
    verdict = decide(challenger.model_copy(update={"group_losses": worse_early}), champion, POLICY)
    assert not verdict.promote
    assert "worse at lead times 1 to 2" in verdict.sentence


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.floats(0.2, 3), st.floats(0.2, 3), st.floats(0, 0.9), st.integers(0, 20))
def test_a_worse_model_never_replaces_the_champion(
    make_evidence: Make, ours: float, theirs: float, min_gain: float, seed: int
) -> None:
    challenger, champion = make_evidence("a", ours, seed=seed, origins=40), make_evidence("b", theirs, origins=40)
    verdict = decide(challenger, champion, POLICY.model_copy(update={"min_gain": min_gain}))
    assert not verdict.promote or challenger.pinball <= (1 - min_gain) * champion.pinball + 1e-9


def test_the_verdict_names_both_and_the_numbers(make_evidence: Make) -> None:
    sentence = decide(make_evidence("a", 0.5), make_evidence("b"), POLICY).sentence
    assert all(part in sentence for part in ("a replaces b", "+50.0%", "80% band covers", "lead times 1 to 2"))


def test_a_verdict_is_the_same_from_stored_evidence(make_evidence: Make) -> None:
    pair = [make_evidence("a", 0.97, noise=1.0, seed=3), make_evidence("b", noise=1.0, seed=4)]
    stored = [Evidence.model_validate_json(one.model_dump_json()) for one in pair]
    verdict = decide(pair[0], pair[1], POLICY)
    assert decide(stored[0], stored[1], POLICY) == verdict
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_scores_on_different_windows_are_not_compared(make_evidence: Make) -> None:
    with pytest.raises(ConflictError, match="different windows") as caught:
        decide(make_evidence("a", digest="other"), make_evidence("b"), POLICY)
    assert caught.value.code == "promotion.not_comparable"


@pytest.mark.parametrize("reigning", [True, False])
def test_a_challenger_with_forecasts_that_are_not_finite_is_refused(make_evidence: Make, reigning: bool) -> None:
    verdict = decide(broken(make_evidence("a", 0.1)), make_evidence("b") if reigning else None, POLICY)
    assert not verdict.promote
    assert "not finite" in verdict.sentence


def test_a_champion_that_cannot_be_scored_is_replaced_by_one_that_can(make_evidence: Make) -> None:
    verdict = decide(make_evidence("a"), broken(make_evidence("b")), POLICY)
    assert verdict.promote
    assert verdict.champion == "b"


@pytest.mark.parametrize("width", [0.01, 0.5])
def test_a_better_challenger_whose_band_does_not_cover_is_refused(make_evidence: Make, width: float) -> None:
    verdict = decide(make_evidence("a", 0.1, width=width), make_evidence("b", width=1.3), PromotionPolicy())
    assert not verdict.promote
    assert failed(verdict) == ["coverage"]
    assert "80% band covers" in verdict.sentence


def test_a_challenger_with_poor_coverage_may_replace_a_champion_with_worse_coverage(make_evidence: Make) -> None:
    assert decide(make_evidence("a", 0.5, width=0.9), make_evidence("b", width=0.5), PromotionPolicy()).promote


@pytest.mark.parametrize(
    ("seen", "guard"),
    [
        ({"latency_ms": 1001.0}, "latency"),
        ({"size_mb": 501.0}, "size"),
        ({"onnx_difference": 1e-3}, "onnx"),
        ({"not_finite_on": ("zeros throughout",)}, "stress"),
    ],
)
@pytest.mark.parametrize("reigning", [True, False])
def test_a_model_that_is_unfit_to_serve_is_refused_however_good(
    make_evidence: Make, seen: dict[str, object], guard: str, reigning: bool
) -> None:
    verdict = decide(make_evidence("a", 0.1, **seen), make_evidence("b") if reigning else None, POLICY)
    assert not verdict.promote
    assert failed(verdict) == [guard]


def test_no_channel_pays_for_the_others(make_evidence: Make) -> None:
    challenger = make_evidence("a", channels={"load": 0.1, "price": 1.3})
    verdict = decide(challenger, make_evidence("b"), POLICY)
    assert verdict.gain is not None
    assert verdict.gain > 0.2
    assert not verdict.promote
    assert failed(verdict) == ["channels"]
    assert "price" in verdict.sentence


def test_the_challenger_is_the_best_of_those_that_may_serve(make_evidence: Make) -> None:
    slow, good, poor = make_evidence("a", 0.1, latency_ms=9999.0), make_evidence("b", 0.5), make_evidence("c", 0.9)
    assert best([poor, slow, good], POLICY).model_version == "b"
    assert best([slow], POLICY).model_version == "a"
    assert best([broken(poor), slow], POLICY).model_version == "a"
