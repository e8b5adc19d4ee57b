"""Score forecasts that were served against what was really observed since, and act on what that says."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from forecast.clock import SystemClock
from forecast.config.dataset import DatasetConfig
from forecast.errors import StorageError
from forecast.evaluation.scores import lead_groups
from forecast.installation import Dataset, Installation
from forecast.ledger.champions import Champion
from forecast.ledger.issuances import Issued
from forecast.ledger.scores import DayScores, OriginScore
from forecast.monitoring.live_scores import MEASURES, Points
from forecast.monitoring.reference import Reference
from forecast.panel import Array
from pipelines.forecasting.correct import correct
from pipelines.forecasting.issued import Actuals, Served, read_served
from pipelines.monitoring.alerts import look
from pipelines.monitoring.reference import ReferenceStore
from pipelines.monitoring.webhook import deliver

_LOG = logging.getLogger(__name__)
_FORMAT = 1
"""Counted up with every change of what is summed, so that everything is scored again."""
_LOSSES = ("absolute", "squared", "pinball", "inside", "width", "compared", "naive")
_STORED = [MEASURES.index(name) for name in ("count", *_LOSSES)]

Day = tuple[str, str]
"""A UTC day of origins, and a model version."""


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What one scoring did."""

    forecasts: int
    """Of which something new came true, or otherwise than before."""
    values: int
    """Values of these that were observed, those that were known before too."""
    correction: int | None
    """The champion's correction now."""
    raised: tuple[str, ...]
    """Alerts that were raised, in words."""
    resolved: tuple[str, ...]
    message: str


def score(dataset: Dataset) -> ScoreSummary:
    """Score what is new, correct the champion's quantiles, raise and resolve alerts, tell webhook and MLflow.

    Only days of origins are read whose forecasts, or whose observations, are not those that were scored before; their
    scores are replaced. So a replay changes nothing, late and corrected rows count as if they had always been so, and
    the order in which they come does not matter.
    """
    with FileLock(dataset.home.locks / f"{dataset.name}.score.lock"):
        return _score(dataset)


def _score(dataset: Dataset) -> ScoreSummary:
    ledger = dataset.ledger
    issued = ledger.issuances.served(dataset.name)
    champion = ledger.champions.current(dataset.name)
    forecasts = values = 0
    correction = actuals = None
    if issued and dataset.observations.exists:
        actuals = Actuals.read(dataset, min(one.origin for one in issued))
        fitted = ReferenceStore(dataset)
        rescored: set[str] = set()
        for group, count in _rescored(dataset, issued, actuals, fitted):
            rescored.add(group[0].model_version)
            forecasts, values = forecasts + len(group), values + count
        if champion is not None and champion.model_version in rescored:
            own = [one for one in issued if one.model_version == champion.model_version]
            correction = correct(dataset, own, actuals, fitted.of(own[0]))
            _publish(dataset, champion)
    raised, resolved = ledger.alerts.update(dataset.name, look(dataset, champion, actuals), SystemClock().now())
    for alert in (*raised, *resolved):
        _LOG.warning("%s: %s: %s", dataset.name, alert.message, "raised" if alert.is_open else "resolved")
    sent, failure = deliver(dataset)
    message = [f"scored {values:,} values of {forecasts} forecasts" if forecasts else "nothing new came true"]
    message += [
        f"{len(alerts)} alerts {what}" for what, alerts in (("raised", raised), ("resolved", resolved)) if alerts
    ]
    message += [f"{sent} sent"] if sent else []
    message += [f"the webhook failed ({failure})"] if failure else []
    return ScoreSummary(
        forecasts, values, correction, tuple(one.message for one in raised), tuple(one.message for one in resolved),
        "; ".join(message),
    )  # fmt: skip


def _rescored(
    dataset: Dataset, issued: Sequence[Issued], actuals: Actuals, fitted: ReferenceStore
) -> Iterator[tuple[Sequence[Issued], int]]:
    """Score the days that are not scored as they are now; yields their forecasts and how many values counted."""
    config, ledger = dataset.config, dataset.ledger
    known = ledger.scores.scored_days(dataset.name)
    days: dict[Day, list[Issued]] = {}
    for one in issued:
        days.setdefault((one.day, one.model_version), []).append(one)
    digests = {day: _digest(day, group, actuals, config) for day, group in days.items()}
    changed = [group for day, group in days.items() if digests[day] != known.get(day)]
    ready = [group for group in changed if fitted.is_known(group[0])]
    made: list[DayScores] = []
    for group, served in read_served(dataset, ready, actuals):
        day = (group[0].day, group[0].model_version)
        scores, count = _day_scores(dataset.name, day, digests[day], served, actuals, fitted.of(group[0]), config)
        made.append(scores)
        if len(made) >= 32:
            ledger.scores.replace(made)
            made = []
        yield group, count
    ledger.scores.replace(made)


