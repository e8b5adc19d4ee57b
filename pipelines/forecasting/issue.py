"""Make forecasts from the newest history with the champion, and issue them: all series at once, all or nothing."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from filelock import FileLock

from forecast.clock import SystemClock
from forecast.config.dataset import DatasetConfig
from forecast.errors import ConfigError, DataError, NotFoundError, StorageError, UnavailableError
from forecast.installation import Dataset
from forecast.lake.observations import Observations
from forecast.lake.schemas import FORECASTS
from forecast.ledger.champions import Champion
from forecast.ledger.issuances import Issuance
from forecast.monitoring.correction import Correction
from forecast.monitoring.revision import Revision
from forecast.panel import Array, Panel
from forecast.runtime.manifest import Manifest
from forecast.runtime.model import Prediction, ServedModel, load
from forecast.vocabulary import Fill
from pipelines.forecasting.correct import applicable, moved
from pipelines.forecasting.provenance import provenance_of
from pipelines.forecasting.revise import revise
from pipelines.preparation.clean import clean
from pipelines.preparation.features import Calendar, future_covariates, future_names, known_future
from pipelines.preparation.freshness import imputed_fraction, newest_rows, observed_until

_LOG = logging.getLogger(__name__)


def issue(dataset: Dataset, as_of: datetime | None = None) -> tuple[Issuance, bool]:
    """Issue a forecast of every series with the champion; returns it, and whether it is a new one.

    With the same rows and the same model the forecast would be the same, so the one already issued is returned.

    With ``as_of``, an instant of the past, it is made afterwards as it would have been issued then: from the rows that
    the lake had by the machine's clock, with the champion of that time, or if that one can no longer be used with the
    present one and ``hindsight``. Such a forecast is kept, but is never the latest. Raises ``lake.before_first``,
    ``lake.not_kept`` and ``backfill.not_past``.
    """
    with FileLock(issuing(dataset)):  # or two runs would issue the same forecast twice
        return _issue(dataset) if as_of is None else _back_fill(dataset, as_of.astimezone(UTC))


def issuing(dataset: Dataset) -> Path:
    """Return the lock file that is held while a forecast of a data set is issued."""
    return dataset.home.locks / f"{dataset.name}.issue.lock"


def _issue(dataset: Dataset) -> tuple[Issuance, bool]:
    champion = _champion(dataset)
    version = _history(dataset).version
    latest = dataset.ledger.issuances.latest(dataset.name)
    if latest and (latest.data_version, latest.model_version) == (version, champion.model_version):
        return latest, False
    model = _usable(champion, dataset)
    made = _made(dataset, champion, model, version)
    revision = revise(latest, dataset, made.panel, model, made.prediction, extend) if latest else None
    issuance = replace(made.issuance, issued_at=dataset.clock.now())
    return _kept(issuance, made.rows, dataset, revision), True


def _back_fill(dataset: Dataset, as_of: datetime) -> tuple[Issuance, bool]:
    if as_of > SystemClock().now():
        message = f"{as_of.isoformat()} is not in the past: rows may still come in until then"
        raise ConfigError("backfill.not_past", message, "give an earlier time")
    present = _champion(dataset)
    version = _history(dataset).version_at(as_of)
    champion, model = _champion_at(as_of, present, dataset)
    made = _made(dataset, champion, model, version, hindsight=champion.promoted_at > as_of)
    # The machine's clock says nothing of a replay's: there the end of the rows that were out tells the time.
    issued_at = as_of if dataset.config.replay is None else made.issuance.origin
    known = dataset.ledger.issuances.reissued(dataset.name, issued_at, version, champion.model_version)
    if known is not None:
        return known, False
    return _kept(replace(made.issuance, issued_at=issued_at, backfilled=True), made.rows, dataset), True


def _champion(dataset: Dataset) -> Champion:
    champion = dataset.ledger.champions.current(dataset.name)
    if champion is None:
        raise UnavailableError(
            "forecast.no_champion", f"{dataset.name} has no champion", f'run "forecast train {dataset.name}"'
        )
    return champion


def _champion_at(as_of: datetime, present: Champion, dataset: Dataset) -> tuple[Champion, ServedModel]:
    """Return the champion of a past instant, or the present one where that cannot be used any more."""
    history = dataset.ledger.champions.history(dataset.name, limit=None)
    then = next((each for each in history if each.promoted_at <= as_of), present)
    if then.model_version != present.model_version:
        try:
            return then, _usable(then, dataset)
        except (NotFoundError, StorageError, UnavailableError) as error:
            _LOG.warning("%s: the champion of %s cannot be used: %s", present.dataset, as_of.isoformat(), error)
            then = present
    return then, _usable(then, dataset)


def _history(dataset: Dataset) -> Observations:
    table = dataset.observations
    if not table.exists:
        raise UnavailableError("history.empty", f"{dataset.name} has no rows", f'run "forecast ingest {dataset.name}"')
    return table


def _usable(champion: Champion, dataset: Dataset) -> ServedModel:
    model = load(dataset.home.models / champion.folder, champion.digest)
    if not fits(model.manifest, dataset.config):
        raise UnavailableError(
            "forecast.champion_outdated",
            f"{champion.model_version} was trained for other channels or another frequency than the job file's",
            f'run "forecast train {dataset.name}"',
        )
    return model


@dataclass(frozen=True, slots=True)
class _Made:
    """A forecast of which nothing is written yet."""

    issuance: Issuance
    rows: pl.DataFrame
    prediction: Prediction
    panel: Panel
    model: ServedModel


def _made(
    dataset: Dataset,
    champion: Champion,
    model: ServedModel,
    version: int,
    *,
    hindsight: bool | None = None,
) -> _Made:
    """Make a forecast from one version of the data; with ``hindsight`` told, one of the past, that nothing corrects."""
    config, table = dataset.config, dataset.observations
    panel = forecastable(clean(table.read(version=version), config), model.manifest, config)
    found = applicable(dataset, model.manifest, panel.end) if hindsight is None else None
    number, correction = found or (None, None)
    prediction, rows = forecast_rows(model, panel, config, correction)
    now = SystemClock().now()
    made = Issuance(
        forecast_id=uuid.uuid4().hex,
        dataset=dataset.name,
        issued_at=now,
        origin=panel.end,
        horizon=model.manifest.horizon,
        quantiles=model.manifest.quantiles,
        data_version=version,
        model_name=champion.model_name,
        model_version=champion.model_version,
        model_folder=champion.folder,
        imputed_fraction=imputed_fraction(panel, config),
        newest_observed=observed_until(panel),
        recorded_at=now,
        provenance=provenance_of(champion.digest, model, table, version, panel, config, hindsight=bool(hindsight)),
        correction=number,
    )
    return _Made(made, rows, prediction, panel, model)


def _kept(
    issuance: Issuance, rows: pl.DataFrame, dataset: Dataset, revision: Revision | None = None
) -> Issuance:
    """Keep a forecast: its rows, then the issuance that names them, without which nobody reads them."""
    month = issuance.issued_at.astimezone(UTC).strftime("%Y-%m")
    rows = rows.with_columns(forecast_id=pl.lit(issuance.forecast_id), issued_month=pl.lit(month))
    dataset.forecasts.append(rows)
    dataset.ledger.issuances.add(issuance, revision)  # the forecast becomes visible here, whole
    return issuance


def forecast_rows(
    model: ServedModel, panel: Panel, config: DatasetConfig, correction: Correction | None = None
) -> tuple[Prediction, pl.DataFrame]:
    """Make a forecast and its rows: of one that is issued, and of one that is recomputed. Raises as :func:`extend`."""
    base = extend(model, panel, config, model.manifest.horizon)
    prediction = moved(base, correction, model.manifest, panel.series)
    rows = to_rows(prediction, panel, model).with_columns(
        naive=pl.Series(_in_rows(seasonal_naive(panel, config, model.manifest.horizon))),
        base=_told_before(correction, base),
    )
    return prediction, rows


def forecastable(panel: Panel, manifest: Manifest, config: DatasetConfig) -> Panel:
    """Leave out series that the model never saw or whose inputs have a gap: they must not stop the others.

    If none is left the panel is returned as it is, and forecasting it says what is wrong.
    """
    first, last = max(panel.steps - manifest.lookback, 0), panel.steps + manifest.horizon
    inputs = (*_look_back(panel, manifest.lookback), future_covariates(panel, config, first, last))
    whole = np.logical_and.reduce([np.isfinite(values).all(axis=(1, 2)) for values in inputs])
    ready = [
        name for name, is_whole in zip(panel.series, whole, strict=True) if is_whole and name in manifest.scaler.targets
    ]
    for name in set(panel.series) - set(ready):
        _LOG.warning("%s has no forecast: it is new to the model, or its newest or future rows have a gap", name)
    return panel.only(ready) if ready else panel


def fits(manifest: Manifest, config: DatasetConfig) -> bool:
    """Whether a model forecasts what the job file asks for, from the columns that it names, in this order."""
    theirs = (manifest.targets, manifest.past, manifest.future, manifest.step_seconds)
    return theirs == (config.targets, config.past_covariates, future_names(config), config.step.total_seconds())


@dataclass(frozen=True, slots=True)
class Round:
    """What one run of a network takes, as :meth:`ServedModel.predict` wants it."""

    targets: Array
    """[B, L, C]"""
    past: Array
    """[B, L, P]"""
    future: Array
    """[B, L + H, F]"""
    series: tuple[str, ...]
    scale: Array
    """[B, H, C]"""

    def run(self, model: ServedModel) -> Prediction:
        """Forecast it."""
        return model.predict(self.targets, self.past, self.future, self.series, self.scale)


def extend(model: ServedModel, panel: Panel, config: DatasetConfig, horizon: int) -> Prediction:
    """Forecast ``horizon`` steps of every series from the end of a panel: [S, horizon, C].

    Beyond the trained horizon the median is fed back as if it had been observed, and covariates known only up to the
    origin repeat their last season; such steps say less of the future than their bands tell. Known-future covariates
    are those of each step. Raises ``forecast.short_history``, ``forecast.history_gap`` and ``forecast.future_missing``.
    """
    steps = rounds(model, panel, config, horizon)
    asked = next(steps)
    while True:
        try:
            asked = steps.send(asked.run(model))
        except StopIteration as done:
            whole: Prediction = done.value
            return whole


def rounds(
    model: ServedModel, panel: Panel, config: DatasetConfig, horizon: int, calendar: Calendar = known_future
) -> Generator[Round, Prediction, Prediction]:
    """Tell the runs that a forecast takes one after the other, be told what came of each, and return the whole.

    So whoever drives it decides where a network runs, and with whose windows together; see :func:`extend` for errors.
    """
    lookback, trained = model.manifest.lookback, model.manifest.horizon
    if panel.steps < lookback:
        raise DataError(
            "forecast.short_history",
            f"{panel.steps} rows of history are fewer than the look-back of {lookback}",
            "ingest more rows",
        )
    targets, past = _look_back(panel, lookback)
    for values, names in ((targets, config.targets), (past, config.past_covariates)):
        _require_whole(values, panel, names)
    scale = model.scales(targets, panel.series, horizon + trained)  # what is fed back moves less than what happens
    parts: list[Prediction] = []
    for begin in range(0, horizon, trained):
        first = panel.steps - lookback + begin
        future = future_covariates(panel, config, first, first + lookback + trained, calendar)
        _require_known(future, panel, config, first)
        parts.append((yield Round(targets, past, future, panel.series, scale[:, begin : begin + trained])))
        if begin + trained >= horizon:
            break
        median = parts[-1].quantiles[..., model.median]
        targets = np.concatenate([targets, median], axis=1)[:, -lookback:]
        seasons = -(-trained // config.season)
        repeated = np.tile(past[:, -config.season :], (1, seasons, 1))[:, :trained]
        past = np.concatenate([past, repeated], axis=1)[:, -lookback:]
    return Prediction(
        np.concatenate([part.mean for part in parts], axis=1)[:, :horizon],
        np.concatenate([part.quantiles for part in parts], axis=1)[:, :horizon],
    )


def seasonal_naive(panel: Panel, config: DatasetConfig, horizon: int) -> Array:
    """Repeat the last season of a panel's targets: [S, horizon, C]; NaN where it has a gap or is too short."""
    season = panel.targets[:, -config.season :]
    if season.shape[1] < config.season:
        return np.full((len(panel.series), horizon, len(config.targets)), np.nan)
    return np.asarray(season[:, np.arange(horizon) % config.season])


