"""Package a model for serving by MLflow: its files, the relevant config, the code and an example."""

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
"""Config fields that a forecast depends on. The source is left out: users of the model must not see addresses."""
_NO_SOURCE = {"kind": "csv", "path": "rows.csv"}
_REQUIREMENTS = (
    "mlflow", "apscheduler", "deltalake", "filelock", "fsspec", "holidays", "numpy", "onnxruntime", "pandas", "pint",
    "polars", "pyarrow", "pydantic", "sqlalchemy", "tzdata",
)  # fmt: skip


@contextmanager
def application(folder: Path, config: DatasetConfig, example: pl.DataFrame) -> Iterator[Application]:
    """Package the model in ``folder`` for the duration of the body; ``example`` are rows of :func:`rows_before`."""
    document = json.dumps(config.model_dump(mode="json", include=_NEEDED) | {"source": _NO_SOURCE})
    channels = [
        Column(name, "double") for name in (*config.targets, *config.past_covariates, *config.future_covariates)
    ]
    with TemporaryDirectory() as scratch:
        data = Path(scratch) / "model"
        data.mkdir()
        for name in (NETWORK, MANIFEST, GOLDEN):
            shutil.copyfile(folder / name, data / name)
        (data / mlflow_pyfunc.CONFIG).write_text(document, encoding="utf-8")
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
    """Return the input rows of a forecast of one series from an origin, in the format of the packaged model.

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
    """Return pip requirements with the installed versions."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in packages]
