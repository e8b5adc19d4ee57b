"""From a plain torch network to a darts model, written once.

A model file holds a network (`nn.Module`, knows no darts), its frozen config, a `NetworkModule` that names both, and a
`NetworkModel` that names the module and its recipes. Everything a darts model promises (covariates, likelihoods,
backtests, saving) comes from here.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import wraps
from inspect import signature
from typing import Any, ClassVar, Protocol

import pytorch_lightning as pl
import torch
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule, io_processor
from darts.models.forecasting.torch_forecasting_model import MixedCovariatesTorchModel, TorchForecastingModel
from darts.utils.data import SequentialTorchTrainingDataset, TorchTrainingDataset
from darts.utils.data.torch_datasets._data_module import TorchDataModule
from darts.utils.data.torch_datasets.utils import PLModuleInput, PLModuleOutput, TorchTrainingBatch, TorchTrainingSample
from darts.utils.serialization import safe_globals
from torch import nn
from torch.utils.data import DataLoader

from models.errors import HorizonTooShortError, LookbackTooShortError, OptionOutOfRangeError, UnknownOptionError
from models.shape import WindowShape
from models.windows import collate_windows, window_dataset


class NetworkConfig(Protocol):
    """A frozen dataclass of hyperparameters that a job file can hold: numbers, strings and booleans."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def check(self, lookback: int, horizon: int) -> None:
        """Raise a `ModelError` if no network of this config can be built for such windows."""


@dataclass(frozen=True)
class Recipe:
    """A named way to build and train a network: its config, and darts' training arguments where callers give none."""

    config: NetworkConfig
    training: Mapping[str, Any] = field(default_factory=dict)


