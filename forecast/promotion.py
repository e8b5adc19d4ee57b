"""The decision whether a challenger replaces the champion: a pure function of evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

from forecast.errors import ConflictError
from forecast.evaluation import Evidence

COVERAGE_TOLERANCE = 0.15
"""How far the band's coverage on the holdout may be from what it promises before a challenger is refused."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided, and the sentence that says why."""

    promote: bool
    challenger: str
    champion: str | None
    gain: float | None
    """Relative gain in pinball loss over the champion; ``None`` without one."""
    sentence: str


def decide(challenger: Evidence, champion: Evidence | None, min_gain: float, unfit: str = "") -> Verdict:
    """Compare a challenger with the champion on the same held-out origins, which neither was fitted on.

    ``unfit`` says why a champion there is cannot be scored; it then counts as none. Raises
    ``promotion.not_comparable`` if they were scored on different windows.
    """
    name = challenger.model_version
    reigning = None if champion is None else champion.model_version
    if not _is_sound(challenger):
        told = f"{name} is refused: some of its forecasts or scores are not finite"
        return Verdict(False, name, reigning, None, told)
    off = abs(challenger.coverage - challenger.promised_coverage)
    covers = f"its {challenger.promised_coverage:.0%} band covers {challenger.coverage:.1%}"
    if champion is None:
        why = f"becomes champion, since {unfit}" if unfit else "is the first champion"
        return Verdict(True, name, None, None, f"{name} {why} (pinball {challenger.pinball:.4f}, {covers})")
    if champion.origins_digest != challenger.origins_digest:
        raise ConflictError(
            "promotion.not_comparable",
            "champion and challenger were scored on different windows",
            "score both on the same holdout",
        )
    if not _is_sound(champion):
        told = f"{name} replaces {reigning}, which gives forecasts or scores that are not finite; {covers}"
        return Verdict(True, name, reigning, None, told)
    gain = 1.0 - challenger.pinball / champion.pinball if champion.pinball > 0 else 0.0
    against = f"pinball {challenger.pinball:.4f} against {champion.pinball:.4f} of {reigning} ({gain:+.1%})"
    if off > COVERAGE_TOLERANCE and off > abs(champion.coverage - champion.promised_coverage):
        return Verdict(False, name, reigning, gain, f"{name} is refused: {covers}; {against}")
    if gain < min_gain:
        told = f"{reigning} stays: {name} has {against}, less than {min_gain:.1%} better"
        return Verdict(False, name, reigning, gain, told)
    return Verdict(True, name, reigning, gain, f"{name} replaces {reigning}: {against}; {covers}")


def _is_sound(evidence: Evidence) -> bool:
    return evidence.is_finite and math.isfinite(evidence.pinball)
