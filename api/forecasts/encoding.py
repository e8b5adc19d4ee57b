"""Encode a selected part of a forecast as JSON, CSV, an Arrow stream or Parquet."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import polars as pl
from pydantic_core import to_json

from api.forecasts.selection import Selection
from api.requests.negotiation import ARROW, CSV, JSON, PARQUET
from api.schemas.forecasts import ForecastAnswer
from api.state.issued import IssuedForecast
from forecast.config.dataset import DatasetConfig
from forecast.vocabulary import Quantile

LONG_POINTS = 5_000
"""More points than this are encoded in a thread: it takes so long that other requests would notice."""


_HEAD = tuple(name for name in ForecastAnswer.model_fields if name not in {"age", "stale", "forecasts"})
"""Fields before the forecasts: of the request, or columns of the issuance under the same name."""


def rfc3339(time: datetime, zone: tzinfo) -> str:
    """Write a time with its offset in a zone.

    >>> rfc3339(datetime.fromisoformat("2013-11-02T02:00:00+00:00"), ZoneInfo("America/New_York"))
    '2013-11-01T22:00:00-04:00'
    """
    return time.astimezone(zone).isoformat().replace("+00:00", "Z")


def _in_zone(value: object, zone: tzinfo) -> object:
    return rfc3339(value, zone) if isinstance(value, datetime) else value


def encode(
    forecast: IssuedForecast, part: Selection, media: str, config: DatasetConfig, *, is_sent: bool = False
) -> bytes:
    """Return a part of a forecast in a media type; JSON lacks its beginning, see :func:`json_rest`."""
    if media == JSON:
        return json_rest(forecast, part, config, is_sent=is_sent)
    return encoded(table(forecast, part), media)


def entity_tag(forecast: IssuedForecast, part: Selection, media: str, *, stale: bool) -> str:
    """Return the tag of an answer. It is weak: the age differs between answers that mean the same."""
    query = hashlib.sha256(repr((part, media, stale)).encode()).hexdigest()[:16]
    return f'W/"{forecast.issuance.forecast_id}-{query}"'


def provenance(forecast: IssuedForecast, age: int, *, stale: bool) -> dict[str, str]:
    """Return the headers of a table, which has no place for these facts."""
    issuance = forecast.issuance
    return {
        "Forecast-Id": issuance.forecast_id,
        "Forecast-Issued-At": issuance.issued_at.isoformat(),
        "Forecast-Data-Version": str(issuance.data_version),
        "Forecast-Model-Version": issuance.model_version,
        "Forecast-Age": str(age),
        "Forecast-Stale": str(stale).lower(),
    }


def json_rest(forecast: IssuedForecast, part: Selection, config: DatasetConfig, *, is_sent: bool = False) -> bytes:
    """Return the JSON without its opening brace, age and staleness, which :func:`with_age` adds to each answer.

    ``is_sent``: the client sent the rows, so they have no data version.
    """
    issuance, zone = forecast.issuance, ZoneInfo(part.zone)
    of_request = {
        "data_version": None if is_sent else issuance.data_version,
        "fallback_reason": None,
        "frequency": config.frequency,
        "horizon": part.horizon,
        "horizon_trained": issuance.horizon,
        "recursive": part.horizon > issuance.horizon,
        "quantiles": [issuance.quantiles[level] for level in part.levels],
        "zone": part.zone,
    }
    head = {name: of_request[name] if name in of_request else _in_zone(getattr(issuance, name), zone) for name in _HEAD}
    return to_json(head)[1:-1] + b',"forecasts":[' + b",".join(_lines(forecast, part, config)) + b"]}"


def with_age(rest: bytes, age: int, *, stale: bool) -> bytes:
    """Return the complete JSON of an answer."""
    return age_text(age, stale=stale) + rest


def age_text(age: int, *, stale: bool) -> bytes:
    """Return the beginning of an answer's JSON."""
    return b'{"age":%d,"stale":%s,' % (age, b"true" if stale else b"false")


