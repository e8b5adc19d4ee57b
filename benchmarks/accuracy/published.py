"""Published errors on ETTh1 with their sources, and the bars for the models here.

Published figures are those of each paper's table of ETTh1, all channels: iTransformer arXiv 2310.06625 (also RLinear,
PatchTST and DLinear as run there), S-Mamba arXiv 2403.11144, PatchTSMixer arXiv 2306.09364 (its best variant), Informer
arXiv 2012.07436, DUET arXiv 2412.10859 (look-back tuned), TTM arXiv 2401.03955 (zero-shot, look-back 1536, MSE only).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks.accuracy.recipes import HORIZONS, INFORMER_HORIZONS


@dataclass(frozen=True, slots=True)
class Errors:
    """MSE and MAE on scaled data, formatted as in the papers' tables."""

    mse: float
    mae: float

    def __str__(self) -> str:
        return f"{self.mse:.3f} / {self.mae:.3f}"

    def times(self, factor: float) -> "Errors":
        """Multiply both."""
        return Errors(self.mse * factor, self.mae * factor)


@dataclass(frozen=True, slots=True)
class Bar:
    """Upper bound of a preset's mean over three seeds."""

    model: str
    preset: str
    errors: Errors
    horizon: int | None
    """None: the average over `HORIZONS`."""
    lookback: int | None = None
    """None: any look-back."""


def _table(horizons: tuple[int, ...], *pairs: tuple[float, float]) -> dict[int, Errors]:
    return {horizon: Errors(*pair) for horizon, pair in zip(horizons, pairs, strict=True)}


PUBLISHED: Mapping[str, Mapping[int, Errors]] = MappingProxyType(
    {
        "itransformer": _table(HORIZONS, (0.386, 0.405), (0.441, 0.436), (0.487, 0.458), (0.503, 0.491)),
        "s_mamba": _table(HORIZONS, (0.386, 0.405), (0.443, 0.437), (0.489, 0.468), (0.502, 0.489)),
        "patch_tsmixer": _table(HORIZONS, (0.368, 0.398), (0.399, 0.418), (0.421, 0.436), (0.444, 0.467)),
        "informer": _table(
            INFORMER_HORIZONS, (0.577, 0.549), (0.685, 0.625), (0.931, 0.752), (1.128, 0.873), (1.215, 0.896)
        ),
        "dlinear": _table(HORIZONS, (0.386, 0.400), (0.437, 0.432), (0.481, 0.459), (0.519, 0.516)),
    }
)
"""Model -> horizon -> its published errors, for both presets."""

ELSEWHERE: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "RLinear": dict(
            zip(HORIZONS, ("0.386 / 0.395", "0.437 / 0.424", "0.479 / 0.446", "0.481 / 0.470"), strict=True)
        ),
        "PatchTST": dict(
            zip(HORIZONS, ("0.414 / 0.419", "0.460 / 0.445", "0.501 / 0.466", "0.500 / 0.488"), strict=True)
        ),
        "DUET": dict(zip(HORIZONS, ("0.352 / 0.384", "0.398 / 0.409", "0.414 / 0.426", "0.429 / 0.455"), strict=True)),
        "TTM": dict(zip(HORIZONS, ("0.357", "0.386", "0.405", "0.435"), strict=True)),
    }
)
"""Models that the catalogue lacks -> horizon -> their published errors."""


def _bars(model: str, preset: str, errors: Mapping[int, Errors]) -> list[Bar]:
    return [Bar(model, preset, pair, horizon) for horizon, pair in errors.items()]


BARS: tuple[Bar, ...] = (
    *_bars(
        "itransformer",
        "faithful",
        _table(HORIZONS, (0.394, 0.413), (0.450, 0.445), (0.497, 0.467), (0.513, 0.501)),
    ),
    *_bars(
        "s_mamba",
        "faithful",
        _table(HORIZONS, (0.394, 0.413), (0.452, 0.446), (0.499, 0.477), (0.512, 0.499)),
    ),
    *_bars(
        "patch_tsmixer",
        "faithful",
        _table(HORIZONS, (0.375, 0.406), (0.407, 0.426), (0.429, 0.445), (0.453, 0.476)),
    ),
    # `faithful` within 10% of its own table; `default`, with causal decoder and scaled windows, at least 40% below it.
    *_bars("informer", "faithful", {horizon: pair.times(1.1) for horizon, pair in PUBLISHED["informer"].items()}),
    *_bars("informer", "default", {horizon: pair.times(0.6) for horizon, pair in PUBLISHED["informer"].items()}),
    # Our presets: `default`, and `ensemble` of three.
    *(
        bar
        for preset in ("default", "ensemble")
        for model in ("itransformer", "s_mamba")
        for bar in (
            Bar(model, preset, Errors(0.386, 0.400), 96, lookback=96),
            Bar(model, preset, Errors(0.432, 0.427), None, lookback=96),
            Bar(model, preset, Errors(0.398, 0.419), None),  # with any look-back
        )
    ),
    *(Bar("patch_tsmixer", preset, Errors(0.360, 0.385), 96) for preset in ("default", "ensemble")),
)


def bar_for(model: str, preset: str, lookback: int, horizon: int | None) -> Errors | None:
    """Find the bar of a result; a bar for its look-back precedes one for any look-back."""
    for bar in BARS:
        same = (bar.model, bar.preset, bar.horizon) == (model, preset, horizon)
        if same and bar.lookback in {None, lookback}:
            return bar.errors
    return None
