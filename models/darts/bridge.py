"""From a plain torch network to a darts model, written once.

A model file holds a network (`nn.Module`, knows no darts), its frozen config, a `NetworkModule` that names both, and a
`NetworkModel` that names the module and its recipes. Everything a darts model promises (covariates, likelihoods,
backtests, saving) comes from here.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from functools import wraps
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol
from zipfile import ZipFile

import pytorch_lightning as pl
import torch
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule, io_processor
from darts.models.forecasting.torch_forecasting_model import MixedCovariatesTorchModel, TorchForecastingModel
from darts.utils.data import SequentialTorchTrainingDataset, TorchTrainingDataset
from darts.utils.data.torch_datasets._data_module import TorchDataModule
from darts.utils.data.torch_datasets.utils import (
    ModuleStage,
    PLModuleInput,
    PLModuleOutput,
    TorchTrainingBatch,
    TorchTrainingSample,
)
from darts.utils.serialization import safe_globals
from darts.utils.serialization.torch import load_ckpt_safely
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from models.darts.frame import LOSSES, Frame, FramedNetwork, averaged
from models.darts.seeds import SeededData, SeededEpochs
from models.darts.series_checks import check_channels, check_values
from models.darts.windows import WindowDataset, collate_windows, window_dataset
from models.errors import HorizonTooShortError, LookbackTooShortError, OptionOutOfRangeError, UnknownOptionError
from models.shape import WindowShape


class NetworkConfig(Protocol):
    """A frozen dataclass of hyperparameters that a job file can hold: numbers, strings and booleans."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def check(self, lookback: int, horizon: int) -> None:
        """Raise a `ModelError` if no network of this config can be built for such windows."""


@dataclass(frozen=True)
class Recipe:
    """A named way to build and train a network: its config, darts' training arguments, and the frame around it."""

    config: NetworkConfig
    training: Mapping[str, Any] = field(default_factory=dict)
    """darts' arguments where callers give none."""
    frame: Frame | None = field(default_factory=Frame)
    """None for networks that are solved and not trained: they stand alone."""


ENSEMBLE = 3
"""Members of the preset `ensemble`."""

SHORT_TRAINING: Mapping[str, Any] = MappingProxyType(
    {
        "batch_size": 32,
        "n_epochs": 10,
        "optimizer_cls": AdamW,
        "optimizer_kwargs": {"lr": 5e-4},
        # A rate that falls from the first epoch on: a nightly budget may end the training at any of them.
        "lr_scheduler_cls": torch.optim.lr_scheduler.ExponentialLR,
        "lr_scheduler_kwargs": {"gamma": 0.8},
    }
)
"""How the `default` presets train: few epochs on few cores."""


def official_training(rate: float, epochs: int) -> Mapping[str, Any]:
    """Train as the official codes of Informer, iTransformer and S-Mamba do.

    Adam on batches of 32, epochs 1 and 2 at the full rate, each later one at half of the rate before.
    """
    return {
        "batch_size": 32,
        "n_epochs": epochs,
        "optimizer_cls": Adam,
        "optimizer_kwargs": {"lr": rate},
        "lr_scheduler_cls": torch.optim.lr_scheduler.MultiStepLR,
        "lr_scheduler_kwargs": {"milestones": list(range(2, epochs)), "gamma": 0.5},
    }


