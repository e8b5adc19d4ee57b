"""A cache of calendar covariates, computed once per block of 1024 steps, for forecasts on demand."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import UTC, datetime, timedelta

import numpy as np

from forecast.config.dataset import DatasetConfig
from forecast.panel import Array
from pipelines.preparation.features import known_future

_BLOCK = 1024
_KEPT = 64
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class CalendarMemory:
    """Returns the result of :func:`known_future` for one data set, from a cache; thread-safe."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[timedelta, timedelta, int], Array] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, start: datetime, step: timedelta, count: int, config: DatasetConfig) -> Array:
        """Return the covariates of ``count`` steps from ``start``: [count, len(FUTURE_FEATURES)]."""
        number, offset = divmod(start - _EPOCH, step)  # steps since the epoch, and the offset within a step
        first, last = number // _BLOCK, (number + count - 1) // _BLOCK
        blocks = [self._block(step, offset, place, config) for place in range(first, last + 1)]
        begin = number - first * _BLOCK
        return (blocks[0] if len(blocks) == 1 else np.concatenate(blocks))[begin : begin + count]

    def _block(self, step: timedelta, offset: timedelta, place: int, config: DatasetConfig) -> Array:
        key = (step, offset, place)
        with self._lock:
            found = self._blocks.get(key)
            if found is not None:
                self._blocks.move_to_end(key)
                return found
        made = known_future(_EPOCH + offset + step * (place * _BLOCK), step, _BLOCK, config)
        with self._lock:
            self._blocks[key] = made
            while len(self._blocks) > _KEPT:
                self._blocks.popitem(last=False)
        return made
