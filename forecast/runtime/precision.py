"""One network in two precisions: which of them serves, and what that rests on."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

from forecast.strict import StrictModel

MAX_LOSS: Final = 0.01
"""By how much the loss of int8 may be above that of float32, as a share."""
_FASTER: Final = 0.9
"""Share of the latency of float32 at which int8 counts as faster: timings of one machine differ by less."""
_SMALLER: Final = 0.5
_WORTHWHILE_MB: Final = 10.0
"""Megabytes that must be saved for half of the size to count: nobody misses fewer."""


class ServedIn(StrEnum):
    """The numbers that an exported network computes in."""

    FLOAT32 = "float32"
    INT8 = "int8"
    """Weights, and the inputs of products with them, as 8-bit integers; everything else in float32."""


class Variant(StrictModel):
    """What was seen of a network in one precision."""

    size_mb: float
    """Of the network's file."""
    latency_ms: float
    """Wall time of one forecast of one series, a median; both precisions took turns."""
    loss: float
    """Pinball loss on the calibration rows, in deviations, after a calibration of its own."""


class Variants(StrictModel):
    """Both precisions of one network on the same rows."""

    float32: Variant
    int8: Variant

    @property
    def serves(self) -> ServedIn:
        """The precision that serves: int8 if its loss is within 1% and it is faster or, of a large network, half."""
        exact, coarse = self.float32, self.int8
        is_as_good = math.isfinite(coarse.loss) and coarse.loss <= exact.loss * (1 + MAX_LOSS)
        is_faster = coarse.latency_ms <= exact.latency_ms * _FASTER
        is_smaller = coarse.size_mb <= exact.size_mb * _SMALLER and exact.size_mb - coarse.size_mb >= _WORTHWHILE_MB
        return ServedIn.INT8 if is_as_good and (is_faster or is_smaller) else ServedIn.FLOAT32

    @property
    def summary(self) -> str:
        """Which precision serves and both sides' figures, as one sentence."""
        exact, coarse = self.float32, self.int8
        return (
            f"serves in {self.serves}; int8 against float32: {coarse.size_mb:.2f} against {exact.size_mb:.2f} MB, "
            f"{coarse.latency_ms:.2f} against {exact.latency_ms:.2f} ms, "
            f"loss {coarse.loss:.4f} against {exact.loss:.4f}"
        )
