"""Training and promotion settings of a data set: ``[datasets.<name>.training]`` and ``.promotion``."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, field_validator

from forecast.strict import StrictModel
from forecast.vocabulary import parse_duration


class Precision(StrEnum):
    """Floating-point precision of the training."""

    AUTO = "auto"
    """``bf16`` where a GPU has it, ``float32`` elsewhere."""
    FLOAT32 = "float32"
    BF16 = "bf16"
    """Matrix products in bfloat16, weights and sums in float32 (automatic mixed precision)."""


class EngineName(StrEnum):
    """Execution engine of trainings, backtests and trials."""

    LOCAL = "local"
    """In this process, one after another."""
    RAY = "ray"
    """As tasks of the Ray cluster at ``RAY_ADDRESS``, or of a local one."""


class Quantize(StrEnum):
    """Whether a network may be quantized to 8-bit integers for serving."""

    NEVER = "never"
    AUTO = "auto"
    """Quantize if the calibration loss is within 1% of float32's and the model is faster or much smaller."""


class Training(StrictModel):
    """Budget and options of one training."""

    max_epochs: int = Field(default=20, ge=1, strict=True)
    batch_size: int = Field(default=64, ge=1, strict=True)
    budget: str = "30m"
    """Wall-time limit of one model's training; the best weights so far are kept."""
    patience: int = Field(default=3, ge=1, strict=True)
    seed: int = Field(default=0, ge=0, strict=True)
    stride: int = Field(default=1, ge=1, strict=True)
    """Steps between two training windows; 1 uses every window."""
    baselines: tuple[str, ...] = ("seasonal_naive", "linear", "dlinear", "nlinear")
    """Baselines that each night compares in addition to ``models``."""
    warm_start: bool = True
    """Whether the champion's kind of model is also trained from the champion's weights; the start with the lower
    validation loss continues."""
    refit: bool = False
    """Whether a promoted model is fitted again on all rows, for the best number of epochs."""
    precision: Precision = Precision.AUTO
    compile: bool = False
    """Whether networks are compiled with ``torch.compile`` before training. On a CPU it does not pay: steps took 1.07
    to 1.40 times as long (docs/models.md)."""
    quantize: Quantize = Quantize.NEVER
    """Whether exported networks are also tried as int8 (costs and benefits: docs/models.md)."""
    engine: EngineName = EngineName.LOCAL
    devices: int = Field(default=1, ge=1, strict=True)
    """Number of GPUs per training, if GPUs are available."""
    strategy: str = "auto"
    """Lightning's strategy for several GPUs, such as ``ddp_spawn``."""

    _budget = field_validator("budget")(lambda text: (parse_duration(text), text)[1])


class PromotionPolicy(StrictModel):
    """When a challenger replaces the champion."""

    min_gain: float = Field(default=0.01, ge=0, lt=1)
    """Minimum relative gain in pinball loss on the holdout."""
    significance: float = Field(default=0.1, gt=0, lt=0.5)
    """Significance level of the paired tests between challenger and champion."""
    max_part_loss: float = Field(default=0.1, ge=0)
    """Maximum relative increase of the pinball loss of any channel or group of lead times."""
    max_coverage_error: float = Field(default=0.15, gt=0, le=1)
    """Maximum absolute difference between the band's empirical and nominal coverage."""
    max_latency: str = "1s"
    """Maximum wall time of a forecast of one series on one core."""
    max_size: float = Field(default=500.0, gt=0)
    """Maximum size of the exported network in megabytes."""

    _latency = field_validator("max_latency")(lambda text: (parse_duration(text), text)[1])
