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
    """Take the rows of a polars or pandas frame for the data set ``name``, with the columns that its job names.

    The index of a pandas frame that has no column of times is taken for it. Raises ``source.malformed`` for what
    polars cannot hold, and ``ingest.missing_column``.
    """
    rows = frame if isinstance(frame, pl.DataFrame) else _from_pandas(frame, config)
    return Batch.of(rows, name, config, "frame", digest_of(rows))


def from_darts(series: Any, config: DatasetConfig, name: str) -> Batch:
    """Take one darts ``TimeSeries``, or a sequence of them, whose components are channels of the data set ``name``.

    Each is called as its static covariate ``job.series`` says; a lone one without it as the data set. Raises
    ``source.malformed`` for a series without times, without a name or with samples, and ``ingest.missing_column``.
    """
    several = list(series) if isinstance(series, Sequence) else [series]
    if not several:
        raise DataError("source.empty", "there is no series among those given", "give at least one TimeSeries")
    called = [_name_of(one, config) for one in several]
    if len(several) == 1:
        called = [called[0] or name]
    if None in called:
        raise DataError(
            "source.malformed",
            f'series {called.index(None) + 1} of {len(several)} has no static covariate "{config.series or "series"}"',
            "name each by it, as TimeSeries.from_group_dataframe does",
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
            "give a polars or pandas frame whose columns hold one type each",
        ) from error


def _name_of(series: Any, config: DatasetConfig) -> str | None:
    covariates = series.static_covariates
    has_name = covariates is not None and config.series in covariates.columns
    return str(covariates[config.series].iloc[0]) if has_name else None


def _rows_of(series: Any, config: DatasetConfig, column: str, called: str) -> pl.DataFrame:
    if not series.has_datetime_index:
        raise DataError("source.malformed", f'series "{called}" is numbered, not dated', "give it a DatetimeIndex")
    if not series.is_deterministic:
        raise DataError("source.malformed", f'series "{called}" has samples', "give observations, such as its median")
    values = series.values(copy=False)  # [T, C]
    components = {component: values[:, at] for at, component in enumerate(series.components)}
    times = pl.Series(series.time_index.to_numpy())
    return pl.DataFrame({config.time: times, **components}).with_columns(pl.lit(called).alias(column))
