"""Engines that run a night's tasks: one after the other in this process, or on a Ray cluster, with the same results."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from forecast.durability import flush
from forecast.errors import ConfigError, ForecastError, StorageError, TrainingError, UnavailableError, first_line
from forecast.home import cores
from forecast.progress import Reporter, Step

Files = Mapping[str, bytes]
"""Content by path, relative to the target folder."""


class Movable(Protocol):
    """A task that can be sent to another machine."""

    @property
    def title(self) -> str:
        """Name of the task in progress reports."""

    @property
    def devices(self) -> int:
        """Number of GPUs that the task can use."""

    def moved(self, scratch: Path) -> Self:
        """Return the task for a machine on which only the folder ``scratch`` exists."""


T = TypeVar("T", bound=Movable)
R = TypeVar("R")
Work = Callable[[T, Path, Step], R]
"""Runs a task and writes its output to folders ``<data set>/<version>`` below the given folder."""


class Engine(Protocol):
    """Runs tasks."""

    def run(self, work: Work[T, R], tasks: Sequence[T], reporter: Reporter) -> Iterator[tuple[int, R | ForecastError]]:
        """Yield the number of each finished task with its result or error."""


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Runs tasks in this process, one after the other."""

    models: Path
    """Folder for the output of tasks."""

    def run(self, work: Work[T, R], tasks: Sequence[T], reporter: Reporter) -> Iterator[tuple[int, R | ForecastError]]:
        """Yield results in the order of the tasks."""
        for number, task in enumerate(tasks):
            try:
                with reporter.step(task.title) as step:
                    result = work(task, self.models, step)
            except ForecastError as error:
                yield number, error
            else:
                yield number, result


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Runs tasks on the Ray cluster at ``RAY_ADDRESS``; without it, on one started on this machine.

    Each task gets as many cores as one training may use (``FORECAST_CORES``), and the number of GPUs of the config if
    the cluster has any. Files are returned with the results: machines need this package, but no shared disk.
    """

    models: Path
    """Folder for the output of tasks; each folder appears complete or not at all."""

    def run(self, work: Work[T, R], tasks: Sequence[T], reporter: Reporter) -> Iterator[tuple[int, R | ForecastError]]:
        """Yield results as tasks finish; a task whose machine is lost is retried once.

        Raises ``cluster.not_installed`` and ``cluster.unreachable``.
        """
        with _cluster() as ray, reporter.step(f"{len(tasks)} tasks on Ray") as step:
            share, gpus = _share(ray)
            here = ray.get_runtime_context().get_node_id()
            remote = ray.remote(_run_remotely)
            waiting = {
                remote.options(num_cpus=share, num_gpus=min(task.devices, gpus), max_retries=1).remote(
                    work, task, share, here
                ): number
                for number, task in enumerate(tasks)
            }
            while waiting:
                (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
                number = waiting.pop(ready)
                result = self._receive(ray, ready, tasks[number].title)
                step.reach(1 - len(waiting) / len(tasks))
                step.note(f"{tasks[number].title} is done, {len(waiting)} to go")
                yield number, result

    def _receive(self, ray: Any, reference: Any, title: str) -> Any:
        try:
            result, files = ray.get(reference)
        except ray.exceptions.OutOfMemoryError:
            return TrainingError(
                "training.out_of_memory", f"{title} ran out of memory", "lower training.batch_size or the model's width"
            )
        except ray.exceptions.RayError as error:
            return TrainingError(
                "training.failed", f"{title} failed on the cluster ({first_line(error)})", "see the log of its machine"
            )
        _put(files, self.models)
        return result


def _run_remotely(work: Work[T, R], task: T, share: int, home: str) -> tuple[R | ForecastError, Files]:
    """Run a task in a process of the cluster; returns its result and its files."""
    import ray

    os.environ["FORECAST_CORES"] = str(share)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as scratch:
        if ray.get_runtime_context().get_node_id() != home:
            task = task.moved(Path(scratch))
        try:
            result = work(task, Path(folder), Step())
        except ForecastError as error:
            return error, {}
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        return result, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _put(files: Files, models: Path) -> None:
    """Write files to their folders ``<data set>/<version>``; each folder appears complete or not at all."""
    for dataset, version in {tuple(name.split("/", 2)[:2]) for name in files}:
        partial = models / dataset / f".half-made-{uuid.uuid4().hex}"
        prefix = f"{dataset}/{version}/"
        try:
            for name, content in files.items():
                if name.startswith(prefix):
                    path = partial / name.removeprefix(prefix)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
            for path in (*partial.rglob("*"), partial):
                flush(path)
            partial.rename(models / dataset / version)
            flush(models / dataset)
        except OSError as error:
            raise StorageError(
                "model.not_stored",
                f'cannot write the model to "{models / dataset / version}" ({error.strerror})',
                "check the disk",
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _cluster() -> Iterator[Any]:
    """Connect to the cluster, or start one here and stop it at the end; reuse an existing connection."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "cluster.not_installed", "Ray is not installed", 'pip install "forecast-service[cluster]"'
        ) from error
    if ray.is_initialized():
        yield ray
        return
    # No usage statistics; a task without GPUs keeps the CUDA_VISIBLE_DEVICES of its process.
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")):
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    where: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        if address:
            _require_listening(address)
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UnavailableError(
            "cluster.unreachable",
            f"no Ray cluster is reachable at {address or 'this machine'} ({first_line(error)})",
            "check RAY_ADDRESS and that the cluster runs the same version of Ray",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Raise ``OSError`` if the port is closed: Ray itself would wait for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _share(ray: Any) -> tuple[int, int]:
    """Return the cores per task, at most those of the largest machine, and the GPUs of the best-equipped machine."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = max(int(resources.get("CPU", 0)) for resources in machines)
    return max(min(cores(), largest), 1), int(max(resources.get("GPU", 0) for resources in machines))
