"""Tracking and the model registry: the only file that imports MLflow.

One experiment and one registered model per data set, one parent run per night, one child run per model. Whatever MLflow
does not do is ``tracking.failed``, within seconds and not after its own minutes of trying again.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git is no reason to warn

import mlflow
import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnx
import plotly.graph_objects as go
import sqlalchemy as sa
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature, infer_signature
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs
from sqlalchemy.exc import SQLAlchemyError

from forecast.clock import SystemClock
from forecast.errors import StorageError, first_line
from forecast.home import Home
from forecast.plots.charts import page
from forecast.tracking.entities import Application, Column, Lineage

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what tracking.failed tells

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
Status = Literal["FINISHED", "FAILED", "KILLED"]
_PARENT: Final = "mlflow.parentRunId"
_NOTE: Final = "mlflow.note.content"
_PLOTLY: Final = "figures/plotly.mjs"
"""By its ending MLflow serves it as a script; what ends in ".js" it serves as text, which browsers refuse to run."""
_LONGEST: Final = 5000
"""Characters of a tag or parameter; MLflow takes 6000."""
_DIGEST: Final = 36
"""Characters of a data set's digest that MLflow keeps."""
_SETTINGS: Final = {
    # It would take four minutes to find that a server is gone, while a night holds its lock.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    # It would write to standard output, where a command's one JSON document belongs.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow's own settings, where the user gives none."""


class _Script:
    """Plotly's script, which is too large to be in every figure: one file of a night that all its figures fetch."""

    def __init__(self, client: mlflow.MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Log the script; returns where MLflow's pages find it, and where a figure that was downloaded does."""
        self._client.log_text(self._run_id, get_plotlyjs(), _PLOTLY)
        return (f"/get-artifact?run_uuid={self._run_id}&path={_PLOTLY}", Path(_PLOTLY).name)


class TrackedRun:
    """One MLflow run; it ends once."""

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
        """Log parameters, tags, final numbers, and numbers per step (epoch, lead time), which count from 1.

        What is not finite is left out: MLflow would draw it as zero. ``model`` and ``data`` are the logged model that
        the numbers belong to and what they were measured on.
        """
        now = int(SystemClock().now().timestamp() * 1000)
        about = {} if data is None else {"dataset_name": data.name, "dataset_digest": data.digest[:_DIGEST]}
        message = [(key, 0, value) for key, value in (metrics or {}).items()]
        message += [
            (key, step, value) for key, values in (curves or {}).items() for step, value in enumerate(values, 1)
        ]
        numbers = [
            Metric(key, float(value), now, step, model, **about) for key, step, value in message if np.isfinite(value)
        ]
        with _told_errors():
            for begin in range(0, len(numbers), 1000):  # the store takes no more in one call
                self._client.log_batch(self.run_id, numbers[begin : begin + 1000])
            if params or tags:
                self._client.log_batch(
                    self.run_id,
                    params=[Param(key, str(value)[:_LONGEST]) for key, value in (params or {}).items()],
                    tags=[RunTag(key, str(value)[:_LONGEST]) for key, value in (tags or {}).items()],
                )

    def note(self, markdown: str) -> None:
        """Write what the UI shows first of a run."""
        self.log(tags={_NOTE: markdown})

    def file(self, content: str, name: str) -> None:
        """Log a text file."""
        with _told_errors():
            self._client.log_text(self.run_id, content, name)

    def figure(self, figure: go.Figure, name: str) -> None:
        """Log a plotly figure as a page of some kilobytes; ``name`` ends in ``.html``."""
        with _told_errors():
            self._client.log_text(self.run_id, page([figure], name, self._script.sources), name)

    def table(self, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        """Log a table, which the UI shows beside those of other runs; ``name`` ends in ``.json``."""
        with _told_errors():
            self._client.log_table(self.run_id, {key: list(values) for key, values in columns.items()}, name)

    def read(self, *lineage: Lineage) -> None:
        """Say which data the run read."""
        inputs = [DatasetInput(_dataset(item), [InputTag("mlflow.data.context", item.context)]) for item in lineage]
        with _told_errors():
            self._client.log_inputs(self.run_id, inputs)

    def log_application(self, name: str, application: Application) -> str:
        """Log a model that answers rows with rows; returns its identifier."""
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
        """Log a bare network, which takes and returns tensors, with an example of both; returns its identifier."""
        signature = infer_signature(dict(inputs), {"prediction": output})
        return self._log_model(
            name,
            lambda folder, about: mlflow.onnx.save_model(
                onnx.load(network), str(folder), mlflow_model=about, signature=signature,
                input_example=dict(inputs), pip_requirements=list(requirements), save_as_external_data=False,
            ),
        )  # fmt: skip

    def log_saved(self, name: str, saved: Path) -> str:
        """Log a folder that :func:`save_darts` wrote; returns its identifier."""
        return self._log_model(name, lambda folder, _: shutil.copytree(saved, folder))

    def end(self, status: Status = "FINISHED", reason: str = "") -> None:
        """End the run, once, and say why where the UI shows it first."""
        if not self._is_open:
            return
        if reason:
            self.log(tags={"failure": reason, _NOTE: f"**{status.lower()}**: {reason}"})
        with _told_errors():
            self._client.set_terminated(self.run_id, status)
        self._is_open = False

    def _log_model(self, name: str, save: Callable[[Path, Model], object]) -> str:
        # Not by MLflow's own log_model, which needs the one active run of a process and ends it with its own status.
        with _told_errors():
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
        """Open the child run of one model, which carries the night's tags too; whoever opens it ends it."""
        every = {**self._tags, _PARENT: self.run_id, "model_name": name, **(tags or {})}
        run_id = _create(self._client, self._experiment, name, every)
        self.children.append(TrackedRun(self._client, self._experiment, name, run_id, self._script))
        return self.children[-1]

    def end(self, status: Status = "FINISHED", reason: str = "") -> None:
        """End the night, and what is still open of its children in the same way."""
        for child in self.children:
            child.end(status, reason)
        super().end(status, reason)


class Registry:
    """One experiment and one registered model per data set."""

    def __init__(self, home: Home) -> None:
        """Raise ``tracking.failed`` if ``home.tracking_uri`` leads nowhere."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        self._home = home
        self._uri = home.tracking_uri
        with _told_errors(self._uri):
            _require_database(home.tracking_uri)
            self._client = mlflow.MlflowClient(home.tracking_uri, home.tracking_uri)
            mlflow.set_tracking_uri(home.tracking_uri)
            mlflow.set_registry_uri(home.tracking_uri)

    @contextmanager
    def night(
        self, dataset: str, title: str, tags: Mapping[str, object], kind: str = "night"
    ) -> Iterator[TrackedNight]:
        """Open the parent run of one training of all models, or of something else of another ``kind``.

        It ends as the body does, with all children that are still open: finished, failed for the reason of the error,
        or killed when Ctrl-C or SIGTERM came. Runs of this kind and home that were left behind when their process was
        killed outright are ended first: the caller holds a lock that lets no two of a kind go on at once.
        """
        # A filter has no way to write the quotation mark that a folder's name may have.
        whose = {"kind": kind, "home": f"{platform.node()}:{self._home.path}".replace("'", "")}
        with _told_errors(self._uri):
            experiment = self._experiment(dataset)
            theirs = " AND ".join(f"tags.{key} = '{value}'" for key, value in whose.items())
            for left in self._client.search_runs([experiment], f"{theirs} AND status = 'RUNNING'"):
                TrackedRun(self._client, experiment, "", left.info.run_id).end("KILLED", "the process was killed")
            shared = {**tags, **whose}
            run_id = _create(self._client, experiment, title, shared)
            night = TrackedNight(self._client, experiment, title, run_id, shared)
        try:
            yield night
        except BaseException as error:
            is_told_to_stop = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))
            with suppress(StorageError):  # what went wrong may be MLflow itself
                if is_told_to_stop:
                    night.end("KILLED", "interrupted")
                else:
                    night.end("FAILED", _reason(error))
            raise
        night.end()

    def register(
        self,
        dataset: str,
        run: TrackedRun,
        model: str,
        model_version: str,
        description: str,
        tags: Mapping[str, object],
    ) -> None:
        """Make a logged model a version of the data set's registered model, and let ``challenger`` point at it.

        A version that is registered already stays as it is.
        """
        with _told_errors(self._uri):
            known = self._version(dataset, model_version)
            if known is None:
                with suppress(MlflowException):  # it is there already; if that is not it, the next call says so
                    self._client.create_registered_model(dataset)
                every = {"model_version": model_version, **tags}
                known = self._client.create_model_version(
                    dataset,
                    f"models:/{model}",
                    run_id=run.run_id,
                    model_id=model,
                    tags={key: str(value)[:_LONGEST] for key, value in every.items()},
                    description=description,
                )
                versions = json.dumps([{"name": dataset, "version": int(known.version)}])
                self._client.set_logged_model_tags(model, {"mlflow.modelVersions": versions})  # a link in the UI
            self._client.set_registered_model_alias(dataset, CHALLENGER, known.version)

    def mirror(self, dataset: str, champion: str, previous: str | None) -> None:
        """Let the aliases ``champion`` and ``previous`` point at these model versions; twice changes nothing.

        An alias whose version was never registered here is removed rather than left where it is no longer true. A
        champion is no ``challenger`` any more.
        """
        with _told_errors(self._uri):
            known = self._aliases(dataset)
            for alias, model_version in ((CHAMPION, champion), (PREVIOUS, previous)):
                found = None if model_version is None else self._version(dataset, model_version)
                if found is None:
                    self._unset(dataset, alias, known)
                elif known.get(alias) != int(found.version):
                    self._client.set_registered_model_alias(dataset, alias, found.version)
            if known.get(CHALLENGER) in {self._aliases(dataset).get(alias) for alias in (CHAMPION, PREVIOUS)}:
                self._unset(dataset, CHALLENGER, known)

    def live(self, dataset: str, model_version: str, metrics: Mapping[str, float], tags: Mapping[str, object]) -> bool:
        """Show how good a model's served forecasts were: on its version as tags, on its run as metrics over time.

        Returns whether the version is registered here.
        """
        with _told_errors(self._uri):
            known = self._version(dataset, model_version)
            if known is None:
                return False
            for key, value in {**{key: f"{value:.5g}" for key, value in metrics.items()}, **tags}.items():
                self._client.set_model_version_tag(dataset, known.version, key, str(value))
            if known.run_id:
                now = int(SystemClock().now().timestamp() * 1000)
                message = [Metric(key, float(value), now, now // 1000) for key, value in metrics.items()]
                self._client.log_batch(known.run_id, message)
        return True

    def aliases(self, dataset: str) -> dict[str, str]:
        """Return the model version that each alias points at; empty if nothing is registered."""
        with _told_errors(self._uri):
            found = self._aliases(dataset)
            tags = {alias: self._client.get_model_version(dataset, str(number)).tags for alias, number in found.items()}
        return {alias: str(every["model_version"]) for alias, every in tags.items()}

    def _unset(self, dataset: str, alias: str, known: Mapping[str, int]) -> None:
        if alias in known:
            self._client.delete_registered_model_alias(dataset, alias)

    def _aliases(self, dataset: str) -> dict[str, int]:
        found = self._client.search_registered_models(f"name = '{dataset}'")
        return {alias: int(number) for model in found for alias, number in model.aliases.items()}

    def _version(self, dataset: str, model_version: str) -> ModelVersion | None:
        wanted = f"name = '{dataset}' AND tags.model_version = '{model_version}'"
        return next(iter(self._client.search_model_versions(wanted)), None)

    def _experiment(self, dataset: str) -> str:
        found = self._client.get_experiment_by_name(dataset)
        if found is not None:
            return str(found.experiment_id)
        # A server of its own chooses where artifacts lie.
        place = None if self._uri.startswith("http") else f"{self._home.artifacts.as_uri()}/{dataset}"
        kind = {"mlflow.experimentKind": "custom_model_development"}  # or the UI opens its pages for language models
        return str(self._client.create_experiment(dataset, place, kind))


def save_darts(model: Any, folder: Path) -> None:
    """Write a fitted darts model as MLflow's flavour of darts, which :meth:`TrackedRun.log_saved` takes."""
    from darts.utils.mlflow import save_model  # torch: only a training pays for it

    save_model(model, str(folder))


def _create(client: mlflow.MlflowClient, experiment: str, name: str, tags: Mapping[str, object]) -> str:
    message = {key: str(value)[:_LONGEST] for key, value in tags.items()}
    with _told_errors():
        # Whose run it is and of which commit, as MLflow's own way to open one would say it.
        return str(client.create_run(experiment, run_name=name, tags=resolve_tags(message)).info.run_id)


def _dataset(lineage: Lineage) -> Dataset:
    schema = Schema([ColSpec("double", column) for column in lineage.columns])
    return Dataset(
        lineage.name, lineage.digest[:_DIGEST], "delta_table",
        DeltaDatasetSource(path=lineage.table, delta_table_version=lineage.version).to_json(),
        schema=json.dumps({"mlflow_colspec": schema.to_dict()}),
    )  # fmt: skip


def _schema(columns: Sequence[Column]) -> Schema:
    return Schema([ColSpec(column.kind, column.name, required=column.required) for column in columns])


def _reason(error: BaseException) -> str:
    return f"[{getattr(error, 'code', 'internal')}] {first_line(error)}"


def _require_database(uri: str) -> None:
    """Connect once to a store that is a database: MLflow would try for minutes to open one that cannot be opened."""
    if "://" not in uri or uri.startswith(("http", "file", "databricks")):
        return
    engine = sa.create_engine(uri, poolclass=sa.NullPool)
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").parent.is_dir():
        return  # MLflow makes the folder, or says at once that it cannot
    with engine.connect():
        pass


@contextmanager
def _told_errors(uri: str = "") -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        at = f' at "{re.sub("//[^/@]*@", "//***@", uri)}"' if uri else ""  # without a password
        database = error if isinstance(error, SQLAlchemyError) else error.__cause__
        raise StorageError(
            "tracking.failed",
            f"MLflow{at} cannot be used ({first_line(getattr(database, 'orig', None) or error)})",
            "check MLFLOW_TRACKING_URI and that its server runs, or the home's disk",
        ) from error
