"""Run the service on a port."""

from __future__ import annotations

import errno
import gc
import ipaddress
import logging
import os
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import Receive, Scope, Send

from api.app import create_app
from api.asgi.deadlines import protocol_of
from api.errors import problems
from api.errors.kinds import BUSY
from api.limits import Exposure, Limits
from api.observability import logs
from api.service import Service
from api.state.event_feed import Feed
from forecast.clock import SystemClock
from forecast.errors import ConfigError, ConflictError
from forecast.installation import Installation
from forecast.ledger import Ledger

_STOP_SECONDS = 5
_OPEN_FILES = 4096
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_log = logging.getLogger("api")


def serve(
    installation: Installation, host: str = "127.0.0.1", port: int = 8000, allowed_hosts: Sequence[str] = ()
) -> None:
    """Serve until SIGINT or SIGTERM, then wait for running requests.

    Raises what :func:`exposure_of` raises, and ``port.taken`` if another process uses the port.
    """
    logs.configure()
    _open_more_files()
    exposure = exposure_of(host, allowed_hosts, installation.ledger)
    with listen(host, port) as listener, _quiet_signals():
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        _log.info("serving %s at %s", installation.home.path, address)
        made = server(installation, exposure=exposure)
        gc.collect()
        gc.freeze()  # these objects live as long as the process: no request waits for a collection that visits them
        made.run(sockets=[listener])
        _log.info("stopped")


def server(
    installation: Installation, limits: Limits | None = None, exposure: Exposure | None = None
) -> uvicorn.Server:
    """Return a server that is not running yet; ``run`` receives its socket."""
    app = create_app(installation, limits, exposure)
    service: Service = app.state.service
    proxies = os.environ.get("FORECAST_TRUSTED_PROXIES", "")

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        service.metrics.refused("service.busy")
        await problems.answer(BUSY)(scope, receive, send)

    config = uvicorn.Config(
        app,
        http=protocol_of(service.limits, service.admission, busy),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Only a trusted proxy's headers for scheme and sender are used: any other client could forge its address.
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies or None,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    return _Server(config, service.feed)


class _Server(uvicorn.Server):
    """Ends all event streams when it stops: otherwise uvicorn would wait for each of them."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then shut down."""
        self._feed.close()
        await super().shutdown(sockets)


def exposure_of(host: str, allowed_hosts: Sequence[str], ledger: Ledger) -> Exposure:
    """Return the exposure of an address.

    An address beyond loopback requires a key and exact host names. Raises ``serve.no_keys``, ``serve.no_hosts``,
    ``serve.not_an_address`` and ``serve.malformed_host``.
    """
    names = [name for given in allowed_hosts for name in given.lower().split(",") if name]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "serve.malformed_host", "an allowed host is not an exact name", "write it like forecast.example.org"
            )
    address = _address(host)
    if address.is_loopback:
        return Exposure(beyond_loopback=False, hosts=frozenset({*names, _in_header(address)}))
    now = SystemClock().now()
    if not any(key.is_valid(now) for key in ledger.keys.all()):
        raise ConfigError(
            "serve.no_keys",
            f'"{host}" is reachable from other machines, and no valid key exists',
            'create one with "forecast keys create NAME --scope admin", or serve on 127.0.0.1',
        )
    if address.is_unspecified and not names:
        raise ConfigError(
            "serve.no_hosts",
            f'"{host}" listens on every address, and no host name is allowed',
            "allow a name with --allowed-host or FORECAST_ALLOWED_HOSTS",
        )
    return Exposure(beyond_loopback=True, hosts=frozenset(names or {_in_header(address)}))


def listen(host: str, port: int) -> socket.socket:
    """Bind a port and return its listening socket; 0 chooses a free port."""
    address = str(_address(host))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # on Windows it would let two servers share a port
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
                "port.taken",
                f"port {port} is already in use",
                "stop the other process, or choose another port with --port",
            ) from error
        raise ConfigError(
            "port.refused", f"cannot listen on {host} port {port} ({error.strerror})", "choose another port with --port"
        ) from error
    return listener


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ConfigError(
            "serve.not_an_address", f'"{host}" is not an address of this machine', "serve on 127.0.0.1 or 0.0.0.0"
        ) from None


def _in_header(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _open_more_files() -> None:
    """Raise the limit of open files: the usual 1024 are fewer than a flood of idle connections."""
    if os.name == "nt":
        return
    import resource  # does not exist on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def _quiet_signals() -> Iterator[None]:
    # uvicorn raises the signal again after it has stopped: stopping on request is a success, not a failure.
    def ignore(_number: int, _frame: FrameType | None) -> None:
        pass

    previous = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
