"""Twice the capacity of forecasts on demand: only status 200, 429 and 503, and admitted requests are answered in time.

``python -m benchmarks.serve.overload [HOME] [--seconds 10]``. Needs ``wrk``. Writes ``results/overload.csv``.

Clients that wait for their responses find the capacity. Then requests arrive at twice that rate, independent of
responses, without and with the default limit per key. Fails if the promise is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.results import write_rows
from benchmarks.serve import servers
from benchmarks.serve.home import bodies, make_home, make_key
from benchmarks.serve.load import Target, run_load
from benchmarks.serve.open_loop import RateResult, send_at_rate

RESULTS = Path(__file__).parent / "results"
MOST_MS = 300
_PATH = "/v1/forecasts"
_CLIENTS = 32


def main(given: Sequence[str] | None = None) -> int:
    """Measure; returns 1 if a response had another status or was late."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", nargs="?", type=Path, help="created if it does not exist")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--times", type=float, default=2.0, help="what it carries")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(given)
    rows = []
    with tempfile.TemporaryDirectory(prefix="overload-") as scratch:
        home = options.home or Path(scratch) / "home"
        if not home.exists():
            make_home(home)
        key = make_key(home)
        for limit in ("0", "500"):
            with servers.service(home, Path(scratch) / "service.log", FORECAST_RATE_PER_SECOND=limit) as ours:
                if limit == "0":
                    asked = Target(ours.port, _PATH, tuple(bodies()), key)
                    run_load(asked, _CLIENTS, 2, ours.process, Path(scratch))  # warms the service up
                    carried = run_load(asked, _CLIENTS, options.seconds, ours.process, Path(scratch)).per_second
                seen = send_at_rate(ours.port, _PATH, bodies(), key, options.times * carried, options.seconds)
            rows.append({
                "limit_per_key": int(limit),
                "carried_per_second": round(carried),
                "load_average": round(os.getloadavg()[0], 1),
                **asdict(seen),
                "per_second": round(seen.per_second),
                "admitted_per_second": round(seen.admitted),
                "statuses": json.dumps(seen.statuses),
                "is_kept": is_kept(seen),
            })  # fmt: skip
            sys.stdout.write(f"{rows[-1]}\n")
    write_rows(options.results / "overload.csv", rows)
    return 0 if all(row["is_kept"] for row in rows) else 1


def is_kept(seen: RateResult) -> bool:
    """Whether the service kept its promise under overload."""
    is_answered = set(seen.statuses) <= {200, 429, 503} and not seen.hanging and not seen.without_retry_after
    return is_answered and seen.statuses.get(200, 0) > 0 and seen.admitted_p99_ms <= MOST_MS


if __name__ == "__main__":
    sys.exit(main())
