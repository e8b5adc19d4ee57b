"""Requests at a rate, independent of responses: ``python -m benchmarks.serve.open_loop PORT PATH RATE SECONDS KEY``.

Runs in a process of its own. Reads bodies from standard input, one per line; prints each response as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

_PATIENCE = 10.0
"""Seconds after the last request; a request without a response by then counts as hanging."""


@dataclass(frozen=True, slots=True)
class RateResult:
    """Measurements of one interval at a fixed rate."""

    per_second: float
    """Requests sent."""
    statuses: dict[int, int]
    hanging: int
    """Requests without a complete response, 10 s after the last request or because the connection was closed."""
    without_retry_after: int
    """Refusals without Retry-After."""
    admitted_p50_ms: float
    admitted_p99_ms: float
    """Latency from the scheduled time of a request, so that a late generator counts against the server."""
    refused_p99_ms: float
    late_p99_ms: float
    """Delay of requests behind their schedule: the delay of the generator and its connections."""

    @property
    def admitted(self) -> float:
        """Responses with status 200 per second."""
        return self.per_second * self.statuses.get(200, 0) / max(1, sum(self.statuses.values()) + self.hanging)


def send_at_rate(port: int, path: str, bodies: Sequence[bytes], key: str, rate: float, seconds: float) -> RateResult:
    """Send requests at a rate from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serve.open_loop", str(port), path, str(rate), str(seconds), key]
    ran = subprocess.run(command, input=b"\n".join(bodies), stdout=subprocess.PIPE, check=True)
    report = json.loads(ran.stdout)
    answers = [(int(status), float(ms), bool(retry)) for status, ms, retry in report["answers"]]
    counts = Counter(status for status, _, _ in answers)
    admitted = [ms for status, ms, _ in answers if status == 200]
    refused = [ms for status, ms, _ in answers if status != 200]
    return RateResult(
        per_second=report["sent"] / report["seconds"],
        statuses=dict(sorted(counts.items())),
        hanging=report["sent"] - len(answers),
        without_retry_after=sum(status != 200 and not retry for status, _, retry in answers),
        admitted_p50_ms=_percentile(admitted, 50),
        admitted_p99_ms=_percentile(admitted, 99),
        refused_p99_ms=_percentile(refused, 99),
        late_p99_ms=_percentile(report["late"], 99),
    )


def _percentile(values: list[float], share: float) -> float:
    return round(float(np.percentile(values, share)), 1) if values else 0.0


class _Connection(asyncio.Protocol):
    """A persistent connection with one request at a time."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._read = b""
        self._due = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(transport)
        self._transport = transport

    def ask(self, request: bytes, due: float) -> None:
        """Send a request with its scheduled time."""
        self._due, self._read = due, b""
        self._load.late.append(round(1000 * (time.perf_counter() - due), 2))
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        if len(body) >= int(headers[b"content-length"]):
            status = int(lines[0].split(b" ")[1])
            ms = 1000 * (time.perf_counter() - self._due)
            self._load.answers.append((status, round(ms, 2), b"retry-after" in headers))
            self._load.news.set()
            if headers.get(b"connection") == b"close":
                return
            self._load.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self in self._load.idle:
            self._load.idle.remove(self)


class _Load:
    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port = port
        self._requests = requests
        self.idle: list[_Connection] = []
        self.answers: list[tuple[int, float, bool]] = []
        self.late: list[float] = []
        self.news = asyncio.Event()

    async def run(self, rate: float, seconds: float) -> dict[str, object]:
        """Send requests at equal intervals; late ones are sent at once."""
        tasks, count, begin = set(), int(rate * seconds), time.perf_counter()
        for number in range(count):
            due = begin + number / rate
            await asyncio.sleep(max(0, due - time.perf_counter()))  # responses are read even if requests are late
            request = self._requests[number % len(self._requests)]
            if self.idle:
                self.idle.pop().ask(request, due)
            else:
                task = asyncio.create_task(self._connected(request, due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        took = time.perf_counter() - begin
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_answered(count), _PATIENCE)
        return {"sent": count, "seconds": took, "answers": self.answers, "late": self.late}

    async def _all_answered(self, count: int) -> None:
        while len(self.answers) < count:
            self.news.clear()
            await self.news.wait()

    async def _connected(self, request: bytes, due: float) -> None:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self), "127.0.0.1", self._port
        )
        connection.ask(request, due)


def main() -> None:
    """Send the requests of the command line."""
    port, path, rate, seconds, key = sys.argv[1:]
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    requests = [
        f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in sys.stdin.buffer.read().splitlines()
    ]
    json.dump(asyncio.run(_Load(int(port), requests).run(float(rate), float(seconds))), sys.stdout)


if __name__ == "__main__":
    main()
