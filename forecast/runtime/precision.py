"""One network in float32 and int8: the measurements of both, and the choice between them."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

from forecast.strict import StrictModel

MAX_LOSS: Final = 0.01
"""Highest relative loss of int8 above float32."""
_FASTER: Final = 0.9
"""int8 counts as faster below this share of float32's latency: timings on one machine vary by less."""
_SMALLER: Final = 0.5
_WORTHWHILE_MB: Final = 10.0
"""Minimum absolute saving in MB for a smaller int8 file to count as an advantage."""


class ServedIn(StrEnum):
    """The precision of an exported network."""

    FLOAT32 = "float32"
    INT8 = "int8"
    """Weights and the inputs of their products as 8-bit integers; all else in float32."""


class Variant(StrictModel):
    """Measurements of a network in one precision."""

    size_mb: float
    """Size of the network's file."""
    latency_ms: float
    """Median wall time of one forecast of one series; both precisions ran alternately."""
    loss: float
    """Pinball loss on the calibration rows, in deviations, each precision with its own calibration."""


class Variants(StrictModel):
    """Both precisions of one network, measured on the same rows.

    >>> exact = Variant(size_mb=8.0, latency_ms=2.0, loss=0.100)
    >>> Variants(float32=exact, int8=Variant(size_mb=2.0, latency_ms=1.0, loss=0.1005)).serves.value
    'int8'
    """

    float32: Variant
    int8: Variant

    @property
    def serves(self) -> ServedIn:
        """The precision that serves: int8 if its loss is within 1% and it is faster, or half a large file's size."""
        exact, coarse = self.float32, self.int8
        is_as_good = math.isfinite(coarse.loss) and coarse.loss <= exact.loss * (1 + MAX_LOSS)
        is_faster = coarse.latency_ms <= exact.latency_ms * _FASTER
        is_smaller = coarse.size_mb <= exact.size_mb * _SMALLER and exact.size_mb - coarse.size_mb >= _WORTHWHILE_MB
        return ServedIn.INT8 if is_as_good and (is_faster or is_smaller) else ServedIn.FLOAT32

    @property
    def summary(self) -> str:
        """The choice and the measurements of both precisions, as one sentence."""
        exact, coarse = self.float32, self.int8
        return (
            f"serves in {self.serves}; int8 against float32: {coarse.size_mb:.2f} against {exact.size_mb:.2f} MB, "
            f"{coarse.latency_ms:.2f} against {exact.latency_ms:.2f} ms, "
            f"loss {coarse.loss:.4f} against {exact.loss:.4f}"
        )
