"""Run the service on a port of this machine."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from api.app import create_app
from api.feed import Feed
from forecast.errors import ConfigError, ConflictError
from forecast.installation import Installation

_ADDRESSES = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "::1": "::1"}
_STOP_SECONDS = 5
_log = logging.getLogger("api")


def serve(installation: Installation, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until SIGINT or SIGTERM, then let running requests end.

    Raises ``serve.not_loopback`` for an address that others could reach, ``port.taken`` if somebody listens there.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with listen(host, port) as listener, _quiet_signals():
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        _log.info("serving %s at %s", installation.home.path, address)
        server(installation).run(sockets=[listener])
        _log.info("stopped")


def server(installation: Installation) -> uvicorn.Server:
    """Return a server that is not running yet; it is given its socket when it is run."""
    app = create_app(installation)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    return _Server(config, app.state.service.feed)


class _Server(uvicorn.Server):
    """A server whose streams end when it is asked to stop: each would otherwise be waited for."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let streams end, then what else is running."""
        self._feed.close()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Take a port of this machine; 0 takes any free one. It is held from here on."""
    address = _loopback(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1024)
    except OverflowError:
        listener.close()
        raise ConfigError(
            "port.out_of_range", f"port {port} is not between 0 and 65535", "choose another with --port"
        ) from None
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConflictError(
                "port.taken", f"somebody listens on port {port} already", "stop it, or choose another port with --port"
            ) from error
        raise ConfigError(
            "port.refused", f"cannot listen on {host} port {port} ({error.strerror})", "choose another port with --port"
        ) from error
    return listener


def _loopback(host: str) -> str:
    if host not in _ADDRESSES:
        raise ConfigError(
            "serve.not_loopback",
            f'"{host}" is not this machine alone, and the service has no keys to tell users apart yet',
            "serve on 127.0.0.1, and put a proxy that authenticates in front",
        )
    return _ADDRESSES[host]


@contextmanager
def _quiet_signals() -> Iterator[None]:
    # uvicorn raises the signal that stopped it once more when it is done; who was asked to stop has succeeded.
    def ignore(_number: int, _frame: FrameType | None) -> None:
        pass

    previous = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