class NetworkModule(PLForecastingModule):  # type: ignore[misc]  # darts is untyped
    """The Lightning module of any network; subclasses name the network and its config.

    `config` arrives as a plain mapping so that checkpoints hold no class of ours and load under darts' safe loading.
    """

    network_class: ClassVar[type[nn.Module]]
    config_class: ClassVar[type[NetworkConfig]]

    def __init__(self, config: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = self.network_class(self.config_class(**config), self._window_shape())

    def _window_shape(self) -> WindowShape:
        def width(feature: str) -> int:
            shape = self.train_sample_shape.get(feature)
            return int(shape[1]) if shape else 0

        return WindowShape(
            lookback=self.input_chunk_length,
            horizon=self.output_chunk_length,
            targets=width("past_target"),
            past=width("past_covariates"),
            future=width("future_covariates"),
            static=width("static_covariates"),
            outputs=self.likelihood.num_parameters if self.likelihood is not None else 1,
            gap=self.output_chunk_shift,
        )

    @io_processor  # type: ignore[untyped-decorator]
    def forward(self, x_in: PLModuleInput) -> PLModuleOutput:
        """Hand darts' named tensors to the network; future targets are never among them."""
        forecast = self.network(
            x_in.past_target,
            x_in.past_covariates,
            x_in.historic_future_covariates,
            x_in.future_covariates,
            x_in.static_covariates,
        )
        return PLModuleOutput(prediction=forecast)  # [B, H, C, Q]


@contextmanager
def _known_classes() -> Iterator[None]:
    """Let darts' safe loading accept the model classes of the catalogue, and nothing else of ours."""
    from models.catalog import CATALOG

    with safe_globals([spec.model_class() for spec in CATALOG.values()]):
        yield


class ServiceModel(MixedCovariatesTorchModel):  # type: ignore[misc]  # darts is untyped
    """What every model of the catalogue adds to darts: fast training windows, safe loading, checked options."""

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Name the hyperparameters that may be given by keyword, beside darts' own arguments."""
        raise NotImplementedError

    def _build_train_dataset(self, *args: Any, **kwargs: Any) -> TorchTrainingDataset:
        reference = super()._build_train_dataset(*args, **kwargs)
        return window_dataset(reference) if isinstance(reference, SequentialTorchTrainingDataset) else reference

    def _setup_for_train(
        self, *args: Any, dataloader_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        loading = {"collate_fn": collate_windows, **_memory_pinning(), **(dataloader_kwargs or {})}
        setup: dict[str, Any] = super()._setup_for_train(*args, dataloader_kwargs=loading, **kwargs)
        return setup

    def _setup_for_predict(
        self, *args: Any, dataloader_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        loading = {**_memory_pinning(), **(dataloader_kwargs or {})}
        setup: dict[str, Any] = super()._setup_for_predict(*args, dataloader_kwargs=loading, **kwargs)
        return setup

    @staticmethod
    @wraps(TorchForecastingModel.load)
    def load(*args: Any, **kwargs: Any) -> TorchForecastingModel:
        """Load a model saved by `save()`; models of the catalogue are trusted, other unknown classes are refused."""
        with _known_classes():
            return TorchForecastingModel.load(*args, **kwargs)

    @staticmethod
    @wraps(TorchForecastingModel.load_from_checkpoint)
    def load_from_checkpoint(*args: Any, **kwargs: Any) -> TorchForecastingModel:
        """Load a model from darts' automatic checkpoints, as safely as `load`."""
        with _known_classes():
            return TorchForecastingModel.load_from_checkpoint(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        """Load the weights of a saved model, as safely as `load`."""
        with _known_classes():
            super().load_weights(*args, **kwargs)

    def load_weights_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Load the weights of an automatic checkpoint, as safely as `load`."""
        with _known_classes():
            super().load_weights_from_checkpoint(*args, **kwargs)


class NetworkModel(ServiceModel):
    """A darts model around one network; subclasses name its Lightning module and its recipes.

    Takes darts' own arguments, plus every field of the network's config by name.

    Parameters
    ----------
    input_chunk_length
        Look-back L in steps.
    output_chunk_length
        Horizon H in steps.
    output_chunk_shift
        Steps between the last observation and the first forecast step.
    preset
        The recipe to start from; other arguments override it.
    learning_rate
        Shorthand for `optimizer_kwargs={"lr": ...}`.

    Raises
    ------
    ModelError
        Named after what is wrong: an unknown option, a look-back or horizon that cannot work, a bad combination.

    """

    module_class: ClassVar[type[NetworkModule]]
    recipes: ClassVar[Mapping[str, Recipe]]

    def __init__(
        self,
        input_chunk_length: int,
        output_chunk_length: int,
        output_chunk_shift: int = 0,
        preset: str = "default",
        learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_window(input_chunk_length, output_chunk_length)
        if preset not in self.recipes:
            raise OptionOutOfRangeError("preset", preset, f"one of {', '.join(self.recipes)}")
        recipe = self.recipes[preset]
        options = {name: kwargs.pop(name) for name in sorted(_field_names(recipe.config)) if name in kwargs}
        check_arguments(type(self), kwargs)
        config = replace(recipe.config, **options)
        config.check(input_chunk_length, output_chunk_length)

        arguments = {
            "loss_fn": nn.MSELoss(),  # darts' default is one object, and so one train/eval state, for all models
            **recipe.training,
            **kwargs,
            "input_chunk_length": input_chunk_length,
            "output_chunk_length": output_chunk_length,
            "output_chunk_shift": output_chunk_shift,
        }
        if learning_rate is not None:
            if learning_rate <= 0:
                raise OptionOutOfRangeError("learning_rate", learning_rate, "above 0")
            arguments["optimizer_kwargs"] = {**(arguments.get("optimizer_kwargs") or {}), "lr": learning_rate}
        super().__init__(**self._extract_torch_model_params(**arguments))
        self.pl_module_params = self._extract_pl_module_params(**arguments)
        self.network_options: Mapping[str, Any] = asdict(config)
        self._considers_static_covariates = self.supports_static_covariates

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Name the config's fields, `preset` and `learning_rate`."""
        return _field_names(cls.recipes["default"].config) | {"preset", "learning_rate"}

    @property
    def supports_static_covariates(self) -> bool:
        """True: series with static covariates are fitted with them, and need them to be forecast."""
        return True

    def _create_model(self, train_sample: TorchTrainingSample) -> NetworkModule:
        del train_sample  # its shapes are already among the module's parameters
        return self.module_class(config=self.network_options, **self.pl_module_params)


class ClosedFormNetwork(Protocol):
    """A network whose weights follow from the training windows by a formula."""

    def solve(self, batches: "TrainingBatches") -> None:
        """Set the weights; may read all batches several times."""


@dataclass(frozen=True, slots=True)
class TrainingBatches:
    """The training windows in a fixed order, to be read as often as needed."""

    dataset: TorchTrainingDataset
    size: int = 512

    def __iter__(self) -> Iterator[TorchTrainingBatch]:
        return iter(DataLoader(self.dataset, batch_size=self.size, shuffle=False, collate_fn=collate_windows))


class ClosedFormModel(NetworkModel):
    """A model that is solved instead of trained: no epochs, no randomness; its network has a method `solve`.

    It makes point forecasts; sample weights and validation series have no influence.
    """

    def __init__(
        self, input_chunk_length: int, output_chunk_length: int, output_chunk_shift: int = 0, **kwargs: Any
    ) -> None:
        if kwargs.get("likelihood") is not None:
            raise OptionOutOfRangeError("likelihood", kwargs["likelihood"], "left out: the model makes point forecasts")
        super().__init__(input_chunk_length, output_chunk_length, output_chunk_shift, **kwargs)

    @property
    def supports_static_covariates(self) -> bool:
        """False: they are ignored."""
        return False

    @property
    def _requires_training(self) -> bool:
        return False

    def _build_train_dataset(self, series: Any, past_covariates: Any, future_covariates: Any, **kwargs: Any) -> Any:
        # darts builds windows without a horizon for models that need no training; these do need the targets.
        kwargs.pop("sample_weight", None)
        return window_dataset(
            SequentialTorchTrainingDataset(
                series=series,
                past_covariates=past_covariates,
                future_covariates=future_covariates,
                input_chunk_length=self.input_chunk_length,
                output_chunk_length=self.output_chunk_length,
                output_chunk_shift=self.output_chunk_shift,
                use_static_covariates=self.uses_static_covariates,
                **kwargs,
            )
        )

    def _train(
        self, trainer: pl.Trainer, model: NetworkModule, datamodule: TorchDataModule, load_best: bool = False
    ) -> None:
        sample = next(iter(TrainingBatches(datamodule.train_dataset, size=1)))
        model.to_dtype(sample.past_target.dtype)
        network: ClosedFormNetwork = model.network  # type: ignore[assignment]  # ClosedFormModel says so
        network.solve(TrainingBatches(datamodule.train_dataset))
        super()._train(trainer, model, datamodule, load_best)


def check_window(lookback: int, horizon: int) -> None:
    """Refuse windows that no model can use.

    Raises:
        LookbackTooShortError: no step to look back on.
        HorizonTooShortError: no step to forecast.

    """
    if lookback < 1:
        raise LookbackTooShortError(lookback, 1, "every model")
    if horizon < 1:
        raise HorizonTooShortError(horizon)


def check_arguments(model: type[ServiceModel], arguments: Collection[str]) -> None:
    """Refuse arguments that neither the model nor darts knows.

    Raises:
        UnknownOptionError: with the nearest option of the model.

    """
    known = set(model.option_names())
    for owner in (PLForecastingModule, *model.__mro__[:-1]):
        known |= signature(owner.__init__).parameters.keys() - {"self", "args", "kwargs"}
    for name in arguments:
        if name not in known:
            raise UnknownOptionError(name, model.__name__, model.option_names())


def _memory_pinning() -> dict[str, bool]:
    # darts always asks for pinned memory, which is a warning on machines without an accelerator.
    return {"pin_memory": torch.accelerator.is_available()}


def _field_names(config: NetworkConfig) -> frozenset[str]:
    return frozenset(entry.name for entry in fields(config))
