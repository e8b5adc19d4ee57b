"""Load a model for the first time in a limited child process: ``python -m forecast.runtime.sandbox FOLDER DIGEST ...``.

A network is a program. One that never ends or takes all memory must not run in the service. After the child has run a
model once, the service loads the files with the same digest itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from forecast.errors import ForecastError, NotFoundError, StorageError
from forecast.runtime.manifest import MANIFEST, manifest_digest
from forecast.runtime.model import ServedModel, load

_CPU_SECONDS = 20
_WALL_SECONDS = 30
_MEMORY = 4 * 2**30
_PASSED: dict[tuple[Path, str], None] = {}
_MOST_PASSED = 1000
_turn = threading.Lock()
_SEPARATOR = "\t"
_KINDS: Mapping[str, type[ForecastError]] = {"NotFoundError": NotFoundError, "StorageError": StorageError}


def load_guarded(folder: Path, digest: str | None = None, threads: int = 0) -> ServedModel:
    """Load an exported model like ``forecast.runtime.model.load``, after a child process has loaded it within limits.

    Raises as ``load`` does, and ``model.hostile`` if the child was stopped or crashed. Blocks for about a second the
    first time, and for milliseconds from then on.
    """
    try:
        found = manifest_digest(folder)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            message = f'the folder "{folder}" has no model'
            raise NotFoundError("model.not_found", message, 'run "forecast train"') from error
        raise
    known = digest or found
    if known != found:  # another model: no child process is needed to see that
        message = f'"{folder / MANIFEST}" is not the file that was exported'
        raise StorageError("model.corrupt", message, "roll back or retrain")
    with _turn:  # one child at a time: waiting threads use its result
        if (folder, known) not in _PASSED:
            _try(folder, known)
            _pass([(folder, known)])
    return load(folder, known, threads)


def try_together(models: Iterable[tuple[Path, str]]) -> None:
    """Try several models, by folder and digest, in one child process, because most of its cost is its start.

    If the child fails, no model counts as tried: each is tried alone when it is loaded.
    """
    with _turn:
        new = [model for model in models if model not in _PASSED]
        if len(new) > 1:
            with suppress(subprocess.TimeoutExpired):
                if _child(new).returncode == 0:
                    _pass(new)


def _pass(models: Sequence[tuple[Path, str]]) -> None:
    if len(_PASSED) >= _MOST_PASSED:
        _PASSED.clear()
    _PASSED.update(dict.fromkeys(models))


def _child(models: Sequence[tuple[Path, str]]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forecast.runtime.sandbox", *(str(part) for model in models for part in model)]
    # The child gets no secret of the service, but finds the same code.
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "PYTHONPATH", "LANG", "VIRTUAL_ENV"}}
    return subprocess.run(
        command, check=False, stdout=subprocess.PIPE, text=True, timeout=_WALL_SECONDS, stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # a network can make ONNX Runtime print endless warnings
        env=kept | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _try(folder: Path, digest: str) -> None:
    try:
        done = _child([(folder, digest)])
    except subprocess.TimeoutExpired as error:
        raise _hostile(folder, f"it did not end within {_WALL_SECONDS} s") from error
    if done.returncode == 0:
        return
    kind, _, rest = done.stdout.strip().partition(_SEPARATOR)
    parts = rest.split(_SEPARATOR)
    if kind in _KINDS and len(parts) == 3:
        raise _KINDS[kind](*parts)
    raise _hostile(folder, f"its process ended with code {done.returncode}")


def _hostile(folder: Path, reason: str) -> StorageError:
    return StorageError(
        "model.hostile",
        f'the model in "{folder}" was not loaded within {_CPU_SECONDS} s and {_MEMORY // 2**30} GiB ({reason})',
        "roll back or retrain",
    )


def limit(cpu_seconds: int = _CPU_SECONDS) -> None:
    """Limit this process for good: processor time, memory, and no writes to files."""
    if os.name != "nt":
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def own_output() -> TextIO:
    """Return standard output for this process alone; the output of libraries is redirected to standard error."""
    sys.stdout.flush()
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def main() -> None:
    """Load models within limits; write the error of the first one that fails to standard output."""
    limit()
    output = own_output()
    try:
        for folder, digest in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
            load(Path(folder), digest)
    except ForecastError as error:
        output.write(_SEPARATOR.join((type(error).__name__, error.code, error.fact, error.remedy)))
        output.flush()
        sys.exit(1)


if __name__ == "__main__":
    main()
