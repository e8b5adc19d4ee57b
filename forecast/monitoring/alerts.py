"""Evaluation of alert rules: pure functions from the observed state of a data set to findings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

import numpy as np

from forecast.config.alerts import LEAST_FORECASTS, AlertKind, AlertRule
from forecast.evaluation.metrics import skill
from forecast.evaluation.significance import unpaired_test
from forecast.monitoring.reference import Holdout
from forecast.panel import Array
from forecast.vocabulary import parse_duration


@dataclass(frozen=True, slots=True)
class AlertFinding:
    """One violated rule."""

    kind: AlertKind
    subject: str
    """Stable name of the affected channel, group of lead times or job; it identifies the alert over time."""
    message: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class LivePart:
    """Live scores of one channel and group of lead times, summed over series, of completed forecasts.

    O origins in time order; origins without observations are left out.
    """

    first: int
    last: int
    overlap: int
    """Number of neighbouring origins whose forecasts share a step."""
    count: Array
    """[O], observed values."""
    pinball: Array
    """[O], sum of the quantile loss."""
    inside: Array
    """[O], values inside the band."""
    compared: Array
    """[O], absolute errors where a seasonal naive forecast exists."""
    naive: Array
    """[O], absolute errors of that seasonal naive forecast."""


@dataclass(frozen=True, slots=True)
class ObservedState:
    """The input of the rules."""

    now: datetime
    stale_after: str
    promised_coverage: float = 0.0
    parts: Mapping[tuple[str, int], LivePart] = field(default_factory=dict)
    """Live scores by channel and last lead time of a group."""
    groups: Mapping[int, LivePart] = field(default_factory=dict)
    """Live scores by last lead time of a group, over all channels."""
    channels: Mapping[str, LivePart] = field(default_factory=dict)
    """Live scores by channel, over all lead times, of forecasts observed to their end."""
    holdout: Holdout | None = None
    shifts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By channel: population stability index of the newest values, and its usual level."""
    issued_at: datetime | None = None
    observed_until: datetime | None = None
    """End of the newest step with an observation."""
    failed_jobs: Mapping[str, str] = field(default_factory=dict)
    """Reason by job, of jobs whose latest run failed after its last retry."""


def evaluate(rules: Sequence[AlertRule], state: ObservedState) -> list[AlertFinding]:
    """Return the findings of the rules, at most one per kind and subject."""
    found: dict[tuple[str, str], AlertFinding] = {}
    for rule in rules:
        for finding in _CHECKS[rule.kind](rule, state):
            found.setdefault((finding.kind, finding.subject), finding)
    return list(found.values())


def _error(rule: AlertRule, state: ObservedState) -> Iterator[AlertFinding]:
    if state.holdout is None:
        return
    for channel, part in state.channels.items():
        before = state.holdout.loss_by_channel.get(channel)
        if before is not None and len(part.count) >= LEAST_FORECASTS:
            yield from _worse(rule, channel, channel, part, before)
    for end, part in state.groups.items():
        losses = state.holdout.losses_by_group.get(end)
        if losses and len(part.count) >= LEAST_FORECASTS:
            about = f"lead times {part.first} to {part.last}"
            yield from _worse(rule, f"{part.first}-{part.last}", about, part, float(np.mean(losses)))


def _worse(rule: AlertRule, subject: str, about: str, part: LivePart, before: float) -> Iterator[AlertFinding]:
    newest = _newest(part, rule.last)
    loss = float(newest.pinball.sum() / newest.count.sum())
    if math.isfinite(before) and before > 0 and loss / before > rule.limit:
        message = (
            f"the loss of {about} is {loss / before:.2f} times that of the holdout ({loss:.4f} against {before:.4f})"
        )
        yield AlertFinding(rule.kind, subject, message, loss / before, rule.limit)