def _told_before(correction: Correction | None, base: Prediction) -> pl.Series | pl.Expr:
    if correction is None:
        return pl.lit(None, pl.List(pl.Float64))
    return pl.Series(_in_rows(base.quantiles).tolist(), dtype=pl.List(pl.Float64))


def _in_rows(values: Array) -> Array:
    """Return [S, H, C, ...] in the order of :func:`to_rows`: [S * C * H, ...]."""
    return np.moveaxis(values, 2, 1).reshape(-1, *values.shape[3:])


def to_rows(prediction: Prediction, panel: Panel, model: ServedModel) -> pl.DataFrame:
    """Return a forecast as rows of series, channel, lead, time, mean, quantiles."""
    horizon, channels = prediction.mean.shape[1:]
    times = [panel.time(panel.steps + lead) for lead in range(horizon)]
    frames = [
        pl.DataFrame({
            "lead": np.arange(1, horizon + 1, dtype=np.int32),
            "time": pl.Series(times, dtype=FORECASTS["time"]),
            "mean": prediction.mean[s, :, c],
            "quantiles": pl.Series(prediction.quantiles[s, :, c].tolist(), dtype=pl.List(pl.Float64)),
        }).with_columns(series=pl.lit(name), channel=pl.lit(model.manifest.targets[c]))
        for s, name in enumerate(panel.series)
        for c in range(channels)
    ]  # fmt: skip
    return pl.concat(frames)


