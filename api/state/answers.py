"""Encoded forecasts, and the cache that keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from api.state.issued import IssuedForecast
from api.state.lru import Recent
from forecast.config.dataset import DatasetConfig


@dataclass(frozen=True, slots=True)
class EncodedForecast:
    """A selected part of a forecast in one format."""

    issued: IssuedForecast
    config: DatasetConfig
    body: bytes
    """JSON: without the opening brace and the age, which changes with every answer."""
    fresh_tag: str
    stale_tag: str
    """The entity tag once the forecast is stale."""


Answers = Recent[tuple[object, ...], EncodedForecast]
"""By (forecast id, selection, media type). JSON of the latest forecast is also kept under (path, query, ``Accept``), so
that a repeated request is answered without reading its parameters."""
ANSWER_BYTES = 96 * 2**20
LARGEST_KEPT = 2 * 2**20
"""Longer answers to requests are not kept: a few of them would push out many short ones."""
