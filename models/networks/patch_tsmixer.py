"""PatchTSMixer: an MLP mixer over patches, with gated attention (arXiv 2306.09364; not the other TSMixer)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from darts.utils.data.torch_datasets.utils import PLModuleOutput
from darts.utils.torch import random_method
from torch import Tensor, nn
from torchmetrics import MetricCollection

from models.darts.bridge import NetworkModel
from models.darts.frame import Frame
from models.darts.module import NetworkModule
from models.darts.recipes import SHORT_TRAINING, Recipe
from models.darts.series_checks import check_values
from models.errors import LookbackTooShortError
from models.layers.dropout import Dropout
from models.layers.mixing import MixerLayer
from models.layers.patching import Patching
from models.layers.reconciliation import ChannelReconciliation, HierarchyReconciliation
from models.networks.masked_pretraining import MaskedPretraining
from models.option_checks import at_least, shares
from models.shape import WindowShape

# B batch, L past steps, H horizon, C target channels, K mixed channels (targets, then past covariates),
# F known-future covariates, N patches, D width, Q outputs


@dataclass(frozen=True, slots=True)
class PatchTSMixerConfig:
    """Sizes of the network. The defaults are the `default` preset, see `PatchTSMixerModel`."""

    width: int = 32
    """D: size of an embedded patch."""
    expansion: int = 2
    """Hidden size of every mixer, in multiples of its input."""
    layers: int = 2
    patch_length: int = 16
    patch_stride: int = 16
    dropout: float = 0.3
    head_dropout: float = 0.3
    gated: bool = True
    """Gated attention in every mixer."""
    mix_channels: bool = True
    """Hybrid mode: a channel mixer in every layer. Without it channels share weights and never meet, and past
    covariates have no influence."""
    future_hidden: int = 32
    """Hidden size of the per-step perceptron over known-future covariates."""
    channel_context: int = 0
    """Cross-channel reconciliation: each forecast step is revised by all channels' forecasts up to so many steps before
    and after it. 0 leaves the head out."""
    hierarchy: int = 0
    """Hierarchical reconciliation: each segment of so many forecast steps is revised by a forecast of its mean. The
    paper takes the patch length; 0 leaves the head out."""
    hierarchy_weight: float = 1.0
    """Weight of the loss of those means, beside the loss of the forecast itself."""

    def check(self, lookback: int, horizon: int) -> None:
        """Refuse sizes from which no network can be built.

        Raises:
            OptionOutOfRangeError: a size below 1, a dropout outside [0, 1), a head's option below 0.
            LookbackTooShortError: the look-back is shorter than a patch.

        """
        del horizon
        at_least(1, self, "width", "expansion", "layers", "patch_length", "patch_stride", "future_hidden")
        shares(self, "dropout", "head_dropout")
        at_least(0, self, "channel_context", "hierarchy", "hierarchy_weight")
        if lookback < self.patch_length:
            raise LookbackTooShortError(lookback, self.patch_length, f"a patch of {self.patch_length} steps")


class PatchTSMixer(nn.Module):
    """The network: patches, mixers, one linear head shared by all target channels, [B, H, C, Q] out.

    The paper has no exogenous inputs. Here past covariates are further channels, which the channel mixer mixes with the
    targets. Known-future covariates add a term to each forecast step, by a small perceptron that all steps share (a
    calendar value means the same at every lead time). Static covariates shift the embedded patches. The reconciliation
    heads revise the forecast: first across channels, then along the hierarchy.
    """

    def __init__(self, config: PatchTSMixerConfig, shape: WindowShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        channels = shape.targets + (shape.past if config.mix_channels else 0)
        self.patching = Patching(shape.lookback, config.patch_length, config.patch_stride)
        self.embed = nn.Linear(config.patch_length, config.width)
        if shape.static:
            self.embed_static = nn.Linear(shape.static, config.width)
        self.layers = nn.ModuleList(
            MixerLayer(
                channels if config.mix_channels else None,
                self.patching.count,
                config.width,
                config.expansion,
                config.dropout,
                config.gated,
            )
            for _ in range(config.layers)
        )
        self.head_dropout = Dropout(config.head_dropout)
        self.head = nn.Linear(self.patching.count * config.width, shape.horizon * shape.outputs)
        if shape.future:
            self.future = nn.Sequential(
                nn.Linear(shape.future, config.future_hidden),
                nn.GELU(),
                nn.Linear(config.future_hidden, shape.targets * shape.outputs),
            )
        if config.channel_context:
            self.reconcile_channels = ChannelReconciliation(shape.targets, shape.horizon, config.channel_context)
        if config.hierarchy:
            self.reconcile_hierarchy = HierarchyReconciliation(shape.horizon, config.hierarchy)

    def forward(
        self,
        past_target: Tensor,
        past_covariates: Tensor | None = None,
        historic_future: Tensor | None = None,
        future: Tensor | None = None,
        static: Tensor | None = None,
    ) -> Tensor:
        """Forecast [B, H, C, Q] from `past_target` [B, L, C] and covariates (see `WindowShape`).

        In training with the hierarchical head the result is [B, H, C, 2 Q]: the forecast, then a coarse forecast, which
        repeats the forecast mean of a segment at each of its steps. Later shifts and scalings act on both alike.
        """
        del historic_future
        targets, outputs = self.shape.targets, self.shape.outputs
        encoded = self.encode(self.patch(past_target, past_covariates), static, keep=targets)  # [C, N, B, D]
        forecast: Tensor = self.head(self.head_dropout(encoded.permute(2, 0, 1, 3).flatten(2)))  # [B, C, H * Q]
        forecast = torch.unflatten(forecast, -1, (self.shape.horizon, outputs)).transpose(1, 2)  # [B, H, C, Q]
        if future is not None:
            forecast = forecast + self.future(future).unflatten(-1, (targets, outputs))  # [B, H, C, Q]
        if self.config.channel_context:
            forecast = self.reconcile_channels(forecast)  # [B, H, C, Q]
        if self.config.hierarchy:
            forecast, means = self.reconcile_hierarchy(forecast)  # [B, H, C, Q], [B, S, C, Q]
            if self.training:
                forecast = torch.cat([forecast, self.reconcile_hierarchy.spread(means)], dim=3)  # [B, H, C, 2 Q]
        return forecast

    def patch(self, past_target: Tensor, past_covariates: Tensor | None = None) -> Tensor:
        """Cut targets and, in hybrid mode, past covariates into patches [K, N, B, length]."""
        values = past_target  # [B, L, C]
        if past_covariates is not None and self.config.mix_channels:
            values = torch.cat([values, past_covariates], dim=2)  # [B, L, K]
        patches: Tensor = self.patching(values)  # [B, K, N, length]
        return patches.permute(1, 2, 0, 3)

    def encode(self, patches: Tensor, static: Tensor | None = None, keep: int | None = None) -> Tensor:
        """Embed and mix patches [K, N, B, length]; return the first `keep` channels (None: all), [keep, N, B, D]."""
        embedded = self.embed(patches)  # [K, N, B, D]
        if static is not None:
            targets = self.shape.targets
            shift = self.embed_static(static).transpose(0, 1).unsqueeze(1)  # [1 or C, 1, B, D]
            embedded = torch.cat([embedded[:targets] + shift, embedded[targets:]])  # [K, N, B, D]
        for layer in self.layers[:-1]:
            embedded = layer(embedded)
        encoded: Tensor = self.layers[-1](embedded, keep=keep)
        return encoded


class PatchTSMixerModule(NetworkModule):
    """`PatchTSMixer` inside Lightning, with the loss of its hierarchical head."""

    network_class = PatchTSMixer
    config_class = PatchTSMixerConfig

    def _compute_loss(
        self, output: PLModuleOutput, target: Tensor, criterion: nn.Module, sample_weight: Tensor | None
    ) -> Tensor:
        """Add the loss of the segments' means, and for point forecasts their distance from the forecast's own means.

        The paper sums segments and divides the squared error by their squared length, which is the loss of their means.
        Under a likelihood the last term is left out: a quantile of a mean is not the mean of quantiles.
        """
        forecast, coarse = self._parts(output)
        loss: Tensor = super()._compute_loss(forecast, target, criterion, sample_weight)
        if coarse is None:
            return loss
        network: PatchTSMixer = cast("Any", self.network).cores[0]
        average = network.reconcile_hierarchy.average
        means = coarse.replace(prediction=average(coarse.prediction))  # [B, S, C, Q]
        weight = None if sample_weight is None else average(sample_weight)
        extra: Tensor = super()._compute_loss(means, average(target), criterion, weight)
        if self.likelihood is None:
            extra = extra + super()._compute_loss(means, average(forecast.prediction.squeeze(-1)), criterion, weight)
        return loss + extra * network.config.hierarchy_weight

    def _update_metrics(self, output: PLModuleOutput, target: Tensor, metrics: MetricCollection) -> None:
        super()._update_metrics(self._parts(output)[0], target, metrics)

    def _parts(self, output: PLModuleOutput) -> tuple[PLModuleOutput, PLModuleOutput | None]:
        """Split the output of a network in training into the forecast and the coarse forecast, if it has one."""
        outputs = self.likelihood.num_parameters if self.likelihood is not None else 1
        forecast, *coarse = output.prediction.split(outputs, dim=-1)
        return output.replace(prediction=forecast), output.replace(prediction=coarse[0]) if coarse else None


class PatchTSMixerModel(NetworkModel):
    """PatchTSMixer as a darts model; options: the fields of `PatchTSMixerConfig`.

    Presets:

    - `default`: hybrid mode, so that past covariates count; fewer and wider patches, for short training budgets on few
      cores; less dropout, for the same reason; two thirds of the official width (validation MSE .667 against .672 at
      twice as many, .673 at half, on ETTh1, horizon 96); averaged weights; the absolute error as loss, which outliers
      pull less.
    - `faithful`: the recipe of the public code for ETTh1 (channel independent, patches of 8, heavy dropout, AdamW with
      the rate decaying linearly); its look-back is 512.

    The paper scales windows in two ways, and both exist here: standard scaling of each window (`scale_windows`, on by
    default) and RevIN with learned weights (darts' `use_reversible_instance_norm={"affine": True}`, best together
    with `scale_windows=False`: a second scaling removes the effect of the weights).

    `pretrain` trains the mixers without forecasts; `fit` then starts from their weights. To fit the heads alone, name
    them in darts' `enable_finetuning={"unfreeze": ["*.head.*", "*.future.*", "*.reconcile_*"]}`.
    """

    module_class = PatchTSMixerModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(
        {
            "default": Recipe(PatchTSMixerConfig(), SHORT_TRAINING, Frame(averaging=0.995, loss="l1")),
            "faithful": Recipe(
                PatchTSMixerConfig(
                    width=48,
                    expansion=3,
                    layers=3,
                    patch_length=8,
                    patch_stride=8,
                    dropout=0.5,
                    head_dropout=0.7,
                    mix_channels=False,
                ),
                {
                    "batch_size": 32,
                    "n_epochs": 100,
                    "optimizer_cls": torch.optim.AdamW,
                    "optimizer_kwargs": {"lr": 1e-4},
                    "lr_scheduler_cls": torch.optim.lr_scheduler.LinearLR,
                    "lr_scheduler_kwargs": {"start_factor": 1.0, "end_factor": 0.01, "total_iters": 100},
                },
            ),
        }
    )

    @random_method  # type: ignore[untyped-decorator]
    def pretrain(
        self,
        series: Any,
        past_covariates: Any = None,
        future_covariates: Any = None,
        *,
        mask_ratio: float = 0.4,
        same_mask: bool = False,
        epochs: int = 0,
        verbose: bool | None = None,
    ) -> "PatchTSMixerModel":
        """Train the mixers to fill in masked patches of the look-backs, before (or instead of more) labelled data.

        The next `fit` starts from these weights, also after `save` and `load`, and has to be given the same kinds of
        covariates; a model that was fitted before has to be fitted again. Backtests that retrain start without them.

        Series, covariates, `epochs` and `verbose` are as for `fit`. `mask_ratio` is the share of patches that is masked
        in each window and channel, `same_mask` masks the same ones in all channels of a window.

        Raises:
            MissingValuesError: a series holds NaN.
            OptionOutOfRangeError: a share outside (0, 1), or overlapping patches.
            LookbackTooShortError: the look-back has fewer than two patches.

        """
        given = {"series": series, "past_covariates": past_covariates, "future_covariates": future_covariates}
        for name, feature in given.items():
            check_values(feature, name)
        _, arguments = self._setup_for_fit_from_dataset(**given)
        setup = self._setup_for_train(**arguments)
        module: PatchTSMixerModule = setup["model"]
        task = MaskedPretraining(module, mask_ratio, same_mask)
        shown = {} if verbose is None else {"enable_progress_bar": verbose, "enable_model_summary": verbose}
        # The model's callbacks (early stopping, checkpoints) need the losses and files of a forecaster.
        own = {**self.trainer_params, "callbacks": None, "enable_checkpointing": False, **shown}
        module.requires_grad_(True)
        self._init_trainer(own, max_epochs=epochs or self.n_epochs).fit(task, setup["datamodule"].train_dataloader())
        self._setup_finetuning(module)
        self.model, self._fit_called = module, False
        # darts saves the module of its trainer and reads the number of fitted epochs there: none.
        self.trainer = setup["trainer"]
        self.trainer.strategy.connect(module)
        return self
