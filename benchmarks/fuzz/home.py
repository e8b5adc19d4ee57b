"""A home with rows pushed over REST, a champion from a real training, and its forecast."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import polars as pl

from benchmarks.reliability.home import rows
from forecast.clock import SystemClock
from forecast.installation import Installation
from forecast.ledger.keys import Key, Scope, mint

_HOURS = 1_000
_JOB_FILE = """
[datasets.tiny]
source = { kind = "push" }
frequency = "1h"
series = "site"
horizons = [6, 24]
lookback = 48
season = 24
models = ["seasonal_naive"]
splits = { validation = "3d", calibration = "3d", holdout = "3d" }
channels.load = { role = "target", unit = "MW", lower = 0 }
channels.price = { role = "target", unit = "EUR/MWh" }
channels.wind = { role = "past", unit = "m/s" }
"""


def make_home(folder: Path) -> tuple[Installation, str]:
    """Write a home without rows; returns it and an admin key."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "forecast.toml").write_text(_JOB_FILE, encoding="utf-8")
    installation = Installation.open(folder)
    key_id, key, digest = mint()
    installation.ledger.keys.add(Key(key_id, "fuzz", digest, Scope.ADMIN, (), SystemClock().now(), None))
    return installation, key


def fill(installation: Installation, client: httpx.Client) -> None:
    """Push rows, train a champion and issue a forecast, with a former champion in the ledger for a rollback."""
    frame = rows(_HOURS).with_columns(pl.col("time").dt.to_string("iso:strict"))
    client.post("/v1/datasets/tiny/observations", json=frame.to_dict(as_series=False)).raise_for_status()
    _run("train", installation)
    champion = installation.ledger.champions.current("tiny")
    if champion is None:
        raise RuntimeError("nothing was promoted")
    installation.ledger.champions.promote(replace(champion, model_version=f"{champion.model_version}-before"))
    installation.ledger.champions.promote(champion)
    _run("forecast", installation)


def _run(command: str, installation: Installation) -> None:
    line = [sys.executable, "-m", "forecast", command, "tiny", "--home", str(installation.home.path)]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
