"""Tracking and the model registry: the only file that imports MLflow."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git is no reason to warn

import mlflow
import numpy as np
import onnx
import onnxruntime
import plotly.graph_objects as go
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, infer_signature
from sqlalchemy.exc import SQLAlchemyError

from forecast.errors import StorageError, first_line
from forecast.settings import Home

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

CHAMPION, PREVIOUS = "champion", "previous"


@dataclass(frozen=True, slots=True)
class ModelRun:
    """The MLflow run of one model's training."""

    run_id: str
    _client: mlflow.MlflowClient

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters."""
        entries = [mlflow.entities.Param(key, str(value)) for key, value in values.items()]
        with _told_errors():
            self._client.log_batch(self.run_id, params=entries)

    def metrics(self, values: Mapping[str, float], now: int) -> None:
        """Log final numbers; ``now`` in milliseconds since 1970."""
        with _told_errors():
            self._client.log_batch(self.run_id, [Metric(key, float(value), now, 0) for key, value in values.items()])

    def curve(self, name: str, values: Sequence[float], now: int) -> None:
        """Log a number per step: per epoch, or per lead time."""
        entries = [Metric(name, float(value), now, step) for step, value in enumerate(values, 1)]
        with _told_errors():
            for begin in range(0, len(entries), 1000):  # the tracking store takes no more at once
                self._client.log_batch(self.run_id, entries[begin : begin + 1000])

    def figure(self, figure: go.Figure, name: str) -> None:
        """Log a plotly figure as an artifact."""
        with _told_errors():
            self._client.log_figure(self.run_id, figure, name)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        with _told_errors():
            for key, value in values.items():
                self._client.set_tag(self.run_id, key, value)


class Registry:
    """One experiment and one registered model per data set."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._client = mlflow.MlflowClient(home.tracking_uri, home.tracking_uri)
        mlflow.set_tracking_uri(home.tracking_uri)
        mlflow.set_registry_uri(home.tracking_uri)

    @contextmanager
    def night(self, dataset: str, title: str, tags: Mapping[str, str]) -> Iterator[str]:
        """Open the parent run of one training of all models; it is marked failed if the body raises."""
        with _told_errors():
            run = self._client.create_run(self._experiment(dataset), run_name=title, tags=dict(tags))
        with self._ended(run.info.run_id):
            yield run.info.run_id

    @contextmanager
    def model_run(self, dataset: str, parent: str, model_name: str, tags: Mapping[str, str]) -> Iterator[ModelRun]:
        """Open the child run of one model."""
        with _told_errors():
            every = {"mlflow.parentRunId": parent, "model_name": model_name, **tags}
            run = self._client.create_run(self._experiment(dataset), run_name=model_name, tags=every)
        with self._ended(run.info.run_id):
            yield ModelRun(run.info.run_id, self._client)

    def log_model(self, run: ModelRun, folder: Path, inputs: Mapping[str, np.ndarray], output: np.ndarray) -> str:
        """Log an exported model with its signature and manifest; returns the URI to register it by."""
        signature: ModelSignature = infer_signature(dict(inputs), {"quantiles": output})
        with _told_errors(), mlflow.start_run(run_id=run.run_id, log_system_metrics=False):
            info = mlflow.onnx.log_model(
                onnx.load(folder / "model.onnx"),
                name="model",
                signature=signature,
                pip_requirements=[f"onnxruntime=={onnxruntime.__version__}", f"onnx=={onnx.__version__}"],
            )
            mlflow.log_artifact(str(folder / "manifest.json"))
            # Leaving start_run would end the run; _ended does that with the right status.
            mlflow.MlflowClient().update_run(run.run_id, status="RUNNING")
        return str(info.model_uri)

    def promote(self, dataset: str, run: str, uri: str, version: str, sentence: str) -> None:
        """Register a logged model and let the alias ``champion`` point at it; the old one becomes ``previous``."""
        with _told_errors():
            try:
                self._client.create_registered_model(dataset)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = self._client.create_model_version(
                dataset, uri, run_id=run, tags={"model_version": version}, description=sentence
            )
            try:
                old = self._client.get_model_version_by_alias(dataset, CHAMPION)
                self._client.set_registered_model_alias(dataset, PREVIOUS, old.version)
            except MlflowException:  # there was no champion
                pass
            self._client.set_registered_model_alias(dataset, CHAMPION, made.version)

    def describe(self, run_id: str, sentence: str, table: str) -> None:
        """Write a night's verdict and its table of scores (Markdown) where the UI shows them first."""
        ModelRun(run_id, self._client).tags({"verdict": sentence, "mlflow.note.content": f"{sentence}\n\n{table}"})

    def figure(self, run_id: str, figure: go.Figure, name: str) -> None:
        """Log a plotly figure as an artifact of a run."""
        ModelRun(run_id, self._client).figure(figure, name)

    def _experiment(self, dataset: str) -> str:
        found = self._client.get_experiment_by_name(dataset)
        if found is not None:
            return str(found.experiment_id)
        place = self._home.artifacts.as_uri() if self._home.tracking_uri.startswith("sqlite:") else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # or the UI opens its pages for language models
        return str(self._client.create_experiment(dataset, place and f"{place}/{dataset}", kind))

    @contextmanager
    def _ended(self, run_id: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with _told_errors():
                self._client.set_terminated(run_id, "FAILED")
            raise
        with _told_errors():
            self._client.set_terminated(run_id, "FINISHED")


@contextmanager
def _told_errors() -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise StorageError(
            "tracking.failed",
            f"MLflow cannot be used ({first_line(error)})",
            "check MLFLOW_TRACKING_URI, or the home's disk",
        ) from error
