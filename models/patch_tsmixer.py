"""PatchTSMixer: an MLP mixer over patches, with gated attention (arXiv 2306.09364; not the other TSMixer)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.darts_bridge import NetworkModel, NetworkModule, Recipe
from models.errors import LookbackTooShortError, OptionOutOfRangeError
from models.layers.dropout import Dropout
from models.layers.feed_forward import FeedForward, GatedAttention
from models.layers.patching import Patching
from models.shape import WindowShape

# B batch, L past steps, H horizon, C target channels, K mixed channels (targets, then past covariates),
# F known-future covariates, N patches, D width, Q outputs


@dataclass(frozen=True, slots=True)
class PatchTSMixerConfig:
    """Sizes of the network. The defaults are the `default` preset, see `PatchTSMixerModel`."""

    width: int = 64
    """D: size of an embedded patch."""
    expansion: int = 2
    """Hidden size of every mixer, in multiples of its input."""
    layers: int = 2
    patch_length: int = 16
    patch_stride: int = 16
    dropout: float = 0.1
    head_dropout: float = 0.1
    gated: bool = True
    """Gated attention in every mixer."""
    mix_channels: bool = True
    """Hybrid mode: a channel mixer in every layer. Without it channels share weights and never meet, and past
    covariates have no influence."""
    future_hidden: int = 32
    """Hidden size of the per-step perceptron over known-future covariates."""

    def check(self, lookback: int, horizon: int) -> None:
        """Refuse sizes that make no network.

        Raises:
            OptionOutOfRangeError: a size below 1 or a dropout outside [0, 1).
            LookbackTooShortError: the look-back is shorter than a patch.

        """
        del horizon
        for option in ("width", "expansion", "layers", "patch_length", "patch_stride", "future_hidden"):
            if getattr(self, option) < 1:
                raise OptionOutOfRangeError(option, getattr(self, option), "1 or more")
        for option in ("dropout", "head_dropout"):
            if not 0 <= getattr(self, option) < 1:
                raise OptionOutOfRangeError(option, getattr(self, option), "at least 0 and below 1")
        if lookback < self.patch_length:
            raise LookbackTooShortError(lookback, self.patch_length, f"a patch of {self.patch_length} steps")


class Mixer(nn.Module):
    """A residual perceptron along one dimension of [B, K, N, D], after a LayerNorm over D (section 3.2).

    `axis` 1 mixes channels, 2 patches, 3 features. Patch and feature mixers gate what the perceptron gives; the channel
    mixer gates what it gets.
    """

    def __init__(self, axis: int, size: int, config: PatchTSMixerConfig) -> None:
        super().__init__()
        self.axis = axis
        self.norm = nn.LayerNorm(config.width)
        mlp = FeedForward(size, config.expansion * size, config.dropout)
        gate = GatedAttention(size) if config.gated else nn.Identity()
        self.mix = nn.Sequential(gate, mlp) if axis == 1 else nn.Sequential(mlp, gate)

    def forward(self, patches: Tensor) -> Tensor:
        """Embedded patches [B, K, N, D] in and out."""
        mixed: Tensor = self.mix(self.norm(patches).transpose(self.axis, 3)).transpose(self.axis, 3)
        return patches + mixed


class MixerLayer(nn.Module):
    """Channel mixer in hybrid mode (`channels` is not None), then patch mixer, then feature mixer."""

    def __init__(self, channels: int | None, patches: int, config: PatchTSMixerConfig) -> None:
        super().__init__()
        self.channels = Mixer(1, channels, config) if channels is not None else nn.Identity()
        self.patches = Mixer(2, patches, config)
        self.features = Mixer(3, config.width, config)

    def forward(self, patches: Tensor, keep: int | None = None) -> Tensor:
        """Embedded patches [B, K, N, D] in and out; `keep` drops all but the first channels, [B, keep, N, D].

        After the channel mixer no channel looks at another, so the last layer need not finish those that nobody reads.
        """
        mixed: Tensor = self.features(self.patches(self.channels(patches)[:, :keep]))
        return mixed


class PatchTSMixer(nn.Module):
    """The network: patches, mixers, one linear head shared by all target channels, [B, H, C, Q] out.

    The paper has no exogenous inputs. Here past covariates are further channels, which the channel mixer brings to the
    targets; known-future covariates add a term to each forecast step through a small perceptron shared by all steps (a
    step's calendar means the same whenever it is forecast); static covariates shift the embedded patches.
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
            MixerLayer(channels if config.mix_channels else None, self.patching.count, config)
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

    def forward(
        self,
        past_target: Tensor,
        past_covariates: Tensor | None = None,
        historic_future: Tensor | None = None,
        future: Tensor | None = None,
        static: Tensor | None = None,
    ) -> Tensor:
        """Forecast [B, H, C, Q] from `past_target` [B, L, C] and covariates (see `WindowShape`)."""
        del historic_future
        targets, outputs = self.shape.targets, self.shape.outputs
        values = past_target  # [B, L, C]
        if past_covariates is not None and self.config.mix_channels:
            values = torch.cat([values, past_covariates], dim=2)  # [B, L, K]
        patches = self.embed(self.patching(values))  # [B, K, N, D]
        if static is not None:
            shift = self.embed_static(static).unsqueeze(2)  # [B, 1 or C, 1, D]
            patches = torch.cat([patches[:, :targets] + shift, patches[:, targets:]], dim=1)  # [B, K, N, D]
        for layer in self.layers[:-1]:
            patches = layer(patches)
        patches = self.layers[-1](patches, keep=targets)  # [B, C, N, D]
        forecast = self.head(self.head_dropout(patches.flatten(2)))  # [B, C, H * Q]
        forecast = forecast.unflatten(-1, (self.shape.horizon, outputs)).transpose(1, 2)  # [B, H, C, Q]
        if future is not None:
            forecast = forecast + self.future(future).unflatten(-1, (targets, outputs))  # [B, H, C, Q]
        return forecast


class PatchTSMixerModule(NetworkModule):
    """`PatchTSMixer` inside Lightning."""

    network_class = PatchTSMixer
    config_class = PatchTSMixerConfig


class PatchTSMixerModel(NetworkModel):
    """PatchTSMixer as a darts model; options: the fields of `PatchTSMixerConfig`.

    Presets:

    - `default`: hybrid mode, so that past covariates count; fewer and wider patches, for short training budgets on few
      cores; little dropout, for the same reason.
    - `faithful`: the recipe of the public code for ETTh1 (channel independent, patches of 8, heavy dropout, AdamW with
      the rate decaying linearly); its look-back is 512.
    """

    module_class = PatchTSMixerModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(
        {
            "default": Recipe(
                PatchTSMixerConfig(),
                {
                    "batch_size": 64,
                    "n_epochs": 10,
                    "optimizer_cls": torch.optim.AdamW,
                    "optimizer_kwargs": {"lr": 1e-3},
                },
            ),
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
