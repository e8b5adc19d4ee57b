"""Files at an address (``http(s)://``, ``s3://``, ``gs://``, ``az://``), downloaded one by one to a temporary file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.callbacks import Callback
from fsspec.exceptions import FSTimeoutError

from forecast.config.sources import FilesSource
from forecast.errors import (
    ConfigError,
    ForecastError,
    NotFoundError,
    StorageError,
    UnavailableError,
    first_line,
    nearest,
)
from forecast.vocabulary import parse_duration
from pipelines.sources.compression import too_large

_EXTRAS = {"http": "http", "https": "http", "s3": "s3", "gs": "gs", "az": "az"}
"""Optional dependency that installs the client, by scheme."""


def at_address(
    place: FilesSource, skipped: Callable[[str], bool]
) -> Iterator[tuple[str, contextlib.AbstractContextManager[Path]]]:
    """Yield the files at an address by name; entering a file's context downloads it. ``skipped`` files are left out.

    Raises ``source.unknown_scheme``, ``.extra_missing``, ``.no_files``, ``.not_found``, ``.not_fetched``, ``.timeout``
    and ``.too_large``.
    """
    store = _store(place)
    paths = _listed(store, place, skipped) if place.is_many else [place.path]
    for path in paths:
        name = unquote(PurePosixPath(urlsplit(path).path if "://" in path else path).name)
        yield name, _fetched(store, path, name, place)


def without_secrets(address: str) -> str:
    """Return an address without user, password, query and fragment.

    >>> without_secrets("https://me:secret@example.org/rows.csv?token=secret")
    'https://example.org/rows.csv'
    """
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _store(place: FilesSource) -> AsyncFileSystem:
    scheme = place.path.partition("://")[0]
    if scheme not in _EXTRAS:
        raise ConfigError(
            "source.unknown_scheme", f'the scheme "{scheme}://" is not supported', nearest(scheme, _EXTRAS)
        )
    try:
        if _EXTRAS[scheme] == "http":
            import aiohttp

            whole = aiohttp.ClientTimeout(total=_seconds(place))
            return fsspec.filesystem(scheme, client_kwargs={"timeout": whole})
        return fsspec.filesystem(
            scheme, skip_instance_cache=True
        )  # a cached instance would keep listings and credentials
    except ImportError as error:
        raise ConfigError(
            "source.extra_missing",
            f'reading from "{scheme}://" needs a package that is not installed ({error})',
            f'run: pip install "forecast-service[{_EXTRAS[scheme]}]"',
        ) from error


def _listed(store: AsyncFileSystem, place: FilesSource, skipped: Callable[[str], bool]) -> list[str]:
    pattern = place.path + "*" * place.path.endswith("/")
    found: dict[str, dict[str, Any]] = _within_time(partial(store._glob, pattern, detail=True), store, place)  # noqa: SLF001  # fsspec's names for the same as coroutines
    paths = sorted(path for path, info in found.items() if info["type"] == "file")
    paths = [path for path in paths if not skipped(PurePosixPath(path).name)]
    if not paths:
        raise NotFoundError("source.no_files", f'no file matches "{pattern}"', "correct source.path in the config file")
    return paths


@contextlib.contextmanager
def _fetched(store: AsyncFileSystem, path: str, name: str, place: FilesSource) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="forecast-") as folder:
        file = Path(folder) / "fetched"
        get = partial(store._get_file, path, str(file), callback=_Cap(name, place.max_bytes))  # noqa: SLF001
        _within_time(get, store, place)
        yield file


class _Cap(Callback):  # type: ignore[misc]  # fsspec has no types
    """A callback for the size and every part of a download; raises ``source.too_large`` beyond the limit."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__()
        self._name, self._limit = name, limit

    def call(self, *_: Any, **__: Any) -> None:
        if max(self.size or 0, self.value) > self._limit:
            raise too_large(self._name, self._limit)


def _within_time(ask: Callable[[], Any], store: AsyncFileSystem, place: FilesSource) -> Any:
    shown = without_secrets(place.path)
    try:
        return sync(store.loop, ask, timeout=_seconds(place))
    except ForecastError:
        raise
    except FileNotFoundError as error:
        raise NotFoundError(
            "source.not_found", f'"{shown}" does not exist', "correct source.path in the config file"
        ) from error
    except (FSTimeoutError, TimeoutError) as error:
        raise UnavailableError(
            "source.timeout",
            f'"{shown}" was not downloaded within {place.timeout}',
            "try again or raise source.timeout",
        ) from error
    except Exception as error:  # the client of each kind of store raises errors of its own
        status = getattr(error, "status", None)  # the error's text may hold the query, and so a key
        message = f"status {status}" if status else f"{type(error).__name__}: {first_line(error)}"
        raise StorageError(
            "source.not_fetched",
            f'cannot download "{shown}" ({_redacted(message, place.path)})',
            "check the address, the network and the credentials in the environment",
        ) from error


def _redacted(message: str, address: str) -> str:
    parts = urlsplit(address)
    for secret in (parts.query, parts.password):
        message = message.replace(secret, "...") if secret else message
    return message


def _seconds(place: FilesSource) -> float:
    return parse_duration(place.timeout).total_seconds()
