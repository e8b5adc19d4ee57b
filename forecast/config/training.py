"""What a job file says of trainings and of promotions."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, field_validator

from forecast.strict import StrictModel
from forecast.vocabulary import parse_duration


class Precision(StrEnum):
    """The numbers that networks are trained in."""

    AUTO = "auto"
    """``bf16`` where a GPU has it, ``float32`` elsewhere."""
    FLOAT32 = "float32"
    BF16 = "bf16"
    """Matrix products in bfloat16, weights and sums in float32 (automatic mixed precision)."""


class EngineName(StrEnum):
    """Where trainings, backtests and trials run."""

    LOCAL = "local"
    """In this process, one after the other."""
    RAY = "ray"
    """As tasks of a Ray cluster, ``RAY_ADDRESS``, or of one on this machine."""


class Quantize(StrEnum):
    """Whether a network may serve in 8-bit integers."""

    NEVER = "never"
    AUTO = "auto"
    """Where its loss on the calibration rows is within 1% of float32's, and it is faster or much smaller."""


class Training(StrictModel):
    """The budget and the manner of one training."""

    max_epochs: int = Field(default=20, ge=1, strict=True)
    batch_size: int = Field(default=64, ge=1, strict=True)
    budget: str = "30m"
    """Wall time that one model may train for; the best weights so far are kept."""
    patience: int = Field(default=3, ge=1, strict=True)
    seed: int = Field(default=0, ge=0, strict=True)
    stride: int = Field(default=1, ge=1, strict=True)
    """Steps between two training windows: 1 takes every window."""
    baselines: tuple[str, ...] = ("seasonal_naive", "linear", "dlinear", "nlinear")
    """Models that are in every night's comparison, whether ``models`` names them or not."""
    warm_start: bool = True
    """Whether the champion's kind of model is also trained from the champion's weights; the start that is better on
    the validation slice goes on."""
    refit: bool = False
    """Whether a model that is promoted is then fitted on all rows, for as many epochs as were best."""
    precision: Precision = Precision.AUTO
    compile: bool = False
    """Whether networks are compiled by torch before they train. On a CPU it does not pay: steps took 1.07 to 1.40 times
    as long (docs/models.md)."""
    quantize: Quantize = Quantize.NEVER
    """Whether exported networks are also tried as int8 (docs/models.md has what it costs and brings)."""
    engine: EngineName = EngineName.LOCAL
    devices: int = Field(default=1, ge=1, strict=True)
    """GPUs that one training uses, where there are some."""
    strategy: str = "auto"
    """How Lightning spreads a training over several GPUs, such as ``ddp_spawn``."""

    _budget = field_validator("budget")(lambda text: (parse_duration(text), text)[1])


class PromotionPolicy(StrictModel):
    """When a challenger replaces the champion."""

    min_gain: float = Field(default=0.01, ge=0, lt=1)
    """Relative gain in pinball loss on the holdout below which it does not."""
    significance: float = Field(default=0.1, gt=0, lt=0.5)
    """How probable a gain or a loss as large as what is seen may be by chance, if the models were equally good."""
    max_part_loss: float = Field(default=0.1, ge=0)
    """How much worse the pinball loss of one channel, or of one group of lead times, may become, as a share."""
    max_coverage_error: float = Field(default=0.15, gt=0, le=1)
    """How far the share of values inside the band may be from what the band promises."""
    max_latency: str = "1s"
    """Wall time that one forecast of one series may take on one core."""
    max_size: float = Field(default=500.0, gt=0)
    """Megabytes that the exported network may have."""

    _latency = field_validator("max_latency")(lambda text: (parse_duration(text), text)[1])
