"""Score served forecasts against observations, then update correction, alerts, webhook and MLflow."""

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
from pipelines.monitoring.alerts import evaluate_rules
from pipelines.monitoring.reference import ReferenceStore
from pipelines.monitoring.webhook import deliver

_LOG = logging.getLogger(__name__)
_FORMAT = 1
"""Version of the summed measures: increment it, and all days are scored again."""
_LOSSES = ("absolute", "squared", "pinball", "inside", "width", "compared", "naive")
_STORED = [MEASURES.index(name) for name in ("count", *_LOSSES)]

Day = tuple[str, str]
"""A UTC day of origins, and a model version."""


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """Result of one scoring."""

    forecasts: int
    """Number of forecasts with new or changed observations."""
    values: int
    """Number of their observed values, including earlier ones."""
    correction: int | None
    """Number of the champion's correction, if this scoring estimated one."""
    raised: tuple[str, ...]
    """Messages of the raised alerts."""
    resolved: tuple[str, ...]
    message: str


def score(dataset: Dataset) -> ScoreSummary:
    """Score new observations, correct the champion's quantiles, update alerts, and notify the webhook and MLflow.

    Only days of origins whose forecasts or observations have changed since the last scoring are read; their scores are
    replaced. So scoring is idempotent, and late or corrected rows count as if they had always been there, in whatever
    order they arrive.
    """
    with FileLock(dataset.home.locks / f"{dataset.name}.score.lock"):
        return _score(dataset)


def _score(dataset: Dataset) -> ScoreSummary:
    ledger = dataset.ledger
    issued = ledger.issuances.served(dataset.name)
    champion = dataset.champion
    forecasts = values = 0
    correction = actuals = None
    if issued and dataset.observations.exists:
        actuals = Actuals.read(dataset, min(one.origin for one in issued))
        references = ReferenceStore(dataset)
        rescored: set[str] = set()
        for group, count in _rescored(dataset, issued, actuals, references):
            rescored.add(group[0].model_version)
            forecasts, values = forecasts + len(group), values + count
        if champion is not None and champion.model_version in rescored:
            own = [one for one in issued if one.model_version == champion.model_version]
            correction = correct(dataset, own, actuals, references.of(own[0]))
            _publish(dataset, champion)
    raised, resolved = ledger.alerts.update(
        dataset.name, evaluate_rules(dataset, champion, actuals), SystemClock().now()
    )
    for alert in (*raised, *resolved):
        _LOG.warning("%s: %s: %s", dataset.name, alert.message, "raised" if alert.is_open else "resolved")
    sent, failure = deliver(dataset)
    parts = [f"scored {values:,} values of {forecasts} forecasts" if forecasts else "no new observations to score"]
    parts += [f"{len(alerts)} alerts {what}" for what, alerts in (("raised", raised), ("resolved", resolved)) if alerts]
    parts += [f"{sent} sent"] if sent else []
    parts += [f"the webhook failed ({failure})"] if failure else []
    return ScoreSummary(
        forecasts, values, correction, tuple(one.message for one in raised), tuple(one.message for one in resolved),
        "; ".join(parts),
    )  # fmt: skip


def _rescored(
    dataset: Dataset, issued: Sequence[Issued], actuals: Actuals, references: ReferenceStore
) -> Iterator[tuple[Sequence[Issued], int]]:
    """Score the changed days; yields their forecasts and the number of scored values."""
    config, ledger = dataset.config, dataset.ledger
    known = ledger.scores.scored_days(dataset.name)
    days: dict[Day, list[Issued]] = {}
    for one in issued:
        days.setdefault((one.day, one.model_version), []).append(one)
    digests = {day: _digest(day, group, actuals, config) for day, group in days.items()}
    changed = [group for day, group in days.items() if digests[day] != known.get(day)]
    ready = [group for group in changed if references.is_known(group[0])]
    computed: list[DayScores] = []
    for group, served in read_served(dataset, ready, actuals):
        day = (group[0].day, group[0].model_version)
        scores, count = _day_scores(dataset.name, day, digests[day], served, actuals, references.of(group[0]), config)
        computed.append(scores)
        if len(computed) >= 32:
            ledger.scores.replace(computed)
            computed = []
        yield group, count
    ledger.scores.replace(computed)


def _digest(day: Day, group: Sequence[Issued], actuals: Actuals, config: DatasetConfig) -> str:
    """Return a digest of all inputs of a day's scores."""
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
        values = part[_STORED][:, found[:, 0], found[:, 1]].T.tolist()
        for (f, c), (count, *losses) in zip(found.tolist(), values, strict=True):
            one = issued[f]
            yield OriginScore(
                one.forecast_id, one.origin, channels[c], begin + 1, end, round(count),
                **dict(zip(_LOSSES, losses, strict=True)),
            )  # fmt: skip


def _publish(dataset: Dataset, champion: Champion) -> None:
    """Log the accuracy of the champion's served forecasts to MLflow; if MLflow is down, log a warning and go on."""
    ledger, version = dataset.ledger, champion.model_version
    rows = ledger.scores.accuracy(dataset.name, "lead_group", model=version) + ledger.scores.accuracy(
        dataset.name, model=version
    )
    if not rows or not _is_tracked(dataset.installation):
        return
    from forecast.tracking.registry import Registry  # importing MLflow takes seconds

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
        _LOG.warning("the live accuracy of %s was not logged to MLflow: %s", version, error)


def _is_tracked(installation: Installation) -> bool:
    """Whether a tracking store exists; scoring never creates one."""
    uri = installation.home.tracking_uri
    own = installation.home.path / "mlflow.db"
    return own.is_file() or not uri.startswith("sqlite:") or Path(uri.removeprefix("sqlite:///")).is_file()
