"""A small home with many events: a replay whose fast clock starts jobs, and a data set that clients push rows to."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

SERIES = ("east", "west")
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
REPLAYED, PUSHED = "tiny", "pushed"
BEGINS = 400
"""Hours of rows before the start of the replay."""
ROLLING, ROUNDS, BY_HAND, NIGHTLY = "rolling", "rounds", "by-hand", "nightly"
_JOBS = """
[datasets.tiny]
source = {{ kind = "replay", path = "rows.parquet", start = {start}, speed = {speed} }}
{columns}
[datasets.pushed]
source = {{ kind = "push" }}
{columns}
[jobs.rolling]
dataset = "tiny"
steps = ["ingest", "forecast"]
cron = "0 * * * *"
backoff = "1s"
retries = 3

[jobs.rounds]
dataset = "tiny"
steps = ["forecast"]
cron = "0 */6 * * *"
catch_up = "each"
backoff = "1s"
retries = 2

[jobs.by-hand]
dataset = "tiny"
steps = ["ingest", "forecast"]
backoff = "1s"
retries = 2

[jobs.nightly]
dataset = "tiny"
steps = ["retrain"]
backoff = "1s"
retries = 20
"""
_COLUMNS = """frequency = "1h"
series = "site"
horizons = [6, 24]
lookback = 48
season = 24
models = {models}
splits = { validation = "3d", calibration = "3d", holdout = "3d" }
channels.load = { role = "target", unit = "MW", lower = 0 }
channels.price = { role = "target", unit = "EUR/MWh" }
channels.wind = { role = "past", unit = "m/s" }
"""


def make_home(
    folder: Path, hours: int = 4_000, speed: float = 1_800.0, models: tuple[str, ...] = ("seasonal_naive",)
) -> Path:
    """Write the config file and the rows of the replay; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    start = (EPOCH + timedelta(hours=BEGINS)).replace(tzinfo=None)
    columns = _COLUMNS.replace("{models}", str(list(models)))
    jobs = _JOBS.format(start=start.isoformat(), speed=speed, columns=columns)
    (folder / "forecast.toml").write_text(jobs, encoding="utf-8")
    rows(hours).write_parquet(folder / "rows.parquet")
    return folder


def rows(hours: int, first: int = 0) -> pl.DataFrame:
    """Return rows of all series from an hour on, with daily seasons; the same hours always give the same rows."""
    hour = np.arange(first, first + hours)
    times = [EPOCH.replace(tzinfo=None) + timedelta(hours=int(number)) for number in hour]
    noise = np.random.default_rng(first).normal(size=(len(SERIES), 3, hours))
    return pl.concat(
        pl.DataFrame({
            "time": pl.Series(times, dtype=pl.Datetime("us")),
            "site": [name] * hours,
            "load": 50 + 10 * number + 20 * np.sin(2 * np.pi * hour / 24) + 3 * noise[number, 0],
            "price": 30 + 5 * np.cos(2 * np.pi * hour / 24) + noise[number, 1],
            "wind": 5 + np.abs(noise[number, 2]),
        })
        for number, name in enumerate(SERIES)
    )  # fmt: skip