class NetworkModule(PLForecastingModule):  # type: ignore[misc]  # darts is untyped
    """The Lightning module of any network; subclasses name the network and its config.

    `config` and `framing` arrive as plain mappings so that checkpoints hold no class of ours and load under darts' safe
    loading.
    """

    network_class: ClassVar[type[nn.Module]]
    config_class: ClassVar[type[NetworkConfig]]

    def __init__(self, config: Mapping[str, Any], framing: Mapping[str, Any] | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        shape = self._window_shape()
        settings = self.config_class(**config)
        self.frame = Frame(**framing) if framing is not None else None
        if self.frame is None:
            self.network: nn.Module = self.network_class(settings, shape)
        else:
            self.network = FramedNetwork(lambda: self.network_class(settings, shape), self.frame, shape)
        self.averaged = averaged(self.network, self.frame.averaging) if self.frame and self.frame.averaging else None
        self._epoch_loss = torch.zeros(())

    @property
    def forecaster(self) -> nn.Module:
        """The network that makes forecasts: in evaluation the averaged one, if weights are averaged."""
        return self.network if self.averaged is None or self.training else self.averaged.module

    def training_step(self, train_batch: TorchTrainingBatch, batch_idx: int) -> Tensor:
        """Train every member on the batch; members share no weight, so one loss serves all.

        The mean loss is logged once per epoch: Lightning's log of each step would cost as much as a small network's
        optimiser.
        """
        members = self.frame.members if self.frame else 1
        if members > 1:
            parts = {entry.name: getattr(train_batch, entry.name) for entry in fields(train_batch)}
            train_batch = TorchTrainingBatch(
                **{name: tensor.repeat(members, 1, 1) for name, tensor in parts.items() if tensor is not None}
            )
        output = self(train_batch.to_module_input(stage=ModuleStage.TRAIN))
        target = train_batch.future_target
        loss: Tensor = self._compute_loss(output, target, self.train_criterion, train_batch.sample_weight)
        self._update_metrics(output, target, self.train_metrics)
        seen = loss.detach()
        self._epoch_loss = seen if batch_idx == 0 else self._epoch_loss + seen
        if self.trainer.is_last_batch:
            self.log("train_loss", self._epoch_loss / (batch_idx + 1), prog_bar=True, sync_dist=True, batch_size=1)
        return loss

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the loss of the checkpoint, which darts 0.48.1 restores by name but not where it trains."""
        super().on_load_checkpoint(checkpoint)
        self.train_criterion, self.val_criterion = deepcopy(self.criterion), deepcopy(self.criterion)

    def on_train_batch_end(self, *args: Any) -> None:
        """Let the averaged weights follow."""
        super().on_train_batch_end(*args)
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip bfloat16's gradients here: Lightning clips none of a fused optimiser, since it may have to unscale them.

        Those of bfloat16 have no scale.
        """
        if gradient_clip_val and str(self.trainer.precision) == "bf16-mixed" and gradient_clip_algorithm is None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

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
        forecast = self.forecaster(
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


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """Read what Lightning saved of a training, on the CPU and without running any code of the file.

    Raises:
        OSError, RuntimeError, ValueError, pickle.UnpicklingError: the file cannot be read, is damaged (a check sum of
            the archive differs), or holds more than numbers and the classes that darts trusts.

    """
    with ZipFile(path) as archive:
        damaged = archive.testzip()  # torch itself does not look at the check sums
    if damaged is not None:
        raise ValueError(f'the check sum of "{damaged}" differs')
    content: Mapping[str, Any] = load_ckpt_safely(torch.load, path, map_location="cpu")
    return content


class ServiceModel(MixedCovariatesTorchModel):  # type: ignore[misc]  # darts is untyped
    """What every model of the catalogue adds to darts: fast training windows, safe loading, checked options."""

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Name the hyperparameters that may be given by keyword, beside darts' own arguments."""
        raise NotImplementedError

    def fit(self, series: Any, *args: Any, **kwargs: Any) -> "ServiceModel":
        """Fit as darts does, and refuse series with missing values, which would silently spoil every weight.

        Raises:
            MissingValuesError: a training series or covariate holds NaN.

        """
        given = signature(TorchForecastingModel.fit).bind(self, series, *args, **kwargs).arguments
        for name in ("series", "past_covariates", "future_covariates"):
            check_values(given.get(name), name)
        fitted: ServiceModel = super().fit(series, *args, **kwargs)
        return fitted

    def predict(self, n: int, series: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Forecast as darts does, and refuse windows that the model was not fitted for.

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
        # Fine-tuning may use another rate, loss and dropout than the training that it starts from.
        free = [name for name in self.option_names() if name.endswith("dropout")]
        return [*super()._ckpt_skipped_params, "learning_rate", "loss", *free]

    def _build_train_dataset(self, *args: Any, **kwargs: Any) -> TorchTrainingDataset:
        reference = super()._build_train_dataset(*args, **kwargs)
        return window_dataset(reference) if isinstance(reference, SequentialTorchTrainingDataset) else reference

    def _setup_for_train(
        self, *args: Any, dataloader_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        loading = {"collate_fn": collate_windows, **_memory_pinning(), **(dataloader_kwargs or {})}
        setup: dict[str, Any] = super()._setup_for_train(*args, dataloader_kwargs=loading, **kwargs)
        self._place_windows(setup["datamodule"], setup["trainer"])
        seed = self.model_params.get("random_state")
        if seed is not None and not loading.keys() & {"sampler", "batch_sampler", "shuffle"}:
            setup["datamodule"] = SeededData(setup["datamodule"], seed)
            setup["trainer"].callbacks.append(SeededEpochs(seed))
        return setup

    @staticmethod
    def _place_windows(data: TorchDataModule, trainer: pl.Trainer) -> None:
        """Keep the training windows on the GPU that trains, where it alone does so and they leave it room."""
        device = trainer.strategy.root_device
        windows = [part for part in (data.train_dataset, data.val_dataset) if isinstance(part, WindowDataset)]
        if device.type != "cuda" or trainer.num_devices > 1 or data.dataloader_kwargs.get("num_workers"):
            return
        if sum(part.nbytes for part in windows) < torch.cuda.mem_get_info(device)[0] / 4:
            for part in windows:
                part.to(device)
            data.dataloader_kwargs["pin_memory"] = False  # it is memory of the host

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
        The recipe to start from, one of `presets()`; other arguments override it.
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
            # A loss of its own: darts' default is one object, and so one train/eval state, for all models.
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
            rates.setdefault("fused", True)  # one pass over all weights: a fifth of a small network's step otherwise
        super().__init__(**self._extract_torch_model_params(**arguments))
        self.pl_module_params = self._extract_pl_module_params(**arguments | {"optimizer_kwargs": rates})
        self.network_options: Mapping[str, Any] = asdict(config)
        self.frame_options: Mapping[str, Any] | None = asdict(frame) if frame else None
        self._considers_static_covariates = self.supports_static_covariates

    @classmethod
    def presets(cls) -> Mapping[str, Recipe]:
        """Name the recipes there are: the model's own and, of trained networks, `ensemble`.

        That is the default three times over, from three seeds: three times the cost, and less error.
        """
        default = cls.recipes["default"]
        if default.frame is None:
            return cls.recipes
        return {**cls.recipes, "ensemble": replace(default, frame=replace(default.frame, members=ENSEMBLE))}

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Name the fields of config and frame, `preset` and `learning_rate`."""
        recipe = cls.recipes["default"]
        framing = _field_names(recipe.frame) if recipe.frame else frozenset()
        return _field_names(recipe.config) | framing | {"preset", "learning_rate"}

    @property
    def supports_static_covariates(self) -> bool:
        """True: series with static covariates are fitted with them, and need them to be forecast."""
        return True

    def _create_model(self, train_sample: TorchTrainingSample) -> NetworkModule:
        del train_sample  # its shapes are already among the module's parameters
        return self.module_class(config=self.network_options, framing=self.frame_options, **self.pl_module_params)


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


def _field_names(config: NetworkConfig | Frame) -> frozenset[str]:
    return frozenset(entry.name for entry in fields(config))
