"""Processes and waiting."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def command_line(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m forecast`` in a process of its own, as a user does."""

    def run(*arguments: str | Path, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "forecast", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "TERM": "dumb", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def client_python() -> Callable[[str], Path]:
    """Return the Python that has a client of another service, as `make clients` installs it."""

    root = Path(__file__).parents[2]

    def find(name: str) -> Path:
        folder, wanted = root / ".venv-clients" / name, root / "tests" / "api" / "clients" / f"{name}.txt"
        done = folder / "installed"
        is_there = done.exists() and done.read_text(encoding="utf-8") == wanted.read_text(encoding="utf-8")
        assert is_there, f'{name} is not installed as {wanted.name} says: run "make clients"'
        return folder / "bin" / "python"

    return find


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait until a condition holds; fail when it does not in time."""

    def wait(condition: Callable[[], object], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"still not so after {seconds} s"
            time.sleep(0.02)

    return wait
