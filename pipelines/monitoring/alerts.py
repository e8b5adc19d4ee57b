"""Collect the observed state of a data set and evaluate its alert rules."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import numpy as np

from forecast.config.alerts import AlertKind
from forecast.errors import ForecastError
from forecast.installation import Dataset
from forecast.ledger.champions import Champion
from forecast.ledger.scores import OriginScore
from forecast.monitoring.alerts import AlertFinding, LivePart, ObservedState, evaluate
from forecast.panel import Array
from pipelines.forecasting.correct import window
from pipelines.forecasting.issued import Actuals
from pipelines.monitoring.reference import inputs
from pipelines.preparation.clean import clean

_LOG = logging.getLogger(__name__)
Key = TypeVar("Key")
_LOOK_BACK = timedelta(weeks=8)
_LIVE = frozenset({AlertKind.ERROR, AlertKind.COVERAGE, AlertKind.SKILL, AlertKind.REGRESSION})


def evaluate_rules(dataset: Dataset, champion: Champion | None, actuals: Actuals | None) -> list[AlertFinding]:
    """Return the findings of the config's alert rules on the present state; none without rules."""
    config, ledger = dataset.config, dataset.ledger
    kinds = {rule.kind for rule in config.alerts}
    if not kinds:
        return []
    issuance = ledger.issuances.latest(dataset.name)
    parts: dict[tuple[str, int], LivePart] = {}
    groups: dict[int, LivePart] = {}
    channels: dict[str, LivePart] = {}
    holdout = None
    if champion is not None and actuals is not None and kinds & _LIVE:
        since = actuals.end - max(_LOOK_BACK, 4 * config.step * config.horizon)
        scores = ledger.scores.by_origin(dataset.name, champion.model_version, since)
        complete = [one for one in scores if one.origin + one.last * config.step <= actuals.end]
        parts = _parts(complete, lambda one: (one.channel, one.last), config.step)
        groups = _parts(complete, lambda one: one.last, config.step)
        longest = {one.forecast_id for one in complete if one.last == max((each.last for each in complete), default=0)}
        channels = _parts([one for one in complete if one.forecast_id in longest], lambda one: one.channel, config.step)
        fitted = ledger.references.get(dataset.name, champion.model_version)
        holdout = None if fitted is None else fitted.holdout
    return evaluate(
        config.alerts,
        ObservedState(
            now=dataset.clock.now(),
            stale_after=config.stale_after,
            promised_coverage=round(config.quantiles[-1] - config.quantiles[0], 10),
            parts=parts,
            groups=groups,
            channels=channels,
            holdout=holdout,
            shifts=_shifts(dataset, champion, actuals) if AlertKind.DRIFT in kinds else {},
            issued_at=None if issuance is None else issuance.issued_at,
            observed_until=_observed_until(actuals),
            failed_jobs=ledger.runs.failed_jobs(dataset.name),
        ),
    )


def _parts(scores: Sequence[OriginScore], key: Callable[[OriginScore], Key], step: timedelta) -> dict[Key, LivePart]:
    grouped: dict[Key, list[OriginScore]] = {}
    for one in scores:
        grouped.setdefault(key(one), []).append(one)
    return {name: _part(ones, step) for name, ones in grouped.items()}


def _part(scores: Sequence[OriginScore], step: timedelta) -> LivePart:
    """Sum the scores of one part per forecast; the scores are sorted by origin."""
    place = {forecast_id: number for number, forecast_id in enumerate(dict.fromkeys(one.forecast_id for one in scores))}
    of = np.asarray([place[one.forecast_id] for one in scores])

    # bincount adds up all scores of a forecast at the forecast's position in order of origins.
    def summed(values: Iterable[float]) -> Array:
        return np.asarray(np.bincount(of, np.asarray(list(values), dtype=float), len(place)), dtype=float)

    origins = sorted({one.origin for one in scores})
    first, last = min(one.first for one in scores), max(one.last for one in scores)
    return LivePart(
        first=first,
        last=last,
        overlap=_overlap(origins, last * step),
        count=summed(one.count for one in scores),
        pinball=summed(one.pinball for one in scores),
        inside=summed(one.inside for one in scores),
        compared=summed(one.compared for one in scores),
        naive=summed(one.naive for one in scores),
    )


def _overlap(origins: Sequence[datetime], reach: timedelta) -> int:
    """Return the number of consecutive origins within a forecast's reach, by their mean distance."""
    if len(origins) < 2:
        return 1
    apart = (origins[-1] - origins[0]) / (len(origins) - 1)
    return max(-(-reach // apart), 1)


def _shifts(dataset: Dataset, champion: Champion | None, actuals: Actuals | None) -> dict[str, tuple[float, float]]:
    """Return by channel the shift of the newest inputs' distribution against the training data, and its usual size."""
    config = dataset.config
    fitted = None if champion is None else dataset.ledger.references.get(dataset.name, champion.model_version)
    if fitted is None or actuals is None:
        return {}
    try:
        rows = dataset.observations.read(since=actuals.end - config.step * (window(config) + 1))
        panel = clean(rows, config)
    except ForecastError as error:
        _LOG.warning("the drift of %s cannot be computed: %s", dataset.name, error)
        return {}
    scaled = inputs(panel, config, fitted.moments)
    shifts = {
        channel: (fitted.spreads[channel].shift(values[:, -window(config) :]), fitted.spreads[channel].usual)
        for channel, values in scaled.items()
        if channel in fitted.spreads
    }
    return {channel: (shift, usual) for channel, (shift, usual) in shifts.items() if shift is not None}


def _observed_until(actuals: Actuals | None) -> datetime | None:
    if actuals is None:
        return None
    seen = np.flatnonzero(np.isfinite(actuals.values).any(axis=(1, 2)))
    return actuals.start + actuals.step * (int(seen[-1]) + 1) if seen.size else None
