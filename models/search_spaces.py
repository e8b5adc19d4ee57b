"""Search spaces for tuning: the options of each trained network that a search may change. Does not import torch.

A range holds values worth a trial on hourly to daily series within minutes to hours, not all values that a model
accepts. Options without an entry, such as `preset` or `members`, keep their value in the config file.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from models.catalog import CATALOG, ModelName

Option: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Number:
    """A real number in [low, high]."""

    low: float
    high: float
    log: bool = False
    """Whether a search samples the range on a log scale."""

    def find(self, value: Any) -> Option | None:
        """Return the value as a float; None if it is outside of the range."""
        return float(value) if _is_number(value) and self.low <= value <= self.high else None

    @property
    def extremes(self) -> tuple[Option, ...]:
        """The lowest and the highest value."""
        return self.low, self.high


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number in [low, high]."""

    low: int
    high: int

    def find(self, value: Any) -> Option | None:
        """Return the value as an integer; None if it is outside of the range or no whole number."""
        return int(value) if _is_number(value) and self.low <= value <= self.high and value % 1 == 0 else None

    @property
    def extremes(self) -> tuple[Option, ...]:
        """The lowest and the highest value."""
        return self.low, self.high


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several values."""

    values: tuple[Option, ...]
    also: tuple[str, ...] = ()
    """Options that get the same value."""
    within_lookback: bool = False
    """Whether values beyond the look-back are left out."""
    is_size: bool = False
    """Whether the option makes the network larger, together with the model's other sizes."""

    def find(self, value: Any) -> Option | None:
        """Return the equal entry of `values`; None if no entry is equal."""
        return next((one for one in self.values if value == one and _is_number(value) == _is_number(one)), None)

    @property
    def extremes(self) -> tuple[Option, ...]:
        """The first and the last value."""
        return self.values[0], self.values[-1]


Dimension: TypeAlias = Number | Whole | OneOf
Space: TypeAlias = Mapping[str, Dimension]

_SWITCH = OneOf((False, True))
_DROPOUT = Number(0.0, 0.6)
_AVERAGING = OneOf((0.0, 0.99, 0.995, 0.999))
_DECOMPOSITION = OneOf((0, 13, 25, 49))  # odd, as a centred moving average must be
_RATE = Number(1e-4, 5e-3, log=True)
_LINEAR_RATE = Number(3e-5, 3e-3, log=True)  # weights are around 1 / look-back

# Every width is a multiple of every number of heads.
_WIDTHS = OneOf((32, 64, 128, 256), is_size=True)
_HEADS = OneOf((2, 4, 8))
_HIDDEN = OneOf((64, 128, 256, 512), is_size=True)
_PATCH_WIDTHS = OneOf((16, 32, 64, 128), is_size=True)

