"""MLflow pyfunc model: takes rows of history, returns rows of forecast, with the code of the service.

MLflow calls ``_load_pyfunc`` with the model's data. Neither torch nor darts nor a pickle is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError, nearest
from forecast.panel import Panel
from forecast.runtime.model import Prediction, ServedModel, load
from forecast.vocabulary import Horizon
from pipelines.forecasting.recursion import extend
from pipelines.forecasting.rows import to_rows
from pipelines.preparation.clean import clean

CONFIG = "job.json"
"""File of the data set's config; stored models have this name."""


class PyfuncModel:
    """Forecasts rows of history; the object that MLflow calls."""

    def __init__(self, model: ServedModel, config: DatasetConfig) -> None:
        self._model = model
        self._config = config

    def predict(self, frame: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Forecast every series of a pandas frame of rows: ``series``, ``time``, and the channels in their units.

        Times are ISO 8601, wall times of the data set's zone if they have no offset. Known-future covariates have rows
        up to the horizon, whose other channels are empty. ``params`` may hold ``horizon``; steps beyond the trained one
        are recursive. Returns a pandas frame of ``series``, ``channel``, ``lead``, ``time`` (UTC), ``mean`` and one
        column per quantile. Raises ``forecast.*`` and ``history.*`` errors.
        """
        config = self._config
        horizon = int((params or {}).get("horizon") or self._model.manifest.horizon)
        given = pl.DataFrame({str(name): list(frame[name]) for name in frame.columns})
        panel = clean(rows_of(given, self._model, config), config)
        prediction = extend(self._model, panel, config, Horizon(horizon).steps)
        return to_frame(prediction, panel, self._model, config).to_pandas()


def rows_of(given: pl.DataFrame, model: ServedModel, config: DatasetConfig) -> pl.DataFrame:
    """Return rows in the lake's schema; see :meth:`PyfuncModel.predict` for the input format."""
    lacking = [name for name in ("time", *config.targets, *config.past_covariates) if name not in given.columns]
    if lacking:
        raise DataError(
            "forecast.no_column", f'the rows have no column "{lacking[0]}"', nearest(lacking[0], given.columns)
        )
    if "series" not in given.columns:
        names = list(model.manifest.scaler.targets)
        if len(names) > 1:
            raise DataError("forecast.no_column", 'the rows have no column "series"', nearest("", names))
        given = given.with_columns(series=pl.lit(names[0]))
    channels = [pl.col(name).cast(pl.Float64).fill_nan(None) for name in config.channels if name in given.columns]
    absent = [pl.lit(None, pl.Float64).alias(name) for name in config.channels if name not in given.columns]
    return given.select(pl.col("series").cast(pl.String), _instants(given["time"], config), *channels, *absent)


def to_frame(prediction: Prediction, panel: Panel, model: ServedModel, config: DatasetConfig) -> pl.DataFrame:
    """Return a forecast as rows: ``series``, ``channel``, ``lead``, ``time``, ``mean`` and one column per quantile."""
    rows = to_rows(prediction, panel, model)
    levels = [pl.col("quantiles").list.get(place).alias(name) for place, name in enumerate(quantile_columns(config))]
    time = pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return rows.select("series", "channel", "lead", time, "mean", *levels)


def _load_pyfunc(path: str) -> PyfuncModel:
    folder = Path(path)
    config = DatasetConfig.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
    return PyfuncModel(load(folder), config)


def quantile_columns(config: DatasetConfig) -> tuple[str, ...]:
    """Return the names of the columns of quantiles: ``quantile_0.1`` and so on."""
    return tuple(f"quantile_{level:g}" for level in config.quantiles)


def _instants(times: pl.Series, config: DatasetConfig) -> pl.Series:
    parsed = pl.Series([None] * len(times), dtype=pl.Datetime("us"))
    if isinstance(times.dtype, pl.Datetime):
        parsed = times.dt.cast_time_unit("us")
    elif times.dtype == pl.String:
        with suppress(pl.exceptions.PolarsError):  # raised if no row looks like a time
            parsed = times.str.to_datetime(time_unit="us", strict=False)
    if parsed.null_count():
        raise DataError(
            "forecast.malformed_time",
            f'"{times.filter(parsed.is_null())[0]}" is not a valid time',
            'write times as "2013-01-31T17:00:00Z"',
        )
    if parsed.dtype == pl.Datetime("us", None):
        parsed = parsed.dt.replace_time_zone(config.tz.key, ambiguous="earliest", non_existent="null")
    return parsed.dt.convert_time_zone("UTC").alias("time")
