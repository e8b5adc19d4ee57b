"""Runs in MLflow: one parent run per night, one child run per model, and what they log."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import mlflow
import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnx
import plotly.graph_objects as go
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature, infer_signature
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs
from sqlalchemy.exc import SQLAlchemyError

from forecast.clock import SystemClock
from forecast.errors import StorageError, first_line
from forecast.plots.charts import page
from forecast.tracking.entities import Application, Column, Lineage

Status = Literal["FINISHED", "FAILED", "KILLED"]
_PARENT: Final = "mlflow.parentRunId"
_NOTE: Final = "mlflow.note.content"
_PLOTLY: Final = "figures/plotly.mjs"
"""MLflow serves ".mjs" as a script but ".js" as text, which browsers refuse to run."""
MAX_VALUE_LENGTH: Final = 5000
"""Maximum length of a tag or parameter; MLflow's own limit is 6000 characters."""
_DIGEST: Final = 36
"""Length to which MLflow truncates the digest of a data set."""


class _Script:
    """Plotly's script, logged once per night: it is too large to embed it in every figure."""

    def __init__(self, client: mlflow.MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Log the script; returns its URL for MLflow's pages, and its path relative to a downloaded figure."""
        self._client.log_text(self._run_id, get_plotlyjs(), _PLOTLY)
        return (f"/get-artifact?run_uuid={self._run_id}&path={_PLOTLY}", Path(_PLOTLY).name)


class TrackedRun:
    """One MLflow run. Further calls of :meth:`end` have no effect."""

    def __init__(
        self, client: mlflow.MlflowClient, experiment: str, name: str, run_id: str, script: _Script | None = None
    ) -> None:
        self.name = name
        self.run_id = run_id
        self._script = script or _Script(client, run_id)
        self._client = client
        self._experiment = experiment
        self._is_open = True

    def log(
        self,
        *,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        curves: Mapping[str, Sequence[float]] | None = None,
        model: str | None = None,
        data: Lineage | None = None,
    ) -> None:
        """Log parameters, tags, final metrics, and curves: metrics per step (epoch, lead time), counted from 1.

        Values that are not finite are left out: MLflow would draw them as zero. ``model`` is the logged model that the
        metrics belong to, ``data`` the data that they were measured on.
        """
        now = int(SystemClock().now().timestamp() * 1000)
        about = {} if data is None else {"dataset_name": data.name, "dataset_digest": data.digest[:_DIGEST]}
        points = [(key, 0, value) for key, value in (metrics or {}).items()]
        points += [(key, step, value) for key, values in (curves or {}).items() for step, value in enumerate(values, 1)]
        numbers = [
            Metric(key, float(value), now, step, model, **about) for key, step, value in points if np.isfinite(value)
        ]
        with tracking_errors():
            for begin in range(0, len(numbers), 1000):  # limit of one call
                self._client.log_batch(self.run_id, numbers[begin : begin + 1000])
            if params or tags:
                self._client.log_batch(
                    self.run_id,
                    params=[Param(key, str(value)[:MAX_VALUE_LENGTH]) for key, value in (params or {}).items()],
                    tags=[RunTag(key, str(value)[:MAX_VALUE_LENGTH]) for key, value in (tags or {}).items()],
                )

    def note(self, markdown: str) -> None:
        """Set the description that the UI shows at the top of the run."""
        self.log(tags={_NOTE: markdown})

    def file(self, content: str, name: str) -> None:
        """Log a text file."""
        with tracking_errors():
            self._client.log_text(self.run_id, content, name)

    def figure(self, figure: go.Figure, name: str) -> None:
        """Log a plotly figure as a page of some kilobytes; ``name`` ends in ``.html``."""
        with tracking_errors():
            self._client.log_text(self.run_id, page([figure], name, self._script.sources), name)

    def table(self, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        """Log a table, which the UI can compare across runs; ``name`` ends in ``.json``."""
        with tracking_errors():
            self._client.log_table(self.run_id, {key: list(values) for key, values in columns.items()}, name)

    def read(self, *lineage: Lineage) -> None:
        """Log which data the run read."""
        inputs = [DatasetInput(_dataset(item), [InputTag("mlflow.data.context", item.context)]) for item in lineage]
        with tracking_errors():
            self._client.log_inputs(self.run_id, inputs)

    def log_application(self, name: str, application: Application) -> str:
        """Log a pyfunc model, which maps rows to rows; returns the id of the logged model."""
        signature = ModelSignature(
            _schema(application.inputs),
            _schema(application.outputs),
            ParamSchema([ParamSpec(key, "long", value) for key, value in application.parameters.items()]),
        )
        return self._log_model(
            name,
            lambda folder, about: mlflow.pyfunc.save_model(
                str(folder), loader_module=application.loader, data_path=str(application.data),
                code_paths=[str(path) for path in application.code], mlflow_model=about, signature=signature,
                input_example=application.example, pip_requirements=list(application.requirements),
            ),
        )  # fmt: skip

    def log_onnx(
        self,
        name: str,
        network: Path,
        inputs: Mapping[str, NDArray[np.float32]],
        output: NDArray[np.float32],
        requirements: Sequence[str],
    ) -> str:
        """Log a bare network, which maps tensors to tensors, with an example; returns the id of the logged model."""
        signature = infer_signature(dict(inputs), {"prediction": output})
        return self._log_model(
            name,
            lambda folder, about: mlflow.onnx.save_model(
                onnx.load(network), str(folder), mlflow_model=about, signature=signature,
                input_example=dict(inputs), pip_requirements=list(requirements), save_as_external_data=False,
            ),
        )  # fmt: skip

    def log_saved(self, name: str, saved: Path) -> str:
        """Log a folder that :func:`save_darts` wrote; returns the id of the logged model."""
        return self._log_model(name, lambda folder, _: shutil.copytree(saved, folder))

    def end(self, status: Status = "FINISHED", reason: str = "") -> None:
        """End the run if it is still open, and put the reason at the top of its page."""
        if not self._is_open:
            return
        if reason:
            self.log(tags={"failure": reason, _NOTE: f"**{status.lower()}**: {reason}"})
        with tracking_errors():
            self._client.set_terminated(self.run_id, status)
        self._is_open = False

    def _log_model(self, name: str, save: Callable[[Path, Model], object]) -> str:
        # MLflow's own log_model needs the process's one active run and ends it with a status of its own.
        with tracking_errors():
            logged = self._client.create_logged_model(self._experiment, name, self.run_id)
            self._client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, step=0)])
            about = Model(
                artifact_path=logged.artifact_location, run_id=self.run_id, model_uuid=logged.model_id,
                model_id=logged.model_id,
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as scratch:
                save(Path(scratch) / "model", about)
                self._client.log_model_artifacts(logged.model_id, str(Path(scratch) / "model"))
            self._client.finalize_logged_model(logged.model_id, "READY")
        return str(logged.model_id)


class TrackedNight(TrackedRun):
    """The parent run of one night."""

    def __init__(
        self, client: mlflow.MlflowClient, experiment: str, name: str, run_id: str, tags: Mapping[str, object]
    ) -> None:
        super().__init__(client, experiment, name, run_id)
        self._tags = dict(tags)
        self.experiment = experiment
        self.children: list[TrackedRun] = []

    def open(self, name: str, tags: Mapping[str, object] | None = None) -> TrackedRun:
        """Open the child run of one model, with the night's tags too; the caller must end it."""
        every = {**self._tags, _PARENT: self.run_id, "model_name": name, **(tags or {})}
        run_id = create_run(self._client, self._experiment, name, every)
        self.children.append(TrackedRun(self._client, self._experiment, name, run_id, self._script))
        return self.children[-1]

    def end(self, status: Status = "FINISHED", reason: str = "") -> None:
        """End the night, and with the same status all children that are still open."""
        for child in self.children:
            child.end(status, reason)
        super().end(status, reason)


def save_darts(model: Any, folder: Path) -> None:
    """Save a fitted darts model in MLflow's darts flavour, for :meth:`TrackedRun.log_saved`."""
    from darts.utils.mlflow import save_model  # loads torch, which only trainings need

    save_model(model, str(folder))


def create_run(client: mlflow.MlflowClient, experiment: str, name: str, tags: Mapping[str, object]) -> str:
    """Create a run with these tags, its user and its git commit; returns its id."""
    short = {key: str(value)[:MAX_VALUE_LENGTH] for key, value in tags.items()}
    with tracking_errors():
        # resolve_tags adds user and commit, as mlflow.start_run would.
        return str(client.create_run(experiment, run_name=name, tags=resolve_tags(short)).info.run_id)


def _dataset(lineage: Lineage) -> Dataset:
    schema = Schema([ColSpec("double", column) for column in lineage.columns])
    return Dataset(
        lineage.name, lineage.digest[:_DIGEST], "delta_table",
        DeltaDatasetSource(path=lineage.table, delta_table_version=lineage.version).to_json(),
        schema=json.dumps({"mlflow_colspec": schema.to_dict()}),
    )  # fmt: skip


def _schema(columns: Sequence[Column]) -> Schema:
    return Schema([ColSpec(column.kind, column.name, required=column.required) for column in columns])


@contextmanager
def tracking_errors(uri: str = "") -> Iterator[None]:
    """Raise failures of MLflow and its database as ``tracking.failed``, with the ``uri`` but without its password."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        at = f' at "{re.sub("//[^/@]*@", "//***@", uri)}"' if uri else ""
        database = error if isinstance(error, SQLAlchemyError) else error.__cause__
        raise StorageError(
            "tracking.failed",
            f"MLflow{at} cannot be used ({first_line(getattr(database, 'orig', None) or error)})",
            "check MLFLOW_TRACKING_URI and that its server runs, or the home's disk",
        ) from error
