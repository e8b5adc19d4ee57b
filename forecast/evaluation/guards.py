"""Guards: conditions that a challenger must meet in addition to a better score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

from forecast.config.training import PromotionPolicy
from forecast.evaluation.metrics import skill
from forecast.evaluation.scores import Evidence
from forecast.strict import StrictModel
from forecast.vocabulary import parse_duration

ONNX_TOLERANCE = 1e-4


class Guard(StrictModel):
    """One condition, and whether the challenger meets it."""

    name: str
    passed: bool
    message: str
    renamed_fields: ClassVar[Mapping[str, str]] = MappingProxyType({"told": "message"})


def own_guards(challenger: Evidence, champion: Evidence | None, policy: PromotionPolicy) -> Iterator[Guard]:
    """Yield the guards that apply with or without a current champion.

    They are finite (forecasts and scores), stress (finite on pathological inputs), coverage, latency, size, and onnx
    (agreement of ONNX Runtime and torch).
    """
    tested = challenger.smoke_test
    sound = is_sound(challenger)
    message = "all forecasts and scores are finite" if sound else "some of its forecasts or scores are not finite"
    yield Guard(name="finite", passed=sound, message=message)
    stress = ", ".join(tested.not_finite_on)
    message = f"forecasts from {stress} are not finite" if stress else "forecasts from pathological inputs are finite"
    yield Guard(name="stress", passed=not stress, message=message)
    off = abs(challenger.overall.coverage - challenger.promised_coverage)
    tolerated = policy.max_coverage_error
    if champion is not None:  # do not keep a champion whose coverage is even worse
        tolerated = max(tolerated, abs(champion.overall.coverage - champion.promised_coverage))
    yield Guard(
        name="coverage",
        passed=off <= tolerated,
        message=f"its {challenger.promised_coverage:.0%} band covers {challenger.overall.coverage:.1%}",
    )
    budget = parse_duration(policy.max_latency).total_seconds() * 1000
    yield Guard(
        name="latency",
        passed=tested.latency_ms <= budget,
        message=f"a forecast takes {tested.latency_ms:.1f} ms of {budget:.0f} ms",
    )
    yield Guard(
        name="size",
        passed=tested.size_mb <= policy.max_size,
        message=f"its network has {tested.size_mb:.1f} MB of {policy.max_size:.0f} MB",
    )
    yield Guard(
        name="onnx",
        passed=tested.onnx_difference <= ONNX_TOLERANCE,
        message=f"ONNX Runtime and torch differ by {tested.onnx_difference:.1e} deviations",
    )


def part_guards(
    challenger: Evidence, champion: Evidence, lead_gains: Mapping[str, float], policy: PromotionPolicy
) -> Iterator[Guard]:
    """Yield the guards against a loss on any channel or any group of lead times, whatever the overall gain."""
    channels = {
        channel: skill(scores.pinball, champion.by_channel[channel].pinball)
        for channel, scores in challenger.by_channel.items()
        if math.isfinite(scores.pinball)
    }
    for name, gains in (("channels", channels), ("lead times", lead_gains)):
        if gains:
            place = min(gains, key=lambda part: gains[part])
            message = f"the smallest gain is at {place} with {gains[place]:+.1%} (allowed {-policy.max_part_loss:.0%})"
            yield Guard(name=name, passed=gains[place] >= -policy.max_part_loss, message=message)


def is_sound(evidence: Evidence) -> bool:
    """Whether all forecasts and the pinball loss of a model are finite."""
    return evidence.is_finite and math.isfinite(evidence.pinball)
