"""Load from ``wrk``, a process of its own: requests per second, and how long answers take."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SCRIPT = """
local bodies, turn = {{}}, 0
{bodies}
local head = {{{head}}}
request = function()
  turn = turn % math.max(#bodies, 1) + 1
  return wrk.format("{method}", nil, head, bodies[turn])
end
done = function(summary, latency, _)
  local failed = summary.errors
  io.stderr:write(string.format(
    '{{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"failed":%d}}\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of one server."""

    port: int
    path: str
    bodies: tuple[bytes, ...] = ()
    """Sent in turn by POST; without any it is GET."""
    key: str = ""

    def script(self) -> str:
        """Return it as wrk's script."""
        headers = {"Content-Type": "application/json"} if self.bodies else {}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        message = "\n".join(f"bodies[{place}] = [==[{body.decode()}]==]" for place, body in enumerate(self.bodies, 1))
        head = ", ".join(f'["{name}"] = "{value}"' for name, value in headers.items())
        return _SCRIPT.format(bodies=message, head=head, method="POST" if self.bodies else "GET")


@dataclass(frozen=True, slots=True)
class Answered:
    """What one stretch of load saw."""

    per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float
    """Processor time of the server's process, by request."""


def stretch(asked: Asked, clients: int, seconds: int, server: psutil.Process, scratch: Path) -> Answered:
    """Ask as fast as answers come, from so many connections; raises if one request fails."""
    script = scratch / "load.lua"
    script.write_text(asked.script(), encoding="utf-8")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script)]
    spent = _spent(server)
    ran = subprocess.run(
        [*command, f"http://127.0.0.1:{asked.port}{asked.path}"], capture_output=True, text=True, check=True
    )
    spent = _spent(server) - spent
    message: Mapping[str, int] = json.loads(ran.stderr.splitlines()[-1])
    if message["failed"] or not message["requests"]:
        raise RuntimeError(
            f"{message['failed']} of {message['requests']} requests to {asked.path} failed: {ran.stdout}"
        )
    return Answered(
        per_second=1e6 * message["requests"] / message["microseconds"],
        p50_ms=message["p50"] / 1000,
        p99_ms=message["p99"] / 1000,
        server_cpu_ms=1000 * spent / message["requests"],
    )


def in_turns(
    sides: Mapping[str, tuple[Asked, psutil.Process]], clients: int, seconds: int, rounds: int, scratch: Path
) -> dict[str, Sequence[Answered]]:
    """Load several servers in turns, so that a slow minute hits all of them; the first turn only warms them."""
    message: dict[str, list[Answered]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, (asked, server) in sides.items():
            seen = stretch(asked, clients, seconds if turn else 1, server, scratch)
            if turn:
                message[name].append(seen)
    return dict(message)


def is_there() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


def _spent(server: psutil.Process) -> float:
    processes = [server, *server.children(recursive=True)]
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))
