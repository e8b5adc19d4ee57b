"""Limits of requests, and the addresses of the service: process settings from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from forecast.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one serving process; each field is set by ``FORECAST_`` and its name in capitals."""

    max_body_mib: int = 64
    """Size limit of a body, compressed or not."""
    body_seconds: int = 60
    """Deadline for a whole body."""
    header_seconds: int = 10
    """Deadline for the headers of a request."""
    write_seconds: int = 60
    """Time after which a client that does not read its answer is disconnected."""
    max_connections: int = 2000
    max_requests: int = 256
    """Concurrent requests; others wait."""
    max_requests_per_route: int = 128
    max_forecasts: int = 24
    """Concurrent forecasts on demand, per route: each takes a core, and more would only delay each other."""
    max_waiting: int = 32
    """Requests that wait for admission; more are refused at once."""
    wait_milliseconds: int = 250
    """Time that a request waits for admission before it is refused."""
    rate_per_second: int = 500
    """Average requests that one key (without a key: one address) may send; 0: no limit."""
    rate_burst: int = 1000
    """Requests that one key or address may send at once."""
    session_hours: int = 12
    """Lifetime of a browser session."""

    @property
    def max_body(self) -> int:
        """Bytes of a body, compressed or not."""
        return self.max_body_mib * 2**20

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the limits that are set; raises ``limits.malformed``."""
        given = {}
        for field in fields(cls):
            name = f"FORECAST_{field.name.upper()}"
            text = environment.get(name, "")
            least = 0 if field.name in {"rate_per_second", "max_waiting"} else 1
            if text and not (text.isascii() and text.isdecimal() and least <= int(text[:10]) <= 10**6):
                raise ConfigError(
                    "limits.malformed",
                    f"{name} is not a whole number from {least} to 1,000,000",
                    f"unset it, or set it to {field.default}",
                )
            if text:
                given[field.name] = int(text)
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Exposure:
    """The addresses and names by which the service can be reached."""

    beyond_loopback: bool = False
    hosts: frozenset[str] = frozenset()
    """Names in addition to those of the loopback addresses, in lower case, without a port."""
