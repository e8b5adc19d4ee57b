"""Say how a forecast differs from the one before, and what made it so, by forecasts that were never issued."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from forecast.config.dataset import DatasetConfig
from forecast.errors import ForecastError, StorageError
from forecast.installation import Dataset
from forecast.ledger.issuances import Issuance
from forecast.monitoring.revision import Revision, revision
from forecast.panel import Array, Panel
from forecast.runtime.model import Prediction, ServedModel, load
from pipelines.preparation.clean import clean

_LOG = logging.getLogger(__name__)

Extend = Callable[[ServedModel, Panel, DatasetConfig, int], Prediction]
"""How a model forecasts so many steps from the end of a panel: :func:`pipelines.forecasting.issue.extend`."""


def revise(
    previous: Issuance,
    dataset: Dataset,
    panel: Panel,
    model: ServedModel,
    prediction: Prediction,
    extend: Extend,
) -> Revision | None:
    """Compare a forecast, made from a panel with a model, with the one that was issued before.

    With the same model, and known-future covariates as they were, new rows explain all of it and nothing is computed.
    Otherwise one more pass each tells what the earlier model says of the new rows, and what is said with the covariates
    as they were told before. ``None`` where the two have no step, series or channel in common, or the earlier one
    cannot be read any more: that is no reason not to issue.
    """
    try:
        return _revise(previous, dataset, panel, model, prediction, extend)
    except ForecastError as error:
        _LOG.warning("how the forecast of %s differs from the one before is not known: %s", previous.dataset, error)
        return None


def _revise(
    previous: Issuance,
    dataset: Dataset,
    panel: Panel,
    model: ServedModel,
    prediction: Prediction,
    extend: Extend,
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

    def overlap(made: Prediction, median: int) -> Array:
        return np.asarray(made.quantiles[rows, :steps, :, median])

    stages = {"before": before[:, shift : shift + steps]}
    now = overlap(prediction, model.median)
    told_before = _as_told_before(previous, dataset, panel, config)
    earlier = model
    is_explained = True
    if previous.model_version != model.manifest.model_version:
        try:
            earlier = _earlier(previous, dataset, model)
        except ForecastError as error:
            _LOG.warning("what a new model changed is not known: %s", error)
            is_explained = False
    if is_explained:
        if told_before is not None:
            stages["data"] = overlap(extend(earlier, told_before, config, steps), earlier.median)
        by_earlier = now if earlier is model else overlap(extend(earlier, panel, config, steps), earlier.median)
        stages["data" if told_before is None else "covariates"] = by_earlier
        if earlier is not model:
            stages["model"] = now
    else:
        stages["unexplained"] = now
    return revision(previous.forecast_id, stages, config.targets, model.manifest.scaler.deviations(series))


def _medians(
    previous: Issuance, dataset: Dataset, panel: Panel, config: DatasetConfig
) -> tuple[Array, tuple[str, ...]]:
    """Return what was issued for the panel's series: medians [S, H, C], and which series these are."""
    rows = dataset.forecasts.read(previous.forecast_id, previous.issued_at)
    place = previous.quantiles.index(0.5)
    medians = rows.select("series", "channel", median=pl.col("quantiles").list.get(place))
    lines = {
        key: part["median"].to_numpy()
        for key, part in medians.partition_by("series", "channel", as_dict=True, maintain_order=True).items()
    }
    series = tuple(name for name in panel.series if all((name, channel) in lines for channel in config.targets))
    message = np.asarray([[lines[name, channel] for channel in config.targets] for name in series], dtype=float)
    return message.reshape(len(series), len(config.targets), previous.horizon).transpose(0, 2, 1), series


def _as_told_before(
    previous: Issuance, dataset: Dataset, panel: Panel, config: DatasetConfig
) -> Panel | None:
    """Return the panel with known-future covariates as they were told before; ``None`` if they were told alike."""
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
    earlier = load(
        dataset.home.models / previous.model_folder, dataset.ledger.issuances.model_digest(previous)
    )
    columns = [(one.manifest.targets, one.manifest.past, one.manifest.future) for one in (earlier, model)]
    if columns[0] != columns[1]:
        raise StorageError(
            "forecast.champion_outdated", f"{previous.model_version} was trained for other channels", "nothing is to do"
        )
    return earlier
