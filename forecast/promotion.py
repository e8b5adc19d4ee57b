"""The decision whether a challenger replaces the champion: a pure function of evidence."""

from __future__ import annotations

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


def decide(challenger: Evidence, champion: Evidence | None, min_gain: float) -> Verdict:
    """Compare a challenger with the champion on the same held-out origins, which neither was fitted on.

    Raises ``promotion.not_comparable`` if they were scored on different windows.
    """
    name = challenger.model_version
    if not challenger.is_finite:
        return Verdict(False, name, _name(champion), None, f"{name} is refused: some of its forecasts are not finite")
    off = abs(challenger.coverage - challenger.promised_coverage)
    covers = f"its {challenger.promised_coverage:.0%} band covers {challenger.coverage:.1%}"
    if champion is None:
        return Verdict(
            True, name, None, None, f"{name} is the first champion (pinball {challenger.pinball:.4f}, {covers})"
        )
    if champion.origins_digest != challenger.origins_digest:
        raise ConflictError(
            "promotion.not_comparable",
            "champion and challenger were scored on different windows",
            "score both on the same holdout",
        )
    gain = 1.0 - challenger.pinball / champion.pinball if champion.pinball > 0 else 0.0
    against = f"pinball {challenger.pinball:.4f} against {champion.pinball:.4f} of {_name(champion)} ({gain:+.1%})"
    if off > COVERAGE_TOLERANCE and off > abs(champion.coverage - champion.promised_coverage):
        return Verdict(False, name, _name(champion), gain, f"{name} is refused: {covers}; {against}")
    if gain < min_gain:
        return Verdict(
            False,
            name,
            _name(champion),
            gain,
            f"{_name(champion)} stays: {name} has {against}, less than {min_gain:.1%} better",
        )
    return Verdict(True, name, _name(champion), gain, f"{name} replaces {_name(champion)}: {against}; {covers}")


def _name(evidence: Evidence | None) -> str | None:
    return None if evidence is None else evidence.model_version
