"""Rows from Python: polars and pandas frames, darts series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError, first_line
from forecast.vocabulary import Layout
from pipelines.sources.batch import Batch, digest_of


def from_frame(frame: Any, config: DatasetConfig, name: str) -> Batch:
    """Return the rows of a polars or pandas frame as a batch for the data set ``name``, by its configured columns.

    If a pandas frame has no column of times, its index is used. Raises ``source.malformed`` if polars cannot hold the
    values, and ``ingest.missing_column``.
    """
    rows = frame if isinstance(frame, pl.DataFrame) else _from_pandas(frame, config)
    return Batch.of(rows, name, config, "frame", digest_of(rows))


def from_darts(series: Any, config: DatasetConfig, name: str) -> Batch:
    """Return darts ``TimeSeries``, one or several, as a batch; their components are channels of the data set ``name``.

    The name of each series is its static covariate named by ``series`` in the config; a single series without it gets
    the name of the data set. Raises ``source.malformed`` for a series without times or name, or with samples, and
    ``ingest.missing_column``.
    """
    several = list(series) if isinstance(series, Sequence) else [series]
    if not several:
        raise DataError("source.empty", "the sequence of series is empty", "pass at least one TimeSeries")
    called = [_name_of(one, config) for one in several]
    if len(several) == 1:
        called = [called[0] or name]
    if None in called:
        raise DataError(
            "source.malformed",
            f'series {called.index(None) + 1} of {len(several)} has no static covariate "{config.series or "series"}"',
            "set it for each series, as TimeSeries.from_group_dataframe does",
        )
    column = config.series or "series"
    rows = pl.concat(
        [_rows_of(one, config, column, str(text)) for one, text in zip(several, called, strict=True)],
        how="diagonal_relaxed",
    )
    source = config.source.model_copy(update={"layout": Layout.WIDE})
    wide = config.model_copy(update={"source": source, "series": column})
    return Batch.of(rows, name, wide, "series", digest_of(rows))


def _from_pandas(frame: Any, config: DatasetConfig) -> pl.DataFrame:
    try:
        if config.time not in frame.columns:
            is_named = config.time in frame.index.names
            frame = frame.reset_index() if is_named else frame.reset_index(names=config.time)
        return pl.from_pandas(frame)
    except (AttributeError, TypeError, ValueError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise DataError(
            "source.malformed",
            f"the frame cannot be read ({first_line(error)})",
            "pass a polars or pandas frame whose columns have one type each",
        ) from error


def _name_of(series: Any, config: DatasetConfig) -> str | None:
    covariates = series.static_covariates
    has_name = covariates is not None and config.series in covariates.columns
    return str(covariates[config.series].iloc[0]) if has_name else None


def _rows_of(series: Any, config: DatasetConfig, column: str, called: str) -> pl.DataFrame:
    if not series.has_datetime_index:
        raise DataError(
            "source.malformed", f'series "{called}" has a numeric index, not times', "give it a DatetimeIndex"
        )
    if not series.is_deterministic:
        raise DataError("source.malformed", f'series "{called}" has samples', "pass observations, such as its median")
    values = series.values(copy=False)  # [T, C]
    components = {component: values[:, at] for at, component in enumerate(series.components)}
    times = pl.Series(series.time_index.to_numpy())
    return pl.DataFrame({config.time: times, **components}).with_columns(pl.lit(called).alias(column))
