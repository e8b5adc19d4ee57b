"""Additions of the benchmark to a model's preset: look-back, calendar, patience, and changes per horizon."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

HORIZONS = (96, 192, 336, 720)
INFORMER_HORIZONS = (24, 48, 168, 336, 720)
ALL_HORIZONS = tuple(sorted({*HORIZONS, *INFORMER_HORIZONS}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How this benchmark trains a preset."""

    lookback: int = 96
    calendar: bool = False
    """Whether the four calendar features are known-future covariates."""
    patience: int = 3
    """Training stops after this many epochs without a better validation MSE; the best epoch's weights are scored."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the darts class."""
    at: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Horizon -> fields of this recipe, or arguments of the darts class, that differ at this horizon."""
    horizons: tuple[int, ...] = HORIZONS
    """Horizons of the published table; for baselines those of all tables."""
    every_lookback: bool = False
    """Run with each look-back of the other recipes at the horizon, for a comparison on the same inputs."""

    def of(self, horizon: int) -> "Recipe":
        """Return the recipe for one horizon."""
        changes = dict(self.at.get(horizon, {}))
        fields = {name: changes.pop(name) for name in ("lookback", "calendar", "patience") if name in changes}
        return replace(self, **fields, arguments={**self.arguments, **changes}, at={})


RECIPES: Mapping[tuple[str, str], Recipe] = MappingProxyType(
    {
        # Baselines; all but DLinear are solved, not trained, so one seed is enough.
        ("seasonal_naive", "last"): Recipe(arguments={"season": 1}, horizons=ALL_HORIZONS),
        ("seasonal_naive", "day"): Recipe(arguments={"season": 24}, horizons=ALL_HORIZONS),
        ("linear", "default"): Recipe(horizons=ALL_HORIZONS, every_lookback=True),
        ("dlinear", "default"): Recipe(horizons=ALL_HORIZONS),
        # The official recipes; see each preset's docstring.
        ("itransformer", "faithful"): Recipe(
            calendar=True,
            at={horizon: {"width": 512, "feed_forward": 512} for horizon in (336, 720)},
        ),
        ("s_mamba", "faithful"): Recipe(calendar=True, at={horizon: {"learning_rate": 5e-5} for horizon in (336, 720)}),
        ("patch_tsmixer", "faithful"): Recipe(lookback=512, patience=5),
        ("informer", "faithful"): Recipe(
            calendar=True,
            horizons=INFORMER_HORIZONS,
            at={
                24: {"lookback": 48, "label_length": 48, "factor": 3},
                48: {"lookback": 96, "label_length": 48},
                168: {"lookback": 168, "label_length": 168},
                336: {"lookback": 168, "label_length": 168},
                720: {"lookback": 336, "label_length": 336},
            },
        ),
        # Our presets.
        ("itransformer", "default"): Recipe(),
        ("s_mamba", "default"): Recipe(),
        # Without past covariates, channels need no mixing.
        ("patch_tsmixer", "default"): Recipe(lookback=512, arguments={"mix_channels": False}),
        ("itransformer", "ensemble"): Recipe(),
        ("s_mamba", "ensemble"): Recipe(),
        ("patch_tsmixer", "ensemble"): Recipe(lookback=512, arguments={"mix_channels": False}),
        # No calendar: the training rows hold each day of the year about once.
        ("informer", "default"): Recipe(
            horizons=INFORMER_HORIZONS,
            at={24: {"lookback": 48}, 168: {"lookback": 168}, 336: {"lookback": 168}, 720: {"lookback": 336}},
        ),
    }
)
"""(model, preset) -> recipe. Models are names of the catalogue; baselines have named settings instead of presets."""


def lookbacks_at(horizon: int) -> list[int]:
    """List the look-backs of all recipes at a horizon."""
    return sorted({recipe.of(horizon).lookback for recipe in RECIPES.values() if horizon in recipe.horizons})
