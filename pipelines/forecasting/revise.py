"""Attribute the change between two forecasts to new data, a new model or new covariates, by intermediate forecasts."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import polars as pl

from forecast.config.dataset import DatasetConfig
from forecast.errors import ForecastError, StorageError
from forecast.installation import Dataset
from forecast.ledger.issuance import Issuance
from forecast.monitoring.revision import Revision, revision
from forecast.panel import Array, Panel
from forecast.runtime.model import Prediction, ServedModel, load
from pipelines.forecasting.recursion import extend
from pipelines.preparation.clean import clean

_LOG = logging.getLogger(__name__)


def revise(
    previous: Issuance, dataset: Dataset, panel: Panel, model: ServedModel, prediction: Prediction
) -> Revision | None:
    """Compare the forecast ``prediction`` of a panel by a model with the forecast that was issued before it.

    If neither the model nor the earlier known-future covariates have changed, new rows explain the whole difference and
    nothing is computed. Otherwise one run each gives the forecast of the new rows by the earlier model, and the
    forecast with the earlier covariates. Returns ``None`` if the two forecasts share no step, series or channel, or if
    the earlier one is no longer readable: that must not stop issuing.
    """
    try:
        return _revise(previous, dataset, panel, model, prediction)
    except ForecastError as error:
        _LOG.warning("the forecast of %s cannot be compared with the previous one: %s", previous.dataset, error)
        return None


def _revise(
    previous: Issuance, dataset: Dataset, panel: Panel, model: ServedModel, prediction: Prediction
) -> Revision | None:
    config = dataset.config
    shift, rest = divmod(panel.end - previous.origin, panel.step)
    steps = min(previous.horizon - shift, model.manifest.horizon)
    if rest or shift < 0 or steps <= 0:
        return None
    before, series = _medians(previous, dataset, panel, config)
    if not series:
        return None
    rows = [panel.series.index(name) for name in series]

    def overlap(forecast: Prediction, median: int) -> Array:
        return np.asarray(forecast.quantiles[rows, :steps, :, median])

    stages = {"before": before[:, shift : shift + steps]}
    now = overlap(prediction, model.median)
    with_earlier_covariates = _with_earlier_covariates(previous, dataset, panel, config)
    earlier = model
    is_explained = True
    if previous.model_version != model.manifest.model_version:
        try:
            earlier = _earlier(previous, dataset, model)
        except ForecastError as error:
            _LOG.warning("the effect of the new model is unknown: %s", error)
            is_explained = False
    if is_explained:
        if with_earlier_covariates is not None:
            stages["data"] = overlap(extend(earlier, with_earlier_covariates, config, steps), earlier.median)
        by_earlier = now if earlier is model else overlap(extend(earlier, panel, config, steps), earlier.median)
        stages["data" if with_earlier_covariates is None else "covariates"] = by_earlier
        if earlier is not model:
            stages["model"] = now
    else:
        stages["unexplained"] = now
    return revision(previous.forecast_id, stages, config.targets, model.manifest.scaler.deviations(series))


def _medians(
    previous: Issuance, dataset: Dataset, panel: Panel, config: DatasetConfig
) -> tuple[Array, tuple[str, ...]]:
    """Return the issued medians [S, H, C] of the panel's series, and the names of these series."""
    rows = dataset.forecasts.read(previous.forecast_id, previous.issued_at)
    place = previous.quantiles.index(0.5)
    issued = rows.select("series", "channel", median=pl.col("quantiles").list.get(place))
    lines = {
        key: part["median"].to_numpy()
        for key, part in issued.partition_by("series", "channel", as_dict=True, maintain_order=True).items()
    }
    series = tuple(name for name in panel.series if all((name, channel) in lines for channel in config.targets))
    medians = np.asarray([[lines[name, channel] for channel in config.targets] for name in series], dtype=float)
    return medians.reshape(len(series), len(config.targets), previous.horizon).transpose(0, 2, 1), series


def _with_earlier_covariates(previous: Issuance, dataset: Dataset, panel: Panel, config: DatasetConfig) -> Panel | None:
    """Return the panel with the known-future covariates of the earlier data version; ``None`` if they are the same."""
    if not config.future_covariates:
        return None
    table = dataset.observations
    since = panel.time(max(panel.steps - config.lookback, 0))
    earlier = clean(table.read(version=previous.data_version, since=since), config)
    future = panel.future.copy()
    offset = panel.index(earlier.start)
    for place, name in enumerate(earlier.series):
        if name in panel.series:
            length = min(earlier.future.shape[1], future.shape[1] - offset)
            seen = earlier.future_observed[place, :length]
            here = future[panel.series.index(name), offset : offset + length]
            here[seen] = earlier.future[place, :length][seen]
    if np.array_equal(future, panel.future, equal_nan=True):
        return None
    return replace(panel, future=future)


def _earlier(previous: Issuance, dataset: Dataset, model: ServedModel) -> ServedModel:
    earlier = load(dataset.home.models / previous.model_folder, dataset.ledger.issuances.model_digest(previous))
    columns = [(one.manifest.targets, one.manifest.past, one.manifest.future) for one in (earlier, model)]
    if columns[0] != columns[1]:
        raise StorageError(
            "forecast.champion_outdated", f"{previous.model_version} was trained for other channels", "nothing to do"
        )
    return earlier
