"""How the suite runs: order of files, workers, memory; fixtures come from tests/support."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import psutil
import pytest

pytest_plugins = tuple(f"tests.support.{name}" for name in ("tiny", "champions", "postgresql", "processes", "tracking"))

LONGEST = (
    "reliability/test_kills.py", "tests/test_docs.py", "models/darts/test_promises.py", "pipelines/test_end_to_end.py",
    "models/darts/test_export.py", "api/test_hostile.py", "cli/test_jobs.py", "reliability/test_limits.py",
    "cli/test_app.py", "events/test_streams.py", "training/test_fit.py", "deploy/test_compose.py",
    "scheduling/test_worker_host.py", "dashboard/test_in_a_browser.py", "tracking/test_registry.py",
    "benchmarks/test_gpu.py", "scheduling/test_simulated_year.py", "pipelines/test_night.py", "search/test_tune.py",
    "darts/test_frame.py", "kernels/test_compiled_kernels.py", "kernels/test_interpreted_kernels.py",
)  # fmt: skip
"""Test files, the longest first: a worker must not be left alone with the last of them."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Have more workers than cores: half of the tests wait for processes of their own most of the time."""
    return 3 * (os.cpu_count() or 2) // 2


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests' files in memory where there is plenty: thousands of commits wait for a disk otherwise."""
    in_memory = Path("/dev/shm")  # noqa: S108
    if config.option.basetemp is None and in_memory.is_dir():
        room = min(shutil.disk_usage(in_memory).free, psutil.virtual_memory().available)
        if room > 12 * 2**30:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(in_memory))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    order = {name: place for place, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return min((order[name] for name in LONGEST if path.endswith(name)), default=len(LONGEST))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Let no collection of garbage walk again over the million objects that packages are made of, and have fewer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("FORECAST_", "MLFLOW_")):
            monkeypatch.delenv(name)
