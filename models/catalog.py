"""The catalogue: every model that the service can train, one line each. Importing this file does not import torch.

>>> spec = CATALOG[ModelName.LINEAR]
>>> spec.title, spec.family
('Linear (closed form)', 'baseline')
>>> model = spec.build(BuildRequest(lookback=48, horizon=24, options={"ridge": 0.01}))
>>> model.output_chunk_length
24
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from models.errors import (
    HorizonTooShortError,
    LookbackTooShortError,
    OptionOutOfRangeError,
    UnknownOptionError,
    UnusableQuantilesError,
)

if TYPE_CHECKING:
    from models.darts.bridge import ServiceModel


class ModelName(StrEnum):
    """Names of the models in config files."""

    SEASONAL_NAIVE = "seasonal_naive"
    LINEAR = "linear"
    DLINEAR = "dlinear"
    NLINEAR = "nlinear"
    TIDE = "tide"
    N_HITS = "n_hits"
    INFORMER = "informer"
    ITRANSFORMER = "itransformer"
    PATCH_TSMIXER = "patch_tsmixer"
    S_MAMBA = "s_mamba"
    CHRONOS_2 = "chronos_2"
    TIMESFM_2_5 = "timesfm_2_5"
    TIREX = "tirex"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """Sizes, seed and options of a model to build; checked at construction.

    >>> BuildRequest(lookback=0, horizon=24)
    Traceback (most recent call last):
    models.errors.LookbackTooShortError: the look-back has 0 steps, but every model needs at least 1; ...

    Raises:
        ModelError: a field is invalid; its subclass names the first one.

    """

    lookback: int
    """Observed steps that the model reads."""
    horizon: int
    """Steps that it forecasts at once."""
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    """Levels that networks are trained for; empty for a point forecast. Baselines always make point forecasts."""
    season: int = 1
    """Steps of the dominant season; seasonal naive repeats it."""
    seed: int = 0
    batch_size: int | None = None
    """Windows per training step; None takes the recipe's value."""
    max_epochs: int | None = None
    """Passes over the training windows; None takes the recipe's value."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The model's own hyperparameters; `ModelSpec.option_names` lists them."""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of Lightning's Trainer: callbacks, time limit, progress bar, accelerator."""

    def __post_init__(self) -> None:
        if self.lookback < 1:
            raise LookbackTooShortError(self.lookback, 1, "every model")
        if self.horizon < 1:
            raise HorizonTooShortError(self.horizon)
        for name in ("season", "batch_size", "max_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionOutOfRangeError(name, value, "1 or more")
        _check_quantiles(self.quantiles)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the catalogue."""

    name: ModelName
    title: str
    family: Literal["baseline", "network", "foundation"]
    """A baseline is solved by a formula and makes point forecasts. A network is trained and forecasts quantiles. A
    foundation model is pretrained, forecasts quantiles, and needs its weights on the machine."""
    source: str
    """Path of the darts class: `module:class`."""
    reads: tuple[str, ...] = ()
    """Fields of the request that the model takes as options."""

    @property
    def class_name(self) -> str:
        """Name of the darts class; `models` exports it."""
        return self.source.partition(":")[2]

    def model_class(self) -> "type[ServiceModel]":
        """Import the darts class (and with it torch)."""
        module, _, name = self.source.partition(":")
        found: type[ServiceModel] = getattr(import_module(module), name)
        return found

    def option_names(self) -> frozenset[str]:
        """Return the names of the options that a request may set; imports torch."""
        return self.model_class().option_names()

    def build(self, request: BuildRequest) -> "ServiceModel":
        """Build the unfitted darts model.

        Raises:
            ModelError: an option is unknown or out of range, or does not fit the window.

        """
        model_class = self.model_class()
        known = model_class.option_names()
        for option in request.options:
            if option not in known:
                raise UnknownOptionError(option, self.name, known)
        arguments = {
            "input_chunk_length": request.lookback,
            "output_chunk_length": request.horizon,
            "random_state": request.seed,
            "pl_trainer_kwargs": dict(request.trainer),
            **{name: getattr(request, name) for name in self.reads},
            **request.options,
        }
        if request.batch_size is not None:
            arguments["batch_size"] = request.batch_size
        if request.max_epochs is not None:
            arguments["n_epochs"] = request.max_epochs
        if self.family != "baseline" and request.quantiles:
            from darts.utils.likelihood_models import QuantileRegression

            arguments["likelihood"] = QuantileRegression(list(request.quantiles))
        return model_class(**arguments)


CATALOG: Mapping[ModelName, ModelSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            ModelSpec(
                ModelName.SEASONAL_NAIVE,
                "Seasonal naive",
                "baseline",
                "models.baselines.seasonal_naive:SeasonalNaiveModel",
                reads=("season",),
            ),
            ModelSpec(ModelName.LINEAR, "Linear (closed form)", "baseline", "models.baselines.linear:LinearModel"),
            ModelSpec(ModelName.DLINEAR, "DLinear", "network", "models.networks.dlinear:DLinearModel"),
            ModelSpec(ModelName.NLINEAR, "NLinear", "network", "models.networks.nlinear:NLinearModel"),
            ModelSpec(ModelName.TIDE, "TiDE", "network", "models.networks.tide:TiDEModel"),
            ModelSpec(ModelName.N_HITS, "N-HiTS", "network", "models.networks.n_hits:NHiTSModel"),
            ModelSpec(ModelName.INFORMER, "Informer", "network", "models.networks.informer:InformerModel"),
            ModelSpec(
                ModelName.ITRANSFORMER, "iTransformer", "network", "models.networks.itransformer:ITransformerModel"
            ),
            ModelSpec(
                ModelName.PATCH_TSMIXER, "PatchTSMixer", "network", "models.networks.patch_tsmixer:PatchTSMixerModel"
            ),
            ModelSpec(ModelName.S_MAMBA, "S-Mamba", "network", "models.networks.s_mamba:SMambaModel"),
            ModelSpec(ModelName.CHRONOS_2, "Chronos-2", "foundation", "models.foundation:Chronos2Model"),
            ModelSpec(ModelName.TIMESFM_2_5, "TimesFM 2.5", "foundation", "models.foundation:TimesFMModel"),
            ModelSpec(ModelName.TIREX, "TiRex", "foundation", "models.foundation:TiRexModel"),
        )
    }
)
TRAINABLE: tuple[ModelName, ...] = tuple(name for name, spec in CATALOG.items() if spec.family != "foundation")
"""The models that need only data, no pretrained weights; tests of every model run on these."""


def _check_quantiles(quantiles: tuple[float, ...]) -> None:
    if not quantiles:
        return
    if not all(0 < level < 1 for level in quantiles):
        raise UnusableQuantilesError(quantiles, "do not all lie between 0 and 1")
    if any(low >= high for low, high in pairwise(quantiles)):
        raise UnusableQuantilesError(quantiles, "do not increase")
    mirrored = zip(quantiles, reversed(quantiles), strict=True)
    if 0.5 not in quantiles or any(abs(low + high - 1) > 1e-9 for low, high in mirrored):
        raise UnusableQuantilesError(quantiles, "are not symmetric around a median")
