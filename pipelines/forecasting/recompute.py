"""Recompute an issued forecast from its original data and model, and compare the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from forecast.errors import ConflictError, NotFoundError, StorageError, nearest
from forecast.installation import Dataset, Installation
from forecast.ledger.issuance import Issuance
from forecast.panel import Array
from forecast.provenance import Provenance
from forecast.runtime.model import ServedModel, load
from pipelines.forecasting.inputs import fits, forecastable
from pipelines.forecasting.provenance import provenance_of
from pipelines.forecasting.rows import forecast_rows
from pipelines.preparation.clean import clean

TOLERANCE: Final = 1e-9
"""Largest difference by which a forecast still counts as the same, as a share of its channel's largest value.

A network computes in float32, whose last digit is 6e-8: a different sum inside it differs by far more than this.
Smaller differences come from the last digits of the float64 arithmetic around it."""
_KEY: Final = ("series", "channel", "lead", "time")
_NEAREST_OF: Final = 500


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Comparison of a recomputed forecast with the issued one."""

    forecast_id: str
    dataset: str
    data_version: int
    model_version: str
    exact: bool
    """Whether every number is the same, bit by bit."""
    largest_difference: float
    """Over mean and quantiles of all series, channels and steps, in the channel's unit."""
    largest_relative: float
    """The same as a share of the largest absolute value that was issued for the channel."""
    channels: Mapping[str, float]
    """Largest difference by channel, in its unit."""
    otherwise: Mapping[str, tuple[str, str]]
    """Changed fields of the provenance: by name, the value then and the value now."""

    @property
    def agrees(self) -> bool:
        """Whether the difference is within :data:`TOLERANCE`."""
        return self.largest_relative <= TOLERANCE


def recompute(forecast_id: str, installation: Installation) -> Recomputed:
    """Recompute an issued forecast and compare.

    Raises ``forecast.unknown``; ``replay.rows_gone``, ``replay.model_gone`` and ``replay.model_changed`` if its rows or
    its model no longer exist; ``replay.job_changed`` if the config file now describes another forecast.
    """
    issuance = _find_issuance(forecast_id, installation)
    dataset = installation.dataset(issuance.dataset)
    config, table = dataset.config, dataset.observations
    model = _load_model(issuance, dataset)
    if not fits(model.manifest, config):
        raise _config_changed(issuance, "other channels or another frequency")
    panel = forecastable(clean(_read_rows(issuance, dataset), config), model.manifest, config)
    correction = dataset.ledger.corrections.get(issuance.correction)
    again = forecast_rows(model, panel, config, correction)[1].sort(*_KEY[:3])
    issued = dataset.forecasts.read(forecast_id, issuance.issued_at)
    if issued.is_empty():
        raise StorageError(
            "forecast.damaged", f"the lake has no rows of forecast {forecast_id}", "restore the lake from a backup"
        )
    if not issued.select(_KEY).equals(again.select(_KEY)):
        raise _config_changed(issuance, "other series, channels or steps")
    otherwise: Mapping[str, tuple[str, str]] = {}
    if issuance.provenance is not None:
        then = issuance.provenance
        otherwise = _changes(then, provenance_of(then.model_digest, model, table, issuance.data_version, panel, config))
    return _compared(issuance, issued, again, otherwise)


def _find_issuance(forecast_id: str, installation: Installation) -> Issuance:
    found = installation.ledger.issuances.get(forecast_id)
    if found is None:
        names = installation.config.datasets
        known = frozenset[str]().union(*(installation.ledger.issuances.ids(name, _NEAREST_OF) for name in names))
        message = f'forecast "{forecast_id}" does not exist'
        raise NotFoundError("forecast.unknown", message, nearest(forecast_id, known))
    return found


def _load_model(issuance: Issuance, dataset: Dataset) -> ServedModel:
    version = issuance.model_version
    try:
        return load(dataset.home.models / issuance.model_folder, dataset.ledger.issuances.model_digest(issuance))
    except NotFoundError as error:
        raise NotFoundError(
            "replay.model_gone",
            f"the files of {version}, the model of forecast {issuance.forecast_id}, no longer exist",
            "restore its folder from a backup of the home",
        ) from error
    except StorageError as error:
        raise StorageError(
            "replay.model_changed",
            f"the files of {version} have changed since forecast {issuance.forecast_id}: {error.fact}",
            "restore its folder from a backup of the home",
        ) from error


def _read_rows(issuance: Issuance, dataset: Dataset) -> pl.DataFrame:
    try:
        return dataset.observations.read(version=issuance.data_version)
    except NotFoundError as error:
        raise NotFoundError(
            "replay.rows_gone",
            f"maintenance has removed data version {issuance.data_version}, which forecast {issuance.forecast_id} used",
            f'increase "retention" of {issuance.dataset} in the config file to keep later versions for longer',
        ) from error


def _config_changed(issuance: Issuance, what: str) -> ConflictError:
    return ConflictError(
        "replay.job_changed",
        f"the config file has {what} than forecast {issuance.forecast_id}",
        "recompute it with the config file of that time",
    )


def _changes(then: Provenance, now: Provenance) -> dict[str, tuple[str, str]]:
    names = ("data_digest", "code_version", "code_commit", "code_changed", "runtime", "provider", "threads", "machine")
    pairs = {name: (str(getattr(then, name)), str(getattr(now, name))) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _compared(
    issuance: Issuance, issued: pl.DataFrame, again: pl.DataFrame, otherwise: Mapping[str, tuple[str, str]]
) -> Recomputed:
    channels: dict[str, float] = {}
    relative = [0.0]
    exact = True
    for (channel,), before in issued.group_by("channel", maintain_order=True):
        old, new = _values(before), _values(again.filter(channel=channel))
        exact &= np.array_equal(old, new)
        channels[str(channel)] = difference = float(np.abs(old - new).max())
        if difference:
            relative.append(difference / max(float(np.abs(old).max()), np.finfo(float).tiny))
    return Recomputed(
        forecast_id=issuance.forecast_id,
        dataset=issuance.dataset,
        data_version=issuance.data_version,
        model_version=issuance.model_version,
        exact=exact,
        largest_difference=max(channels.values()),
        largest_relative=max(relative),
        channels=channels,
        otherwise=otherwise,
    )


def _values(rows: pl.DataFrame) -> Array:
    """Return mean and quantiles as [rows, 1 + Q]."""
    quantiles = np.asarray(rows["quantiles"].to_list(), dtype=np.float64)
    return np.concatenate([rows["mean"].to_numpy()[:, None], quantiles], axis=1)
