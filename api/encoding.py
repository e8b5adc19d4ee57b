"""A selected part of a forecast as bytes: JSON or CSV."""

from __future__ import annotations

from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from pydantic_core import to_json

from api.issued import IssuedForecast
from api.selection import Selection
from forecast.jobs import DatasetJob
from forecast.vocabulary import Quantile


def rfc3339(time: datetime, zone: tzinfo) -> str:
    """Write a time with its offset in a zone.

    >>> rfc3339(datetime.fromisoformat("2013-11-02T02:00:00+00:00"), ZoneInfo("America/New_York"))
    '2013-11-01T22:00:00-04:00'
    """
    return time.astimezone(zone).isoformat().replace("+00:00", "Z")


def json_rest(forecast: IssuedForecast, part: Selection, job: DatasetJob) -> bytes:
    """Return the answer's JSON but for its opening brace, age and staleness, which are told anew each time."""
    issuance, zone = forecast.issuance, ZoneInfo(part.zone)
    times = [rfc3339(time, zone) for time in forecast.times(part.horizon)]
    names = [f"{issuance.quantiles[level]:g}" for level in part.levels]
    levels = list(part.levels)
    lines = []
    for s in part.series:
        for c in part.channels:
            means = forecast.mean[s, c, : part.horizon].tolist()
            rows = forecast.quantiles[s, c, : part.horizon][:, levels].tolist()
            points = [
                {
                    "time": time,
                    "lead": lead,
                    "mean": mean,
                    "quantiles": dict(zip(names, row, strict=True)),
                    "recursive": lead > issuance.horizon,
                }
                for lead, (time, mean, row) in enumerate(zip(times, means, rows, strict=True), start=1)
            ]
            channel = forecast.channels[c]
            lines.append(
                {"series": forecast.series[s], "channel": channel, "unit": job.channels[channel].unit, "points": points}
            )
    answer = {
        "dataset": issuance.dataset,
        "forecast_id": issuance.forecast_id,
        "issued_at": rfc3339(issuance.issued_at, zone),
        "origin": rfc3339(issuance.origin, zone),
        "data_version": issuance.data_version,
        "model_name": issuance.model_name,
        "model_version": issuance.model_version,
        "fallback_reason": None,
        "imputed_fraction": issuance.imputed_fraction,
        "newest_observed": rfc3339(issuance.newest_observed, zone) if issuance.newest_observed else None,
        "frequency": job.frequency,
        "horizon": part.horizon,
        "horizon_trained": issuance.horizon,
        "quantiles": [issuance.quantiles[level] for level in part.levels],
        "zone": part.zone,
        "provenance": issuance.provenance,
        "forecasts": lines,
    }
    return to_json(answer)[1:]


def with_age(rest: bytes, age: int, *, stale: bool) -> bytes:
    """Complete the JSON of an answer."""
    return b'{"age":%d,"stale":%s,' % (age, b"true" if stale else b"false") + rest


def csv(forecast: IssuedForecast, part: Selection) -> bytes:
    """Return one line per point: series, channel, time, lead, mean, one column per quantile, recursive."""
    issuance, zone = forecast.issuance, ZoneInfo(part.zone)
    leads = np.arange(1, part.horizon + 1)
    shared = {
        "time": [rfc3339(time, zone) for time in forecast.times(part.horizon)],
        "lead": leads,
        "recursive": leads > issuance.horizon,
    }
    frames = [
        pl.DataFrame(
            {
                "series": pl.repeat(forecast.series[s], part.horizon, eager=True),
                "channel": pl.repeat(forecast.channels[c], part.horizon, eager=True),
                **shared,
                "mean": forecast.mean[s, c, : part.horizon],
                **{
                    Quantile(issuance.quantiles[level]).label: forecast.quantiles[s, c, : part.horizon, level]
                    for level in part.levels
                },
            }
        )
        for s in part.series
        for c in part.channels
    ]
    return pl.concat(frames).write_csv().encode()