def _digest(day: Day, group: Sequence[Issued], actuals: Actuals, config: DatasetConfig) -> str:
    """Return a digest of all that a day's scores follow from."""
    rows = [actuals.row(one.origin) for one in group]
    first, last = min(rows), max(row + one.horizon for row, one in zip(rows, group, strict=True))
    about = (
        _FORMAT, day, actuals.series, config.targets, config.frequency, lead_groups(config.horizons),
        [(one.forecast_id, one.origin.isoformat(), one.horizon, one.levels) for one in group],
    )  # fmt: skip
    digest = hashlib.sha256(repr(about).encode())
    digest.update(np.ascontiguousarray(actuals.between(first, last)).tobytes())
    return digest.hexdigest()


def _day_scores(
    name: str, day: Day, digest: str, served: Served, actuals: Actuals, fitted: Reference, config: DatasetConfig
) -> tuple[DayScores, int]:
    points = Points(
        actual=served.actual,
        mean=served.mean,
        quantiles=served.quantiles,
        naive=served.naive,
        levels=served.issued[0].levels,
        deviations=fitted.deviations_of(actuals.series, config.targets),
        naive_errors=fitted.naive_errors_of(actuals.series, config.targets),
    )
    sums = points.sums()  # [K, F, S, C, H]
    by_lead, by_series = sums.sum(axis=(1, 2)), sums.sum(axis=(1, 4))
    counts = by_series[0]
    ends = lead_groups(config.horizons)
    scores = DayScores(
        dataset=name,
        day=day[0],
        model_version=day[1],
        digest=digest,
        levels=points.levels,
        ends=ends,
        by_lead={one: by_lead[:, place] for place, one in enumerate(config.targets) if counts[:, place].any()},
        by_series={
            (series, channel): by_series[:, s, c]
            for s, series in enumerate(actuals.series)
            for c, channel in enumerate(config.targets)
            if counts[s, c]
        },
        by_origin=list(_by_origin(sums.sum(axis=2), served.issued, config.targets, ends)),
    )
    return scores, int(counts.sum())


def _by_origin(
    sums: Array, issued: Sequence[Issued], channels: Sequence[str], ends: Sequence[int]
) -> Iterator[OriginScore]:
    """Yield the scores of each forecast from [K, F, C, H]."""
    for begin, end in zip((0, *ends), ends, strict=False):
        if begin >= sums.shape[3]:
            return
        part = sums[..., begin:end].sum(axis=3)  # [K, F, C]
        found = np.argwhere(part[0] > 0)
        message = part[_STORED][:, found[:, 0], found[:, 1]].T.tolist()
        for (f, c), (count, *losses) in zip(found.tolist(), message, strict=True):
            one = issued[f]
            yield OriginScore(
                one.forecast_id, one.origin, channels[c], begin + 1, end, round(count),
                **dict(zip(_LOSSES, losses, strict=True)),
            )  # fmt: skip


def _publish(dataset: Dataset, champion: Champion) -> None:
    """Let MLflow's UI show how good the champion's served forecasts were; that it is down is told, and no failure."""
    ledger, version = dataset.ledger, champion.model_version
    rows = ledger.scores.accuracy(dataset.name, "lead_group", model=version) + ledger.scores.accuracy(
        dataset.name, model=version
    )
    if not rows or not _is_tracked(dataset.installation):
        return
    from forecast.tracking.registry import (
        Registry,  # MLflow takes seconds to import: only where there is something to tell
    )

    metrics = {
        f"live/{measure}/{row.part}": value
        for row in rows
        for measure in ("mae", "pinball", "coverage", "skill")
        if (value := getattr(row, measure)) is not None
    }
    tags = {"live/values": rows[-1].count, "live/scored_at": SystemClock().now().isoformat(timespec="seconds")}
    try:
        Registry(dataset.home).live(dataset.name, version, metrics, tags)
    except StorageError as error:
        _LOG.warning("MLflow does not show how good %s was: %s", version, error)


def _is_tracked(installation: Installation) -> bool:
    """Whether there is a store of MLflow: one that nothing was ever trained with is not made for this."""
    uri = installation.home.tracking_uri
    own = installation.home.path / "mlflow.db"
    return own.is_file() or not uri.startswith("sqlite:") or Path(uri.removeprefix("sqlite:///")).is_file()