def _coverage(rule: AlertRule, state: ObservedState) -> Iterator[AlertFinding]:
    for (channel, _), part in state.parts.items():
        if len(part.count) < LEAST_FORECASTS:
            continue
        newest = _newest(part, rule.last)
        covered = float(newest.inside.sum() / newest.count.sum())
        if abs(covered - state.promised_coverage) > rule.limit:
            message = (
                f"the {state.promised_coverage:.0%} band of {channel} covers {covered:.1%} at lead times "
                f"{part.first} to {part.last} of the last {len(newest.count)} forecasts"
            )
            yield AlertFinding(rule.kind, f"{channel}/{part.first}-{part.last}", message, covered, rule.limit)


def _skill(rule: AlertRule, state: ObservedState) -> Iterator[AlertFinding]:
    limit = rule.below or 0.0
    for part in state.groups.values():
        newest = _newest(part, rule.last)
        if len(part.count) < LEAST_FORECASTS or newest.naive.sum() <= 0:
            continue
        value = skill(float(newest.compared.sum()), float(newest.naive.sum()))
        if value < limit:
            message = (
                f"the skill against the seasonal naive forecast is {value:+.1%} at lead times {part.first} to "
                f"{part.last} of the last {len(newest.count)} forecasts"
            )
            yield AlertFinding(rule.kind, f"{part.first}-{part.last}", message, value, limit)


def _regression(rule: AlertRule, state: ObservedState) -> Iterator[AlertFinding]:
    if state.holdout is None:
        return
    level = rule.significance or 0.01
    for end, part in state.groups.items():
        before = state.holdout.losses_by_group.get(end)
        if not before:
            continue
        live = part.pinball / part.count
        test = unpaired_test(live, before, (part.overlap, end))
        mean = float(np.mean(before))
        if test is None or mean <= 0 or test.mean / mean <= rule.limit or test.p_higher > level:
            continue
        message = (
            f"the loss at lead times {part.first} to {part.last} is {test.mean / mean:+.1%} against the holdout, "
            f"which is significant (p {test.p_higher:.2g} of {len(live)} forecasts)"
        )
        yield AlertFinding(rule.kind, f"{part.first}-{part.last}", message, test.mean / mean, rule.limit)


def _drift(rule: AlertRule, state: ObservedState) -> Iterator[AlertFinding]:
    for channel, (shift, usual) in state.shifts.items():
        limit = max(rule.limit, usual)
        if shift > limit:
            message = (
                f"{channel} no longer has the distribution of the rows that the champion was fitted on "
                f"(stability index {shift:.2f}, limit {limit:.2f})"
            )
            yield AlertFinding(rule.kind, channel, message, shift, limit)


def _stale(rule: AlertRule, state: ObservedState) -> Iterator[AlertFinding]:
    limit = parse_duration(rule.after or state.stale_after)
    for subject, what, since in (
        ("forecast", "no forecast was issued", state.issued_at),
        ("data", "nothing was observed", state.observed_until),
    ):
        if since is not None and state.now - since > limit:
            age: timedelta = state.now - since
            message = f"{what} for {age.total_seconds() / 3600:.1f} h"
            yield AlertFinding(rule.kind, subject, message, age.total_seconds(), limit.total_seconds())


def _run_failed(rule: AlertRule, state: ObservedState) -> Iterator[AlertFinding]:
    for job, reason in state.failed_jobs.items():
        yield AlertFinding(rule.kind, job, f"{job} failed: {reason}")


_CHECKS = MappingProxyType(
    {
        AlertKind.ERROR: _error, AlertKind.COVERAGE: _coverage, AlertKind.SKILL: _skill,
        AlertKind.REGRESSION: _regression, AlertKind.DRIFT: _drift, AlertKind.STALE: _stale,
        AlertKind.RUN_FAILED: _run_failed,
    }
)  # fmt: skip


def _newest(part: LivePart, last: int) -> LivePart:
    arrays = {name: getattr(part, name)[-last:] for name in ("count", "pinball", "inside", "compared", "naive")}
    return LivePart(part.first, part.last, part.overlap, **arrays)
