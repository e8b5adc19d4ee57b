"""The rolling forecast: for each time, the value that was issued a fixed lead before it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
from pydantic_core import to_json

from api.forecasts.encoding import encoded, rfc3339
from api.forecasts.selection import instant, levels, places, zone
from api.requests.negotiation import JSON
from api.schemas.forecasts import ForecastQuery
from api.service import Service
from forecast.config.dataset import DatasetConfig
from forecast.errors import ConfigError, NotFoundError
from forecast.installation import Dataset
from forecast.ledger.issuance import Issuance
from forecast.vocabulary import MAX_HORIZON, PLAUSIBLE, Quantile, parse_duration

_FIRST, _LAST = PLAUSIBLE
_MOST_ORIGINS = 10_000


def rolling_answer(dataset: Dataset, query: ForecastQuery, service: Service, media: str) -> bytes:
    """Return the encoded rolling forecast of a query. Blocks: call it in a thread.

    Of forecasts reissued from the same rows the newest counts. Raises ``lead_time.malformed``,
    ``lead_time.not_a_step``, ``parameter.not_with_lead_time``, ``forecast.none_at_lead``.
    """
    config = dataset.config
    if query.horizon is not None:
        raise ConfigError("parameter.not_with_lead_time", "horizon has no effect with lead_time", "leave it out")
    lead = _steps(query.lead_time or "", config)
    begin = instant(query.start, "start") or _FIRST
    end = instant(query.end, "end") or _LAST
    shift = config.step * (lead - 1)  # from a forecast's origin to the time of its step
    ledger = service.installation.ledger
    found = ledger.issuances.between(
        dataset.name, max(begin, _FIRST) - shift, min(end, _LAST) - shift - timedelta(microseconds=1),
        as_of=instant(query.as_of), model=query.model, limit=_MOST_ORIGINS,
    )  # fmt: skip
    issued = {one.forecast_id: one for one in found if one.horizon >= lead}
    rows = dataset.forecasts.at_lead(lead, {name: one.issued_at for name, one in issued.items()})
    if rows.is_empty():
        raise NotFoundError(
            "forecast.none_at_lead",
            f"no forecast was issued {query.lead_time} before a time of the range",
            "request another range or a shorter lead_time",
        )
    trained = found[-1].quantiles
    chosen = levels(query.quantiles, trained)
    series = sorted(rows["series"].unique())
    present = set(rows["channel"].unique())
    channels = [name for name in config.targets if name in present]
    keep_series = [series[place] for place in places(query.series, series, "series")]
    keep_channels = [channels[place] for place in places(query.channels, channels, "channel")]
    zone_name = zone(query.tz).key
    rows = _selected(rows, issued, trained, chosen, keep_series, keep_channels)
    if media != JSON:
        return encoded(rows.with_columns(pl.col("time", "issued_at").dt.convert_time_zone(zone_name)), media)
    head = {
        "dataset": dataset.name,
        "lead_time": query.lead_time,
        "lead": lead,
        "frequency": config.frequency,
        "quantiles": [trained[place] for place in chosen],
        "zone": zone_name,
    }
    return to_json(
        head | {"forecasts": _lines(rows, config, [trained[place] for place in chosen], ZoneInfo(zone_name))}
    )


def _steps(text: str, config: DatasetConfig) -> int:
    try:
        duration = parse_duration(text)
    except ConfigError:
        raise ConfigError("lead_time.malformed", "lead_time is not a duration", "write it like 24h") from None
    lead, rest = divmod(duration, config.step)
    if lead > MAX_HORIZON:
        raise ConfigError(
            "lead_time.out_of_range", f"lead_time exceeds {MAX_HORIZON} steps", "request a shorter lead_time"
        )
    if rest or lead < 1:
        raise ConfigError(
            "lead_time.not_a_step",
            f"lead_time is not a multiple of {config.frequency}",
            f"request a multiple of {config.frequency}",
        )
    return lead


def _selected(
    rows: pl.DataFrame,
    issued: dict[str, Issuance],
    trained: tuple[float, ...],
    chosen: tuple[int, ...],
    series: list[str],
    channels: list[str],
) -> pl.DataFrame:
    """Return a row per series, channel and time, in the requested order, with a column per quantile."""
    about = pl.DataFrame(
        {
            "forecast_id": list(issued),
            "issued_at": pl.Series([one.issued_at for one in issued.values()], dtype=pl.Datetime("us", "UTC")),
            "model_version": [one.model_version for one in issued.values()],
        }
    )
    same = rows.filter(pl.col("quantiles").list.len() == len(trained))  # other models may have other levels
    quantiles = [pl.col("quantiles").list.get(place).alias(Quantile(trained[place]).label) for place in chosen]
    order = (pl.col(name).cast(pl.Enum(known)) for name, known in (("series", series), ("channel", channels)))
    return (
        same.filter(pl.col("series").is_in(series), pl.col("channel").is_in(channels))
        .join(about, on="forecast_id", how="left", maintain_order="left")
        .sort(*order, "time")
        .select("series", "channel", "time", "mean", *quantiles, "forecast_id", "issued_at", "model_version")
    )


def _lines(
    rows: pl.DataFrame, config: DatasetConfig, levels_of_answer: list[float], in_zone: ZoneInfo
) -> list[dict[str, Any]]:
    names = [f"{level:g}" for level in levels_of_answer]
    labels = [Quantile(level).label for level in levels_of_answer]
    lines = []
    for (series, channel), part in rows.group_by("series", "channel", maintain_order=True):
        values = zip(*[part[label].to_list() for label in labels], strict=True)
        points = [
            {
                "time": rfc3339(time, in_zone),
                "mean": mean,
                "quantiles": dict(zip(names, quantiles, strict=True)),
                "forecast_id": identifier,
                "issued_at": rfc3339(at, in_zone),
                "model_version": version,
            }
            for time, mean, quantiles, identifier, at, version in zip(
                part["time"], part["mean"], values, part["forecast_id"], part["issued_at"], part["model_version"],
                strict=True,
            )
        ]  # fmt: skip
        lines.append(
            {"series": series, "channel": channel, "unit": config.channels[str(channel)].unit, "points": points}
        )
    return lines
