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
    """Challenger against champion at one group of lead times."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    first: int
    last: int
    """First and last lead time of the group."""
    gain: float
    """Relative gain in pinball loss of the challenger."""
    p_better: float | None
    """p-value of the gain: probability of one as large by chance. ``None``: too few independent origins to test."""
    p_worse: float | None
    """p-value of a loss as large."""


class Verdict(StrictModel):
    """The decision, the numbers behind it, and the sentence that explains it."""

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
    """Return the challenger: the candidate with the lowest loss that passes its guards, or of all if none passes."""
    allowed = [one for one in candidates if all(guard.passed for guard in own_guards(one, None, policy))]
    return min(allowed or candidates, key=lambda one: math.inf if math.isnan(one.pinball) else one.pinball)


def decide(challenger: Evidence, champion: Evidence | None, policy: PromotionPolicy, unfit: str = "") -> Verdict:
    """Compare a challenger with the champion on the same held-out origins, which neither was fitted on.

    The challenger replaces the champion if it passes every guard, gains at least ``policy.min_gain``, is significantly
    better at some group of lead times, and significantly worse at none. ``unfit`` says why an existing champion could
    not be scored; ``champion`` is then ``None``. Raises ``promotion.not_comparable`` if the two were scored on
    different windows.
    """
    if champion is not None and champion.origins_digest != challenger.origins_digest:
        raise ConflictError(
            "promotion.not_comparable",
            "champion and challenger were scored on different windows",
            "score both on the same holdout",
        )
    # The first case that applies decides:
    #
    #   case                                             verdict
    #   the challenger fails a guard                     refused
    #   no champion, or it is unfit                      promoted
    #   the champion's forecasts or scores not finite    promoted: there is nothing to compare with
    #   gain below policy.min_gain                       champion stays   } _weigh
    #   significantly worse at a group of lead times     champion stays   }
    #   too few independent origins for any test         promoted         }
    #   significantly better at no group                 champion stays   }
    #   significantly better at some group               promoted         }
    scored = champion if champion is not None and is_sound(champion) else None
    comparisons = tuple(compare(challenger, scored)) if scored is not None and is_sound(challenger) else ()
    guards = tuple(own_guards(challenger, scored, policy))
    if scored is not None:
        gains = {f"lead times {item.first} to {item.last}": item.gain for item in comparisons}
        guards = (*guards, *part_guards(challenger, scored, gains, policy))
    name, failed = challenger.model_version, [guard.message for guard in guards if not guard.passed]
    covers = f"its {challenger.promised_coverage:.0%} band covers {challenger.overall.coverage:.1%}"
    gain = None if scored is None else skill(challenger.pinball, scored.pinball)
    if failed:
        stays = "" if champion is None else f"; {champion.model_version} stays"
        promote, sentence = False, f"{name} is refused: {'; '.join(failed)}{stays}"
    elif champion is None:
        why = f"becomes champion, since {unfit}" if unfit else "is the first champion"
        promote, sentence = True, f"{name} {why} (pinball {challenger.pinball:.4f}, {covers})"
    elif scored is None or gain is None:
        why = "which has forecasts or scores that are not finite"
        promote, sentence = True, f"{name} replaces {champion.model_version}, {why}; {covers}"
    else:
        against = f"pinball {challenger.pinball:.4f} against {scored.pinball:.4f} ({gain:+.1%})"
        promote, why = _weigh(gain, comparisons, policy)
        if promote:
            sentence = f"{name} replaces {scored.model_version}: {against}, {why}; {covers}"
        else:
            sentence = f"{scored.model_version} stays: {name} has {against}, {why}"
    return Verdict(
        promote=promote, challenger=name, champion=None if champion is None else champion.model_version, gain=gain,
        comparisons=comparisons, guards=guards, sentence=sentence,
    )  # fmt: skip


def _weigh(gain: float, comparisons: Sequence[Comparison], policy: PromotionPolicy) -> tuple[bool, str]:
    """Return whether a gain is large and significant enough to promote, and the reason."""
    if gain <= 0 or gain < policy.min_gain:
        return False, f"less than {policy.min_gain:.1%} better"
    better, worse = _significant(comparisons, policy.significance)
    if worse:
        return False, f"but it is worse at {worse}"
    tested = [(item.p_better, item) for item in comparisons if item.p_better is not None]
    if not tested:
        return True, "with too few origins to test it for chance"
    if not better:
        p, item = min(tested, key=lambda pair: pair[0])
        return False, f"which may be chance (p {p:.2g} at lead times {item.first} to {item.last})"
    return True, f"beyond chance at {better}"


def compare(challenger: Evidence, champion: Evidence) -> Iterator[Comparison]:
    """Yield the comparison of each group of lead times: a paired test of the losses, origin by origin."""
    begins = (0, *challenger.group_ends[:-1])
    for begin, end, challenger_losses, champion_losses in zip(
        begins, challenger.group_ends, challenger.group_losses, champion.group_losses, strict=True
    ):
        # A forecast of `end` steps shares steps with those of the next `end` origins.
        test = paired_test(challenger_losses, champion_losses, overlap=end)
        yield Comparison(
            first=begin + 1,
            last=end,
            gain=skill(math.fsum(challenger_losses), math.fsum(champion_losses)),
            p_better=None if test is None else round(test.p_lower, 6),
            p_worse=None if test is None else round(test.p_higher, 6),
        )


def _significant(comparisons: Sequence[Comparison], level: float) -> tuple[str, str]:
    """Return where the challenger is significantly better, and where significantly worse, as text; empty: nowhere."""
    tested = [item for item in comparisons if item.p_better is not None]
    allowed = level / max(len(tested), 1)  # Bonferroni: with several groups, one may look good by chance

    def text(chances: Sequence[float | None]) -> str:
        found = [(p, item) for p, item in zip(chances, tested, strict=True) if p is not None and p <= allowed]
        return ", ".join(f"lead times {item.first} to {item.last} (p {p:.2g} of {allowed:.2g})" for p, item in found)

    return text([item.p_better for item in tested]), text([item.p_worse for item in tested])
