"""A home with a year of hourly rows of 50 channels, and a forecast of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from rich.console import Console

CHANNELS = tuple(f"load_{number}" for number in range(50))
ROWS = 8760
_START = datetime(2024, 1, 1, tzinfo=UTC)
_JOB = """
[datasets.year]
frequency = "1h"
series = ""
horizons = [24, 168]
quantiles = [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975]
lookback = 168
season = 168
models = ["seasonal_naive"]
source = { kind = "csv", path = "rows.csv" }
training = { baselines = [] }
[datasets.year.channels]
"""


def make_home(folder: Path) -> None:
    """Write the rows, train, and issue a forecast; an existing home is left unchanged."""
    import polars as pl

    from forecast.installation import Installation
    from forecast.progress import Reporter
    from pipelines.forecasting.issue import issue
    from pipelines.ingestion.ingest import ingest
    from pipelines.retrain import retrain

    if (folder / "forecast.toml").exists():
        return
    folder.mkdir(parents=True)
    random, hours = np.random.default_rng(0), np.arange(ROWS)
    week = 5 * np.sin(hours / 84 * np.pi)
    values = {
        name: 50 + 10 * np.sin((hours + 3 * at) / 12 * np.pi) + week + random.normal(0, 2, ROWS)
        for at, name in enumerate(CHANNELS)
    }
    times = [(_START + timedelta(hours=int(hour))).strftime("%Y-%m-%d %H:%M:%S") for hour in hours]
    pl.DataFrame({"time": times, **values}).write_csv(folder / "rows.csv")
    lines = "".join(f'{name} = {{ role = "target", unit = "MW" }}\n' for name in CHANNELS)
    (folder / "forecast.toml").write_text(_JOB + lines, "utf-8")
    installation = Installation.open(folder)
    ingest(installation.dataset("year"))
    retrain(installation.dataset("year"), Reporter(Console(quiet=True)))
    issue(installation.dataset("year"))
