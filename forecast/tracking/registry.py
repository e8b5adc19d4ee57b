"""The model registry, and the parent run of each night.

One experiment and one registered model per data set, one parent run per night, one child run per model. A failure of
MLflow is raised as ``tracking.failed`` within seconds, without MLflow's own minutes of retries.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import mlflow
import sqlalchemy as sa
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from forecast.clock import SystemClock
from forecast.errors import StorageError, first_line
from forecast.home import Home
from forecast.tracking.runs import MAX_VALUE_LENGTH, TrackedNight, TrackedRun, create_run, tracking_errors

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
_SETTINGS: Final = {
    # With its defaults MLflow needs four minutes to notice a dead server, while the night holds its lock.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    # Standard output is reserved for the JSON document of a command.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Defaults for MLflow's own environment variables."""


class Registry:
    """One experiment and one registered model per data set."""

    def __init__(self, home: Home) -> None:
        """Raise ``tracking.failed`` if the store at ``home.tracking_uri`` cannot be used."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        self._home = home
        self._uri = home.tracking_uri
        with tracking_errors(self._uri):
            _require_database(home.tracking_uri)
            self._client = mlflow.MlflowClient(home.tracking_uri, home.tracking_uri)
            mlflow.set_tracking_uri(home.tracking_uri)
            mlflow.set_registry_uri(home.tracking_uri)

    @contextmanager
    def night(
        self, dataset: str, title: str, tags: Mapping[str, object], kind: str = "night"
    ) -> Iterator[TrackedNight]:
        """Open the parent run of a night, or of another ``kind`` of work such as a search.

        The run and its open children end with the body: finished, failed (with the error as reason), or killed on
        Ctrl-C or SIGTERM. Runs of the same kind and home whose process was killed are ended first; the caller holds
        the lock that excludes two at once.
        """
        # MLflow's filters cannot escape a quotation mark, which a folder's name may contain.
        owner = {"kind": kind, "home": f"{platform.node()}:{self._home.path}".replace("'", "")}
        with tracking_errors(self._uri):
            experiment = self._experiment(dataset)
            orphans = " AND ".join(f"tags.{key} = '{value}'" for key, value in owner.items())
            for left in self._client.search_runs([experiment], f"{orphans} AND status = 'RUNNING'"):
                TrackedRun(self._client, experiment, "", left.info.run_id).end("KILLED", "the process was killed")
            shared = {**tags, **owner}
            run_id = create_run(self._client, experiment, title, shared)
            night = TrackedNight(self._client, experiment, title, run_id, shared)
        try:
            yield night
        except BaseException as error:
            is_interrupted = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))
            with suppress(StorageError):  # MLflow itself may be the cause
                if is_interrupted:
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
        """Register a logged model as a version of the data set's model, and set the alias ``challenger`` to it.

        An existing version stays unchanged.
        """
        with tracking_errors(self._uri):
            known = self._version(dataset, model_version)
            if known is None:
                with suppress(MlflowException):  # it exists; any other failure also stops the next call
                    self._client.create_registered_model(dataset)
                every = {"model_version": model_version, **tags}
                known = self._client.create_model_version(
                    dataset,
                    f"models:/{model}",
                    run_id=run.run_id,
                    model_id=model,
                    tags={key: str(value)[:MAX_VALUE_LENGTH] for key, value in every.items()},
                    description=description,
                )
                versions = json.dumps([{"name": dataset, "version": int(known.version)}])
                self._client.set_logged_model_tags(model, {"mlflow.modelVersions": versions})  # link in the UI
            self._client.set_registered_model_alias(dataset, CHALLENGER, known.version)

    def mirror(self, dataset: str, champion: str, previous: str | None) -> None:
        """Set the aliases ``champion`` and ``previous`` to these model versions; idempotent.

        If a version was never registered here, its alias is removed instead of pointing at an outdated one. The alias
        ``challenger`` is removed from a version that became champion.
        """
        with tracking_errors(self._uri):
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
        """Log live scores of a model version: as tags of the version, and as metrics over time on its run.

        Returns whether the version is registered here.
        """
        with tracking_errors(self._uri):
            known = self._version(dataset, model_version)
            if known is None:
                return False
            for key, value in {**{key: f"{value:.5g}" for key, value in metrics.items()}, **tags}.items():
                self._client.set_model_version_tag(dataset, known.version, key, str(value))
            if known.run_id:
                now = int(SystemClock().now().timestamp() * 1000)
                scores = [Metric(key, float(value), now, now // 1000) for key, value in metrics.items()]
                self._client.log_batch(known.run_id, scores)
        return True

    def aliases(self, dataset: str) -> dict[str, str]:
        """Return the model version of each alias; empty if nothing is registered."""
        with tracking_errors(self._uri):
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
        # A tracking server chooses the artifact location itself.
        place = None if self._uri.startswith("http") else f"{self._home.artifacts.as_uri()}/{dataset}"
        kind = {
            "mlflow.experimentKind": "custom_model_development"
        }  # otherwise the UI opens its pages for language models
        return str(self._client.create_experiment(dataset, place, kind))


def _reason(error: BaseException) -> str:
    return f"[{getattr(error, 'code', 'internal')}] {first_line(error)}"


def _require_database(uri: str) -> None:
    """Connect once if the store is a database: MLflow would retry for minutes to open one that cannot be opened."""
    if "://" not in uri or uri.startswith(("http", "file", "databricks")):
        return
    engine = sa.create_engine(uri, poolclass=sa.NullPool)
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").parent.is_dir():
        return  # MLflow creates the folder or fails at once
    with engine.connect():
        pass
