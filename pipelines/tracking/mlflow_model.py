"""Pack a model so that MLflow can serve it: its files, the job file's part of it, the code that runs it, an example."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

import forecast
import pipelines
from forecast.config.dataset import DatasetConfig
from forecast.panel import Panel
from forecast.runtime.manifest import GOLDEN, MANIFEST, NETWORK
from forecast.tracking.entities import Application, Column
from pipelines.tracking import mlflow_pyfunc

_NEEDED = {
    "frequency", "zone", "holidays", "channels", "horizons", "quantiles", "lookback", "season", "models",
}  # fmt: skip
"""Fields of the job file that a forecast depends on; where rows come from is no business of whoever has the model."""
_NOWHERE = {"kind": "csv", "path": "rows.csv"}
_REQUIREMENTS = (
    "mlflow", "apscheduler", "deltalake", "filelock", "fsspec", "holidays", "numpy", "onnxruntime", "pandas", "pint",
    "polars", "pyarrow", "pydantic", "sqlalchemy", "tzdata",
)  # fmt: skip


@contextmanager
def application(folder: Path, config: DatasetConfig, example: pl.DataFrame) -> Iterator[Application]:
    """Pack the model in ``folder`` while the body runs; ``example`` is rows as :func:`rows_before` returns them."""
    document = json.dumps(config.model_dump(mode="json", include=_NEEDED) | {"source": _NOWHERE})
    channels = [
        Column(name, "double") for name in (*config.targets, *config.past_covariates, *config.future_covariates)
    ]
    with TemporaryDirectory() as scratch:
        data = Path(scratch) / "model"
        data.mkdir()
        for name in (NETWORK, MANIFEST, GOLDEN):
            shutil.copyfile(folder / name, data / name)
        (data / mlflow_pyfunc.JOB).write_text(document, encoding="utf-8")
        yield Application(
            loader=mlflow_pyfunc.__name__,
            data=data,
            code=[Path(package.__path__[0]) for package in (forecast, pipelines)],
            requirements=pinned(*_REQUIREMENTS),
            inputs=[Column("series", "string", required=False), Column("time", "string"), *channels],
            outputs=[
                Column("series", "string"), Column("channel", "string"), Column("lead", "integer"),
                Column("time", "string"),
                *(Column(name, "double") for name in ("mean", *mlflow_pyfunc.quantile_columns(config))),
            ],
            parameters={"horizon": config.horizon},
            example=example.to_pandas(),
        )  # fmt: skip


def rows_before(panel: Panel, config: DatasetConfig, series: int, origin: int) -> pl.DataFrame:
    """Return the rows that a forecast of one series from an origin is made from, as the packed model takes them.

    One look-back of all channels; if there are known-future covariates, also one horizon of them.
    """
    first, last = origin - config.lookback, origin + (config.horizon if config.future_covariates else 0)
    seen = [
        pl.DataFrame(values[series, first:origin], schema=list(names))
        for values, names in ((panel.targets, config.targets), (panel.past, config.past_covariates))
        if names
    ]
    ahead = pl.DataFrame(panel.future[series, first:last], schema=list(config.future_covariates))
    times = [f"{panel.time(row):%Y-%m-%dT%H:%M:%SZ}" for row in range(first, last)]
    known = pl.DataFrame({"series": [panel.series[series]] * len(times), "time": times})
    return pl.concat([known, *seen, ahead], how="horizontal")


def pinned(*packages: str) -> list[str]:
    """Return packages as pip takes them, in the versions installed here."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in packages]
