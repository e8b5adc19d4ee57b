"""Issue forecasts with the champion, from the newest history: all series of a data set at once, all or nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from filelock import FileLock

from forecast.clock import SystemClock
from forecast.errors import ConfigError, NotFoundError, StorageError, UnavailableError
from forecast.installation import Dataset
from forecast.lake.observations import Observations
from forecast.ledger.champions import Champion
from forecast.ledger.issuance import Issuance
from forecast.monitoring.revision import Revision
from forecast.panel import Panel
from forecast.runtime.model import Prediction, ServedModel, load
from pipelines.forecasting.correct import applicable
from pipelines.forecasting.inputs import fits, forecastable
from pipelines.forecasting.issuance import new_issuance
from pipelines.forecasting.provenance import provenance_of
from pipelines.forecasting.revise import revise
from pipelines.forecasting.rows import forecast_rows
from pipelines.preparation.clean import clean

_LOG = logging.getLogger(__name__)


def issue(dataset: Dataset, as_of: datetime | None = None) -> tuple[Issuance, bool]:
    """Issue a forecast of every series with the champion; returns it, and whether it is a new one.

    Idempotent: while rows and model are the same, the forecast that is already issued is returned.

    With ``as_of``, an instant of the past, the forecast is backfilled as it would have been issued then: from the rows
    that the lake had by the machine's clock, with the champion of that time. If that champion is no longer usable, the
    present one is used and the provenance records ``hindsight``. A backfilled forecast is stored, but is never the
    latest. Raises ``lake.before_first``, ``lake.not_kept`` and ``backfill.not_past``.
    """
    with FileLock(issue_lock(dataset)):  # otherwise two runs would issue the same forecast twice
        return _issue_latest(dataset) if as_of is None else _backfill(dataset, as_of.astimezone(UTC))


def issue_lock(dataset: Dataset) -> Path:
    """Return the lock file that is held while a forecast of a data set is issued."""
    return dataset.home.locks / f"{dataset.name}.issue.lock"


def _issue_latest(dataset: Dataset) -> tuple[Issuance, bool]:
    champion = _require_champion(dataset)
    version = _require_history(dataset).version
    latest = dataset.ledger.issuances.latest(dataset.name)
    if latest and (latest.data_version, latest.model_version) == (version, champion.model_version):
        return latest, False
    model = _load(champion, dataset)
    computed = _compute(dataset, champion, model, version)
    revision = revise(latest, dataset, computed.panel, model, computed.prediction) if latest else None
    issuance = replace(computed.issuance, issued_at=dataset.clock.now())
    return _store(issuance, computed.rows, dataset, revision), True


def _backfill(dataset: Dataset, as_of: datetime) -> tuple[Issuance, bool]:
    if as_of > SystemClock().now():
        message = f"{as_of.isoformat()} is not in the past: rows may still arrive until then"
        raise ConfigError("backfill.not_past", message, "give an earlier time")
    present = _require_champion(dataset)
    version = _require_history(dataset).version_at(as_of)
    champion, model = _champion_at(as_of, present, dataset)
    computed = _compute(dataset, champion, model, version, hindsight=champion.promoted_at > as_of)
    # The machine's clock does not apply to a replay: there the end of the released rows is the time of issue.
    issued_at = as_of if dataset.config.replay is None else computed.issuance.origin
    known = dataset.ledger.issuances.reissued(dataset.name, issued_at, version, champion.model_version)
    if known is not None:
        return known, False
    return _store(replace(computed.issuance, issued_at=issued_at, backfilled=True), computed.rows, dataset), True


def _require_champion(dataset: Dataset) -> Champion:
    champion = dataset.champion
    if champion is None:
        raise UnavailableError(
            "forecast.no_champion", f"{dataset.name} has no champion", f'run "forecast train {dataset.name}"'
        )
    return champion


def _champion_at(as_of: datetime, present: Champion, dataset: Dataset) -> tuple[Champion, ServedModel]:
    """Return the champion of a past instant, or the present one if the former is no longer usable."""
    history = dataset.ledger.champions.history(dataset.name, limit=None)
    then = next((each for each in history if each.promoted_at <= as_of), present)
    if then.model_version != present.model_version:
        try:
            return then, _load(then, dataset)
        except (NotFoundError, StorageError, UnavailableError) as error:
            _LOG.warning("%s: the champion of %s is not usable: %s", present.dataset, as_of.isoformat(), error)
            then = present
    return then, _load(then, dataset)


def _require_history(dataset: Dataset) -> Observations:
    table = dataset.observations
    if not table.exists:
        raise UnavailableError("history.empty", f"{dataset.name} has no rows", f'run "forecast ingest {dataset.name}"')
    return table


def _load(champion: Champion, dataset: Dataset) -> ServedModel:
    """Load a champion's model; raises ``forecast.champion_outdated`` if it does not fit the config."""
    model = load(dataset.home.models / champion.folder, champion.digest)
    if not fits(model.manifest, dataset.config):
        raise UnavailableError(
            "forecast.champion_outdated",
            f"{champion.model_version} was trained for other channels or another frequency than the config file has",
            f'run "forecast train {dataset.name}"',
        )
    return model


@dataclass(frozen=True, slots=True)
class _Computed:
    """A forecast that is not stored yet."""

    issuance: Issuance
    rows: pl.DataFrame
    prediction: Prediction
    panel: Panel


def _compute(
    dataset: Dataset, champion: Champion, model: ServedModel, version: int, *, hindsight: bool | None = None
) -> _Computed:
    """Compute a forecast from one version of the data.

    ``hindsight`` is ``None`` for a live forecast. A backfilled one gives it, and gets no correction: the present
    correction was estimated from observations that are later than its origin.
    """
    config, table = dataset.config, dataset.observations
    panel = forecastable(clean(table.read(version=version), config), model.manifest, config)
    found = applicable(dataset, model.manifest, panel.end) if hindsight is None else None
    number, correction = found or (None, None)
    prediction, rows = forecast_rows(model, panel, config, correction)
    issuance = new_issuance(
        dataset,
        champion,
        model.manifest,
        panel,
        SystemClock().now(),
        data_version=version,
        provenance=provenance_of(champion.digest, model, table, version, panel, config, hindsight=bool(hindsight)),
        correction=number,
    )
    return _Computed(issuance, rows, prediction, panel)


def _store(issuance: Issuance, rows: pl.DataFrame, dataset: Dataset, revision: Revision | None = None) -> Issuance:
    """Persist a forecast: rows first, then the issuance record that makes them visible."""
    month = issuance.issued_at.astimezone(UTC).strftime("%Y-%m")
    rows = rows.with_columns(forecast_id=pl.lit(issuance.forecast_id), issued_month=pl.lit(month))
    dataset.forecasts.append(rows)
    dataset.ledger.issuances.add(issuance, revision)  # the forecast becomes visible here, whole
    return issuance
