"""The decision whether a challenger replaces the champion: a pure function of evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pydantic import ConfigDict

from forecast.config.training import PromotionPolicy
from forecast.errors import ConflictError
from forecast.evaluation.guards import Guard, is_sound, own_guards, part_guards
from forecast.evaluation.metrics import skill
from forecast.evaluation.scores import Evidence
from forecast.evaluation.significance import paired_test
from forecast.strict import StrictModel


class Comparison(StrictModel):
    """Challenger and champion at one group of lead times."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    first: int
    last: int
    """Lead times of the group."""
    gain: float
    """Relative gain in pinball loss."""
    p_better: float | None
    """Probability of a gain as large as this by chance; ``None`` where too few origins do not overlap."""
    p_worse: float | None
    """Probability of a loss as large as this by chance."""


class Verdict(StrictModel):
    """What was decided, the numbers it rests on, and the sentence that says why."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    promote: bool
    challenger: str
    champion: str | None
    gain: float | None
    """Relative gain in pinball loss over the champion; ``None`` without one."""
    comparisons: tuple[Comparison, ...] = ()
    guards: tuple[Guard, ...] = ()
    sentence: str


def best(candidates: Sequence[Evidence], policy: PromotionPolicy) -> Evidence:
    """Return the challenger: the candidate with the least loss of those that may serve, or of all if none may."""
    allowed = [one for one in candidates if all(guard.passed for guard in own_guards(one, None, policy))]
    return min(allowed or candidates, key=lambda one: math.inf if math.isnan(one.pinball) else one.pinball)


def decide(challenger: Evidence, champion: Evidence | None, policy: PromotionPolicy, unfit: str = "") -> Verdict:
    """Compare a challenger with the champion on the same held-out origins, which neither was fitted on.

    It replaces the champion if it meets every guard, gains at least ``policy.min_gain``, is better at some group of
    lead times by more than chance explains, and at none worse. ``unfit`` says why a champion there is cannot be scored;
    it then counts as none. Raises ``promotion.not_comparable`` if they were scored on different windows.
    """
    if champion is not None and champion.origins_digest != challenger.origins_digest:
        raise ConflictError(
            "promotion.not_comparable",
            "champion and challenger were scored on different windows",
            "score both on the same holdout",
        )
    rival = champion if champion is not None and is_sound(champion) else None
    comparisons = tuple(compare(challenger, rival)) if rival is not None and is_sound(challenger) else ()
    guards = tuple(own_guards(challenger, rival, policy))
    if rival is not None:
        gains = {f"lead times {item.first} to {item.last}": item.gain for item in comparisons}
        guards = (*guards, *part_guards(challenger, rival, gains, policy))
    name, failed = challenger.model_version, [guard.message for guard in guards if not guard.passed]
    covers = f"its {challenger.promised_coverage:.0%} band covers {challenger.overall.coverage:.1%}"
    gain = None if rival is None else skill(challenger.pinball, rival.pinball)
    if failed:
        stays = "" if champion is None else f"; {champion.model_version} stays"
        promote, sentence = False, f"{name} is refused: {'; '.join(failed)}{stays}"
    elif champion is None:
        why = f"becomes champion, since {unfit}" if unfit else "is the first champion"
        promote, sentence = True, f"{name} {why} (pinball {challenger.pinball:.4f}, {covers})"
    elif rival is None or gain is None:
        message = "gives forecasts or scores that are not finite"
        promote, sentence = True, f"{name} replaces {champion.model_version}, which {message}; {covers}"
    else:
        against = f"pinball {challenger.pinball:.4f} against {rival.pinball:.4f} ({gain:+.1%})"
        promote, why = _weighed(gain, comparisons, policy)
        if promote:
            sentence = f"{name} replaces {rival.model_version}: {against}, {why}; {covers}"
        else:
            sentence = f"{rival.model_version} stays: {name} has {against}, {why}"
    return Verdict(
        promote=promote, challenger=name, champion=None if champion is None else champion.model_version, gain=gain,
        comparisons=comparisons, guards=guards, sentence=sentence,
    )  # fmt: skip


def _weighed(gain: float, comparisons: Sequence[Comparison], policy: PromotionPolicy) -> tuple[bool, str]:
    """Say whether a gain is large enough, and no chance."""
    if gain <= 0 or gain < policy.min_gain:
        return False, f"less than {policy.min_gain:.1%} better"
    better, worse = _significant(comparisons, policy.significance)
    if worse:
        return False, f"but it is worse at {worse}"
    tested = [(item.p_better, item) for item in comparisons if item.p_better is not None]
    if not tested:
        return True, "of too few origins to tell it from chance"
    if not better:
        p, item = min(tested, key=lambda pair: pair[0])
        return False, f"which may be chance (p {p:.2g} at lead times {item.first} to {item.last})"
    return True, f"beyond chance at {better}"


def compare(challenger: Evidence, champion: Evidence) -> Iterator[Comparison]:
    """Compare losses at each group of lead times, origin by origin."""
    begins = (0, *challenger.group_ends[:-1])
    for begin, end, ours, theirs in zip(
        begins, challenger.group_ends, challenger.group_losses, champion.group_losses, strict=True
    ):
        test = paired_test(ours, theirs, overlap=end)
        yield Comparison(
            first=begin + 1,
            last=end,
            gain=skill(math.fsum(ours), math.fsum(theirs)),
            p_better=None if test is None else round(test.p_lower, 6),
            p_worse=None if test is None else round(test.p_higher, 6),
        )


def _significant(comparisons: Sequence[Comparison], level: float) -> tuple[str, str]:
    """Say where the challenger is better, and where worse, by more than chance explains; empty for nowhere."""
    tested = [item for item in comparisons if item.p_better is not None]
    allowed = level / max(len(tested), 1)  # Bonferroni: of several groups one may always look good by chance

    def text(chances: Sequence[float | None]) -> str:
        found = [(p, item) for p, item in zip(chances, tested, strict=True) if p is not None and p <= allowed]
        return ", ".join(f"lead times {item.first} to {item.last} (p {p:.2g} of {allowed:.2g})" for p, item in found)

    return text([item.p_better for item in tested]), text([item.p_worse for item in tested])