def _look_back(panel: Panel, lookback: int) -> tuple[Array, Array]:
    """Return targets and past covariates that a forecast from the end of a panel is made from."""
    first = max(panel.steps - lookback, 0)
    return panel.targets[:, first:], _carried_forward(panel.past[:, first:])


def _carried_forward(values: Array) -> Array:
    if not np.isnan(values).any():
        return values
    # The newest covariates often come later than the newest targets; the last known value stands in for them.
    rows = np.where(np.isnan(values), 0, np.arange(values.shape[1])[:, None])
    return np.asarray(np.take_along_axis(values, np.maximum.accumulate(rows, axis=1), axis=1))


def _require_whole(values: Array, panel: Panel, names: Sequence[str]) -> None:
    for series, channel, count, first in _gaps(values, panel.series, names):
        at = panel.time(panel.steps - values.shape[1] + first)
        raise DataError(
            "forecast.history_gap",
            f"{series} has {count} missing values of {channel} in its look-back, the first at {at}",
            "ingest or send the missing rows, or raise fill_limit of the channel in the job file",
        )


def _require_known(future: Array, panel: Panel, config: DatasetConfig, first: int) -> None:
    message, newest = future.copy(), newest_rows(panel.future_observed)
    for place, name in enumerate(config.future_covariates, start=-len(config.future_covariates)):
        if config.channels[name].fill is Fill.LINEAR:
            # There is nothing behind the newest value to draw a line to: that it goes on must be said in so many words.
            message[..., place][first + np.arange(message.shape[1]) > newest[:, place, None]] = np.nan
    for series, channel, count, row in _gaps(message, panel.series, future_names(config)):
        raise DataError(
            "forecast.future_missing",
            f"{series} has no {channel} from {panel.time(first + row)}: {count} of the values that a forecast of "
            f"{panel.time(first + future.shape[1] - 1)} needs are missing",
            "ingest the covariate up to the horizon, or say how it goes on by its fill (forward, seasonal, zero) and "
            "fill_limit in the job file",
        )


def _gaps(values: Array, series: Sequence[str], channels: Sequence[str]) -> Iterator[tuple[str, str, int, int]]:
    """Yield series, channel, number of missing values and row of the first, for [S, T, K] values with any missing."""
    missing = np.isnan(values)
    if not missing.any():
        return
    for number, place in np.argwhere(missing.any(axis=1)).tolist():
        rows = np.flatnonzero(missing[number, :, place])
        yield series[number], channels[place], len(rows), int(rows[0])