def table(forecast: IssuedForecast, part: Selection) -> pl.DataFrame:
    """Return one row per series, channel and step: time, lead, recursive, mean, one column per quantile."""
    issuance = forecast.issuance
    count, leads = part.horizon - part.first, np.arange(part.first + 1, part.horizon + 1, dtype=np.int32)
    times = pl.Series(forecast.times(part.horizon)[part.first :], dtype=pl.Datetime("us", "UTC"))
    shared = {
        "time": times.dt.convert_time_zone(part.zone),
        "lead": leads,
        "recursive": leads > issuance.horizon,
    }
    steps = slice(part.first, part.horizon)
    frames = [
        pl.DataFrame(
            {
                "series": pl.repeat(forecast.series[s], count, dtype=pl.String, eager=True),
                "channel": pl.repeat(forecast.channels[c], count, dtype=pl.String, eager=True),
                **shared,
                "mean": forecast.mean[s, c, steps],
                **{
                    Quantile(issuance.quantiles[level]).label: forecast.quantiles[s, c, steps, level]
                    for level in part.levels
                },
            }
        )
        for s in part.series
        for c in part.channels
    ]
    return pl.concat(frames)


def encoded(rows: pl.DataFrame, media: str) -> bytes:
    """Return a table in a format other than JSON; CSV writes times with their offset."""
    out = io.BytesIO()
    if media == ARROW:
        rows.write_ipc_stream(out, compat_level=pl.CompatLevel.oldest())
    elif media == PARQUET:
        rows.write_parquet(out)
    else:
        assert media == CSV, media  # noqa: S101 - JSON is not written from tables
        times = [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.Datetime)]
        rows.with_columns([_with_offset(rows[name]) for name in times]).write_csv(out)
    return out.getvalue()


def _with_offset(times: pl.Series) -> pl.Series:
    zone = ZoneInfo(str(times.dtype.time_zone))  # type: ignore[attr-defined]  # it is a Datetime
    return pl.Series(times.name, [None if time is None else rfc3339(time, zone) for time in times], dtype=pl.String)


def _lines(forecast: IssuedForecast, part: Selection, config: DatasetConfig) -> Iterator[bytes]:
    """Yield the JSON of each series and channel: numbers are written in bulk and put into a template of points."""
    issuance, steps = forecast.issuance, slice(part.first, part.horizon)
    levels, channels = list(part.levels), list(part.channels)
    quantiles_of_part = tuple(issuance.quantiles[level] for level in part.levels)
    points = _points(
        issuance.origin, forecast.step, range(part.first, part.horizon), issuance.horizon, quantiles_of_part, part.zone
    )
    width = (part.horizon - part.first) * (1 + len(levels))
    for s in part.series:
        mean, quantiles = forecast.mean[s, channels, steps], forecast.quantiles[s, channels, steps][..., levels]
        numbers = np.concatenate([mean[..., None], quantiles], axis=-1)  # [C, H, 1 + Q]
        texts = orjson.dumps(numbers.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
        for place, c in enumerate(part.channels):
            channel = forecast.channels[c]
            line = {"series": forecast.series[s], "channel": channel, "unit": config.channels[channel].unit}
            own = tuple(texts[place * width : (place + 1) * width])
            yield to_json(line)[:-1] + b',"points":[' + points % own + b"]}"


@lru_cache(maxsize=32)
def _points(
    origin: datetime, step: timedelta, places: range, trained: int, levels: tuple[float, ...], zone: str
) -> bytes:
    """Return the template of the points of every line, with ``%b`` for each number.

    Filling it in takes a quarter of the time of points as dictionaries. It is cached: requests on demand within the
    same hour have the same times.
    """
    own, quantiles = ZoneInfo(zone), ",".join(f'"{level:g}":%b' for level in levels)
    return ",".join(
        f'{{"time":"{rfc3339(origin + step * place, own)}","lead":{place + 1},"mean":%b,"quantiles":{{{quantiles}}},'
        f'"recursive":{"true" if place >= trained else "false"}}}'
        for place in places
    ).encode()
