"""Fuzz every route of a service in a separate process. Writes one row per route into results/.

python -m benchmarks.fuzz --requests 100000

Fails if a response violates the document or takes over 5 s, if fewer than 30 % of a route's requests succeed, or if the
service's memory grows by more than 20 % after the first tenth of the requests.
"""

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from benchmarks.fuzz.fuzzer import LONGEST_SECONDS, Fuzzer, Tally
from benchmarks.fuzz.home import fill, make_home
from benchmarks.reliability.fleet import Fleet, wait_for

RESULTS = Path(__file__).parent / "results"
MOST_GROWTH = 0.2
_ROUNDS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; returns 1 after any failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000, help="over all routes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        installation, key = make_home(Path(folder))
        with Fleet(Path(folder), FORECAST_RATE_PER_SECOND="0") as fleet:
            fleet.start("serve")
            address = f"http://127.0.0.1:{fleet.port}"
            headers = {"Authorization": f"Bearer {key}"}
            with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False) as client:
                wait_for(lambda: _answers(client, "/healthz"), "the service")
                fill(installation, client)
                wait_for(lambda: _answers(client, "/readyz"), "the forecast")
            service = psutil.Process(fleet.pid("serve"))
            fuzzer = Fuzzer(address, key, installation.home, options.seed)
            memory = _rounds(fuzzer, options.requests, service)
            fuzzer.close()
    growth = memory[-1] / memory[0] - 1
    _write(options.results / "routes.csv", fuzzer.tallies)
    for (label, kind), message in fuzzer.wrong.items():
        sys.stderr.write(f"{label}: {kind}\n{message}\n\n")
    for label, share in fuzzer.too_few_successes().items():
        sys.stderr.write(f"{label}: only {share:.0%} succeeded\n")
    asked = sum(tally.requests for tally in fuzzer.tallies.values())
    longest = max(tally.longest for tally in fuzzer.tallies.values())
    sys.stdout.write(
        f"{asked} requests to {len(fuzzer.tallies)} routes in {time.monotonic() - begun:.0f} s, "
        f"{len(fuzzer.wrong)} kinds wrong; longest {longest:.2f} s; "
        f"memory {memory[0] / 2**20:.0f} to {memory[-1] / 2**20:.0f} MiB ({growth:+.1%})\n"
    )
    is_sound = (
        not fuzzer.wrong and not fuzzer.too_few_successes() and longest <= LONGEST_SECONDS and growth <= MOST_GROWTH
    )
    return 0 if is_sound else 1


def _rounds(fuzzer: Fuzzer, wanted: int, service: psutil.Process) -> list[int]:
    """Send requests in rounds; returns the resident bytes after each. The first round fills the caches."""
    routes = sum(1 for _ in fuzzer.operations())
    memory = []
    for number in range(1, _ROUNDS + 1):
        fuzzer.run(max(1, -(-wanted // (routes * _ROUNDS))))
        memory.append(service.memory_info().rss)
        sys.stderr.write(f"round {number} of {_ROUNDS}: {memory[-1] / 2**20:.0f} MiB, {len(fuzzer.wrong)} wrong\n")
    return memory


def _answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def _write(path: Path, tallies: Mapping[str, Tally]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["route", "requests", "success", "longest_seconds", "statuses"])
        for label, tally in tallies.items():
            statuses = " ".join(f"{status}:{count}" for status, count in sorted(tally.statuses.items()))
            writer.writerow([label, tally.requests, round(tally.success, 3), round(tally.longest, 3), statuses])


if __name__ == "__main__":
    sys.exit(main())