SEARCH_SPACES: Mapping[ModelName, Space] = MappingProxyType({
    ModelName.DLINEAR: {
        "learning_rate": _LINEAR_RATE, "kernel_size": OneOf((5, 13, 25, 49, 97)), "averaging": _AVERAGING,
        "scale_windows": _SWITCH,
    },
    ModelName.NLINEAR: {
        "learning_rate": _LINEAR_RATE, "averaging": _AVERAGING, "scale_windows": _SWITCH,
        "decomposition": _DECOMPOSITION,
    },
    ModelName.TIDE: {
        "learning_rate": _RATE, "hidden_size": _HIDDEN, "num_encoder_layers": Whole(1, 3),
        "num_decoder_layers": Whole(1, 3), "decoder_output_dim": OneOf((4, 8, 16, 32)),
        "temporal_decoder_hidden": OneOf((16, 32, 64, 128)), "use_layer_norm": _SWITCH, "dropout": _DROPOUT,
        "averaging": _AVERAGING,
    },
    ModelName.N_HITS: {
        "learning_rate": _RATE, "layer_widths": _HIDDEN, "num_stacks": Whole(1, 4),
        "num_blocks": Whole(1, 2), "num_layers": Whole(1, 3), "dropout": _DROPOUT, "averaging": _AVERAGING,
    },
    ModelName.INFORMER: {
        "learning_rate": _RATE, "width": _WIDTHS, "heads": _HEADS, "feed_forward": _HIDDEN,
        "encoder_layers": Whole(1, 3), "decoder_layers": Whole(1, 2), "distil": _SWITCH, "dropout": _DROPOUT,
        "channel_dropout": Number(0.0, 0.5), "averaging": _AVERAGING, "decomposition": _DECOMPOSITION,
        "linear_path": _SWITCH,
    },
    ModelName.ITRANSFORMER: {
        "learning_rate": _RATE, "width": _WIDTHS, "heads": _HEADS, "feed_forward": _HIDDEN, "layers": Whole(1, 4),
        "dropout": _DROPOUT, "channel_dropout": Number(0.0, 0.5), "averaging": _AVERAGING,
        "decomposition": _DECOMPOSITION, "linear_path": _SWITCH,
    },
    ModelName.PATCH_TSMIXER: {
        "learning_rate": _RATE, "width": _PATCH_WIDTHS, "expansion": Whole(1, 4), "layers": Whole(1, 4),
        "patch_length": OneOf((4, 8, 12, 16, 24, 48), also=("patch_stride",), within_lookback=True),
        "mix_channels": _SWITCH, "gated": _SWITCH, "dropout": _DROPOUT, "head_dropout": _DROPOUT,
        "averaging": _AVERAGING, "decomposition": _DECOMPOSITION, "linear_path": _SWITCH,
    },
    ModelName.S_MAMBA: {
        "learning_rate": _RATE, "width": _WIDTHS, "feed_forward": _HIDDEN, "layers": Whole(1, 4),
        "states": OneOf((2, 4, 8, 16)), "convolution": Whole(2, 4), "expansion": Whole(1, 2), "dropout": _DROPOUT,
        "channel_dropout": Number(0.0, 0.5), "averaging": _AVERAGING, "decomposition": _DECOMPOSITION,
        "linear_path": _SWITCH,
    },
})  # fmt: skip
"""One space per trained network."""

SIZES: Mapping[ModelName, tuple[str, ...]] = MappingProxyType({
    model: sizes
    for model, space in SEARCH_SPACES.items()
    if (sizes := tuple(name for name, dimension in space.items() if isinstance(dimension, OneOf) and dimension.is_size))
})  # fmt: skip
"""Options that make a network larger when they grow together; models without an entry have one size."""


def space_of(model: ModelName, lookback: int) -> Space:
    """Return a model's search space for a look-back; an option without a fitting value is left out.

    >>> space_of(ModelName.PATCH_TSMIXER, lookback=10)["patch_length"].values
    (4, 8)
    """
    space: dict[str, Dimension] = {}
    for name, dimension in SEARCH_SPACES[model].items():
        if isinstance(dimension, OneOf) and dimension.within_lookback:
            fitting = tuple(value for value in dimension.values if float(value) <= lookback)
            if not fitting:
                continue
            space[name] = replace(dimension, values=fitting)
        else:
            space[name] = dimension
    return space


def options_of(space: Space, point: Mapping[str, Option]) -> dict[str, Option]:
    """Return the options of a point in a space; real numbers are rounded to three digits.

    >>> space = {"learning_rate": Number(1e-4, 5e-3, log=True), "patch_length": OneOf((4, 8), also=("patch_stride",))}
    >>> options_of(space, {"learning_rate": 0.00123456, "patch_length": 8})
    {'learning_rate': 0.00123, 'patch_length': 8, 'patch_stride': 8}
    """
    options: dict[str, Option] = {}
    for name, dimension in space.items():
        value = point[name]
        options[name] = float(f"{value:.3g}") if isinstance(dimension, Number) else value
        if isinstance(dimension, OneOf):
            options |= dict.fromkeys(dimension.also, value)
    return options


def point_of(model: ModelName, space: Space, options: Mapping[str, Any]) -> dict[str, Option]:
    """Return the point of options in a space, with the preset's values for options that are not given.

    Dimensions that do not contain the option's value are left out.
    """
    known = present_options(model, options)
    point: dict[str, Option] = {}
    for name, dimension in space.items():
        value = dimension.find(known[name])
        alike = dimension.also if isinstance(dimension, OneOf) else ()
        if value is not None and all(known[other] == value for other in alike):
            point[name] = value
    return point


def present_options(model: ModelName, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of a trained network with its value: the given ones, and those of their preset."""
    recipe = CATALOG[model].model_class().presets()[options.get("preset", "default")]
    framing = asdict(recipe.frame) if recipe.frame else {}
    rate = recipe.training["optimizer_kwargs"]["lr"]
    return {**asdict(recipe.config), **framing, "learning_rate": rate, **options}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
