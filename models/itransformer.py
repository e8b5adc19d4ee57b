"""iTransformer: attention across variates, each variate's whole history one token (arXiv 2310.06625)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.darts_bridge import NetworkModel, NetworkModule, Recipe
from models.errors import OptionOutOfRangeError, WidthNotDivisibleError
from models.layers.attention import SelfAttention
from models.layers.dropout import Dropout
from models.layers.embedding import VariateEmbedding
from models.layers.feed_forward import FeedForward
from models.shape import WindowShape

# B batch, L steps, H horizon, C target channels, P past and F known-future covariates, V tokens, D width, Q outputs


@dataclass(frozen=True, slots=True)
class ITransformerConfig:
    """Sizes of the network. The defaults are the `default` preset, see `ITransformerModel`."""

    width: int = 128
    """D: size of a token."""
    feed_forward: int = 256
    """Hidden size of the perceptron that each token passes."""
    layers: int = 2
    heads: int = 8
    dropout: float = 0.1
    attention_dropout: float = 0.0
    """On attention weights; above 0 it keeps torch from its fused kernel while training."""
    shared_embedding: bool = False
    """One embedding for all tokens, as in the official code; it reads covariates over the look-back only."""

    def check(self, lookback: int, horizon: int) -> None:
        """Refuse sizes that make no network.

        Raises:
            OptionOutOfRangeError: a size below 1 or a dropout outside [0, 1).
            WidthNotDivisibleError: the width is no multiple of the heads.

        """
        del lookback, horizon
        for option in ("width", "feed_forward", "layers", "heads"):
            if getattr(self, option) < 1:
                raise OptionOutOfRangeError(option, getattr(self, option), "1 or more")
        for option in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, option) < 1:
                raise OptionOutOfRangeError(option, getattr(self, option), "at least 0 and below 1")
        if self.width % self.heads:
            raise WidthNotDivisibleError(self.width, self.heads)


class EncoderLayer(nn.Module):
    """Attention between tokens, then a perceptron on each; normalised after each residual sum (section 3.1)."""

    def __init__(self, config: ITransformerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads, config.attention_dropout)
        self.dropout = Dropout(config.dropout)
        self.norm_attention = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.feed_forward, config.dropout)
        self.norm_feed_forward = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, V, D] in and out."""
        tokens = self.norm_attention(tokens + self.dropout(self.attention(tokens)))
        output: Tensor = self.norm_feed_forward(tokens + self.feed_forward(tokens))
        return output  # [B, V, D]


class ITransformer(nn.Module):
    """The network: targets and covariates become variate tokens, and the targets' tokens become forecasts.

    With embeddings of their own, past covariates are read over the look-back and known-future covariates over look-back
    and horizon together, which lets the forecast use what is known ahead; static covariates are added to the targets'
    tokens. Dimensions of the output: [B, H, C, Q].
    """

    def __init__(self, config: ITransformerConfig, shape: WindowShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.embed_target = VariateEmbedding(shape.lookback, config.width)
        if not config.shared_embedding:
            if shape.past:
                self.embed_past = VariateEmbedding(shape.lookback, config.width)
            if shape.future:
                self.embed_future = VariateEmbedding(shape.lookback + shape.horizon, config.width)
            if shape.static:
                self.embed_static = nn.Linear(shape.static, config.width)
        self.dropout = Dropout(config.dropout)
        self.encoder = nn.Sequential(*(EncoderLayer(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, shape.horizon * shape.outputs)

    def forward(
        self,
        past_target: Tensor,
        past_covariates: Tensor | None = None,
        historic_future: Tensor | None = None,
        future: Tensor | None = None,
        static: Tensor | None = None,
    ) -> Tensor:
        """Forecast [B, H, C, Q] from `past_target` [B, L, C] and covariates (see `WindowShape`)."""
        tokens = self.dropout(self._tokens(past_target, past_covariates, historic_future, future, static))  # [B, V, D]
        encoded = self.norm(self.encoder(tokens))[:, : self.shape.targets]  # [B, C, D]
        forecast: Tensor = self.head(encoded)  # [B, C, H * Q]
        return forecast.unflatten(-1, (self.shape.horizon, self.shape.outputs)).transpose(1, 2)  # [B, H, C, Q]

    def _tokens(
        self,
        values: Tensor,
        past_covariates: Tensor | None,
        historic_future: Tensor | None,
        future: Tensor | None,
        static: Tensor | None,
    ) -> Tensor:
        """Put the targets' tokens first, then past, then known-future covariates, [B, C + P + F, D]."""
        if self.config.shared_embedding:
            known = [part for part in (values, past_covariates, historic_future) if part is not None]
            shared: Tensor = self.embed_target(torch.cat(known, dim=2))
            return shared  # [B, C + P + F, D]
        targets = self.embed_target(values)  # [B, C, D]
        if static is not None:
            targets = targets + self.embed_static(static)  # [B, C, D]
        tokens = [targets]
        if past_covariates is not None:
            tokens.append(self.embed_past(past_covariates))  # [B, P, D]
        if historic_future is not None and future is not None:
            tokens.append(self.embed_future(torch.cat([historic_future, future], dim=1)))  # [B, F, D]
        return torch.cat(tokens, dim=1)


class ITransformerModule(NetworkModule):
    """`ITransformer` inside Lightning."""

    network_class = ITransformer
    config_class = ITransformerConfig


class ITransformerModel(NetworkModel):
    """iTransformer as a darts model; options: the fields of `ITransformerConfig`.

    Presets:

    - `default`: embeddings of their own for covariates, so that future values of known covariates reach the forecast;
      half the width of the official recipe and Adam at 1e-3, chosen for short training budgets on few cores; no dropout
      on attention weights, which would keep torch from its fused kernel.
    - `faithful`: the official recipe for ETTh1 at horizons 96 and 192 (width 256; 512 for 336 and 720), covariates
      through the targets' own embedding without their future values.
    """

    module_class = ITransformerModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(
        {
            "default": Recipe(
                ITransformerConfig(),
                {"batch_size": 64, "n_epochs": 10, "optimizer_cls": torch.optim.Adam, "optimizer_kwargs": {"lr": 1e-3}},
            ),
            "faithful": Recipe(
                ITransformerConfig(width=256, feed_forward=256, attention_dropout=0.1, shared_embedding=True),
                {
                    "batch_size": 32,
                    "n_epochs": 10,
                    "optimizer_cls": torch.optim.Adam,
                    "optimizer_kwargs": {"lr": 1e-4},
                    # epochs 1 and 2 at the full rate, then half of the epoch before
                    "lr_scheduler_cls": torch.optim.lr_scheduler.MultiStepLR,
                    "lr_scheduler_kwargs": {"milestones": list(range(2, 10)), "gamma": 0.5},
                },
            ),
        }
    )
