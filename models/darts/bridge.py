"""The darts models around plain torch networks.

The file of a model holds a network (an `nn.Module` without darts), its frozen config, a `NetworkModule` that names
both, and a `NetworkModel` that names the module and its recipes. The features of a darts model (covariates,
likelihoods, backtests, saving) come from the classes of this file.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZipFile

import pytorch_lightning as pl
import torch
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.models.forecasting.torch_forecasting_model import MixedCovariatesTorchModel, TorchForecastingModel
from darts.utils.data import SequentialTorchTrainingDataset, TorchTrainingDataset
from darts.utils.data.torch_datasets._data_module import TorchDataModule
from darts.utils.data.torch_datasets.utils import (
    TorchTrainingSample,
)
from darts.utils.serialization import safe_globals
from darts.utils.serialization.torch import load_ckpt_safely
from torch.optim import Adam, AdamW

from models.darts.former_names import FORMER_MODULES, former_names
from models.darts.frame import LOSSES, Frame
from models.darts.module import NetworkModule
from models.darts.recipes import ENSEMBLE, NetworkConfig, Recipe
from models.darts.seeds import SeededData, SeededEpochs
from models.darts.series_checks import check_channels, check_values
from models.darts.windows import WindowDataset, collate_windows, window_dataset
from models.errors import HorizonTooShortError, LookbackTooShortError, OptionOutOfRangeError, UnknownOptionError


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """Read a Lightning checkpoint, on the CPU and without running any code of the file.

    Raises:
        OSError, RuntimeError, ValueError, pickle.UnpicklingError: the file cannot be read, is damaged (a checksum
            of the archive differs), or holds more than numbers and classes that darts trusts.

    """
    with ZipFile(path) as archive:
        damaged = archive.testzip()  # torch itself does not verify the checksums
    if damaged is not None:
        raise ValueError(f'the checksum of "{damaged}" differs')
    content: Mapping[str, Any] = load_ckpt_safely(torch.load, path, map_location="cpu")
    return content


class ServiceModel(MixedCovariatesTorchModel):  # type: ignore[misc]  # darts is untyped
    """Base class of all models of the catalogue: darts with fast training windows, safe loading and checked options."""

    _module_path: str  # set by darts: the module of the Lightning class

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the names of the model's own keyword arguments; darts' arguments come beside them."""
        raise NotImplementedError

    def fit(self, series: Any, *args: Any, **kwargs: Any) -> "ServiceModel":
        """Fit as darts does, but refuse series with missing values, which would silently turn every weight into NaN.

        Raises:
            MissingValuesError: a training series or covariate holds NaN.

        """
        given = signature(TorchForecastingModel.fit).bind(self, series, *args, **kwargs).arguments
        for name in ("series", "past_covariates", "future_covariates"):
            check_values(given.get(name), name)
        fitted: ServiceModel = super().fit(series, *args, **kwargs)
        return fitted

    def predict(self, n: int, series: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Forecast as darts does, but refuse windows that do not fit the training.

        Raises:
            ChannelCountError: another number of channels than in training.
            MissingValuesError: the look-back window holds NaN.

        """
        if self.model is not None and series is not None:
            check_channels(series, self.model.train_sample_shape["past_target"][1], type(self).__name__)
            check_values(series, "series", last=self.input_chunk_length)
        return super().predict(n, series, *args, **kwargs)

    @property
    def _ckpt_skipped_params(self) -> list[str]:
        # Fine-tuning may change the rate, the loss and the dropout of the training that it continues.
        free = [name for name in self.option_names() if name.endswith("dropout")]
        return [*super()._ckpt_skipped_params, "learning_rate", "loss", *free]

    def _build_train_dataset(self, *args: Any, **kwargs: Any) -> TorchTrainingDataset:
        reference = super()._build_train_dataset(*args, **kwargs)
        return window_dataset(reference) if isinstance(reference, SequentialTorchTrainingDataset) else reference

    def _setup_for_train(
        self, *args: Any, dataloader_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        loading = {"collate_fn": collate_windows, **_pinned_memory(), **(dataloader_kwargs or {})}
        setup: dict[str, Any] = super()._setup_for_train(*args, dataloader_kwargs=loading, **kwargs)
        self._place_windows(setup["datamodule"], setup["trainer"])
        seed = self.model_params.get("random_state")
        if seed is not None and not loading.keys() & {"sampler", "batch_sampler", "shuffle"}:
            setup["datamodule"] = SeededData(setup["datamodule"], seed)
            setup["trainer"].callbacks.append(SeededEpochs(seed))
        return setup

    @staticmethod
    def _place_windows(data: TorchDataModule, trainer: pl.Trainer) -> None:
        """Move the training windows to a GPU that trains alone, if they take less than a quarter of its free memory."""
        device = trainer.strategy.root_device
        windows = [part for part in (data.train_dataset, data.val_dataset) if isinstance(part, WindowDataset)]
        if device.type != "cuda" or trainer.num_devices > 1 or data.dataloader_kwargs.get("num_workers"):
            return
        if sum(part.nbytes for part in windows) < torch.cuda.mem_get_info(device)[0] / 4:
            for part in windows:
                part.to(device)
            data.dataloader_kwargs["pin_memory"] = False  # pinning is for memory of the host

    def _setup_for_predict(
        self, *args: Any, dataloader_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        loading = {**_pinned_memory(), **(dataloader_kwargs or {})}
        setup: dict[str, Any] = super()._setup_for_predict(*args, dataloader_kwargs=loading, **kwargs)
        return setup

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> TorchForecastingModel:
        """Load a model of this class that `save` wrote; arguments as in darts.

        darts refuses files that name any other class of ours. `ServiceModel.load` accepts every model class that the
        process has imported.
        """
        with _trusting(cls):
            return TorchForecastingModel.load(*args, **kwargs)

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> TorchForecastingModel:
        """Load a model from darts' automatic checkpoints, as safely as `load`."""
        with _trusting(cls):
            return TorchForecastingModel.load_from_checkpoint(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        """Load the weights of a saved model, as safely as `load`."""
        with _trusting(type(self)):
            super().load_weights(*args, **kwargs)

    def load_weights_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Load the weights of an automatic checkpoint, as safely as `load`."""
        with _trusting(type(self)):
            super().load_weights_from_checkpoint(*args, **kwargs)

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> PLForecastingModule:
        self._module_path = FORMER_MODULES.get(self._module_path, self._module_path)
        return super()._load_from_checkpoint(*args, **kwargs)


def _trusting(model_class: type[ServiceModel]) -> AbstractContextManager[None]:
    classes = trusted_classes(model_class)
    trusted: AbstractContextManager[None] = safe_globals([*classes, *former_names(classes)])
    return trusted


def trusted_classes(model_class: type[ServiceModel]) -> list[type[ServiceModel]]:
    """List the classes that a file of `model_class` may name: the class itself and its imported subclasses."""
    subclasses = model_class.__subclasses__()
    return [model_class, *(trusted for subclass in subclasses for trusted in trusted_classes(subclass))]


class NetworkModel(ServiceModel):
    """A darts model around one network; subclasses name its Lightning module and its recipes.

    Takes darts' own arguments, and every field of the network's config and of its `Frame` by name:

    >>> from models.networks.itransformer import ITransformerModel
    >>> model = ITransformerModel(input_chunk_length=96, output_chunk_length=24, width=32, learning_rate=1e-3)
    >>> sorted(ITransformerModel.presets())
    ['default', 'ensemble', 'faithful']

    Parameters
    ----------
    input_chunk_length
        Look-back L in steps.
    output_chunk_length
        Horizon H in steps.
    output_chunk_shift
        Steps between the last observation and the first forecast step.
    preset
        The recipe to start from, one of `presets()`; other arguments override it.
    learning_rate
        Shorthand for `optimizer_kwargs={"lr": ...}`.

    Raises
    ------
    ModelError
        An option is unknown or out of range, or does not fit the look-back, the horizon or another option.

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
        presets = self.presets()
        if preset not in presets:
            raise OptionOutOfRangeError("preset", preset, f"one of {', '.join(presets)}")
        recipe = presets[preset]
        if kwargs.keys() & {"likelihood", "loss_fn"} and "loss" in kwargs:
            raise OptionOutOfRangeError("loss", kwargs["loss"], "left out where a likelihood or a loss_fn is given")
        options = {name: kwargs.pop(name) for name in sorted(_field_names(recipe.config)) if name in kwargs}
        config = replace(recipe.config, **options)
        config.check(input_chunk_length, output_chunk_length)
        frame = recipe.frame
        if frame is not None:
            frame = replace(frame, **{name: kwargs.pop(name) for name in sorted(_field_names(frame)) if name in kwargs})
            frame.check()
        check_arguments(type(self), kwargs)

        arguments = {
            # Each model gets its own loss: darts' default is one object, with one train/eval state, for all models.
            "loss_fn": LOSSES[frame.loss if frame else "mse"](),
            **recipe.training,
            **kwargs,
            "input_chunk_length": input_chunk_length,
            "output_chunk_length": output_chunk_length,
            "output_chunk_shift": output_chunk_shift,
        }
        rates = dict(arguments.get("optimizer_kwargs") or {})
        if learning_rate is not None:
            if learning_rate <= 0:
                raise OptionOutOfRangeError("learning_rate", learning_rate, "above 0")
            rates["lr"] = learning_rate
        if arguments.get("optimizer_cls", Adam) in {Adam, AdamW}:
            rates.setdefault("fused", True)  # one pass over all weights; otherwise a fifth of a small network's step
        super().__init__(**self._extract_torch_model_params(**arguments))
        self.pl_module_params = self._extract_pl_module_params(**arguments | {"optimizer_kwargs": rates})
        self.network_options: Mapping[str, Any] = asdict(config)
        self.frame_options: Mapping[str, Any] | None = asdict(frame) if frame else None
        self._considers_static_covariates = self.supports_static_covariates

    @classmethod
    def presets(cls) -> Mapping[str, Recipe]:
        """Return the recipes by name: the model's own and, for trained networks, `ensemble`.

        `ensemble` averages three networks of the default recipe, from three seeds: three times the cost, less error.
        """
        default = cls.recipes["default"]
        if default.frame is None:
            return cls.recipes
        return {**cls.recipes, "ensemble": replace(default, frame=replace(default.frame, members=ENSEMBLE))}

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the fields of config and frame, `preset` and `learning_rate`."""
        recipe = cls.recipes["default"]
        framing = _field_names(recipe.frame) if recipe.frame else frozenset()
        return _field_names(recipe.config) | framing | {"preset", "learning_rate"}

    @property
    def supports_static_covariates(self) -> bool:
        """True: a model fitted with static covariates also needs them to forecast."""
        return True

    def _create_model(self, train_sample: TorchTrainingSample) -> NetworkModule:
        del train_sample  # its shapes are already among the module's parameters
        return self.module_class(config=self.network_options, framing=self.frame_options, **self.pl_module_params)


def check_window(lookback: int, horizon: int) -> None:
    """Refuse windows without a step.

    Raises:
        LookbackTooShortError: the look-back has no step.
        HorizonTooShortError: the horizon has no step.

    """
    if lookback < 1:
        raise LookbackTooShortError(lookback, 1, "every model")
    if horizon < 1:
        raise HorizonTooShortError(horizon)


def check_arguments(model: type[ServiceModel], arguments: Collection[str]) -> None:
    """Refuse arguments that neither the model nor darts knows.

    Raises:
        UnknownOptionError: an argument is unknown; the message names the nearest option.

    """
    known = set(model.option_names())
    for owner in (PLForecastingModule, *model.__mro__[:-1]):
        known |= signature(owner.__init__).parameters.keys() - {"self", "args", "kwargs"}
    for name in arguments:
        if name not in known:
            raise UnknownOptionError(name, model.__name__, model.option_names())


def _pinned_memory() -> dict[str, bool]:
    # darts always requests pinned memory, which raises a warning on machines without an accelerator.
    return {"pin_memory": torch.accelerator.is_available()}


def _field_names(config: NetworkConfig | Frame) -> frozenset[str]:
    return frozenset(entry.name for entry in fields(config))
