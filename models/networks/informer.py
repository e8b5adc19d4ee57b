"""Informer: sparse attention over time, a distilling encoder, the whole horizon decoded at once (arXiv 2012.07436)."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.darts.bridge import NetworkModel
from models.darts.frame import Frame
from models.darts.module import NetworkModule
from models.darts.recipes import Recipe, official_training
from models.errors import LookbackTooShortError, OptionOutOfRangeError, WidthNotDivisibleError
from models.layers.dropout import Dropout
from models.layers.feed_forward import FeedForward
from models.layers.step_embedding import Distilling, StepEmbedding
from models.layers.temporal_attention import CrossAttention, ProbSparse, TemporalAttention
from models.option_checks import at_least, shares
from models.shape import WindowShape

# B batch, L past steps, H horizon, C target channels, P past and F known-future covariates, T start steps,
# N tokens, M encoded tokens, D width, Q outputs

_START = 48  # the authors' start token on hourly data, for the horizons up to it


@dataclass(frozen=True, slots=True)
class InformerConfig:
    """Sizes of the network. The defaults are the `default` preset, see `InformerModel`."""

    width: int = 64
    """D: size of a token."""
    feed_forward: int = 128
    """Hidden size of the perceptron that each token passes."""
    heads: int = 4
    encoder_layers: int = 2
    decoder_layers: int = 1
    stacks: int = 1
    """Encoders side by side: the first reads the whole look-back, each further one its newer half with one layer less,
    and the decoder sees all. At most `encoder_layers`."""
    distil: bool = True
    """Halve the sequence between the layers of an encoder."""
    label_length: int = 0
    """T: newest observed steps that the decoder starts from; 0 takes 48, or the look-back if it is shorter."""
    attention: Literal["prob_sparse", "full"] = "prob_sparse"
    """Attention of the encoder. ProbSparse saves time from about 300 steps on; below, full attention is faster."""
    decoder_attention: Literal["causal", "prob_sparse"] = "causal"
    """Self-attention of the decoder. "causal" is full attention to earlier steps. "prob_sparse" is the masked form of
    the paper: its selection of queries depends on later steps, so a forecast step depends on later covariates."""
    mix: bool = False
    """Merge the decoder's heads as the authors' code does, which mixes steps; see `TemporalAttention`."""
    factor: int = 5
    """ProbSparse samples this many times ln(N) keys, and selects as many queries."""
    sampling: Literal["shared", "independent"] = "shared"
    """One sample of keys for all queries, or one per query."""
    dropout: float = 0.3
    attention_dropout: float = 0.0
    """Dropout of the weights of full attention; above 0, torch cannot use its fused kernel while training."""

    def check(self, lookback: int, horizon: int) -> None:
        """Refuse sizes from which no network can be built.

        Raises:
            OptionOutOfRangeError: a size below 1, a dropout outside [0, 1), an unknown kind of attention or sampling,
                more stacks than layers, a start longer than the look-back.
            WidthNotDivisibleError: the width is no multiple of the heads.
            LookbackTooShortError: the look-back has too few steps to halve.

        """
        del horizon
        self._check_sizes()
        if self.stacks > self.encoder_layers:
            raise OptionOutOfRangeError("stacks", self.stacks, f"at most the {self.encoder_layers} encoder layers")
        halvings = (self.encoder_layers if self.distil else self.stacks) - 1
        if lookback < 2**halvings:
            raise LookbackTooShortError(lookback, 2**halvings, f"an encoder that halves it {halvings} times")
        if not 0 <= self.label_length <= lookback:
            raise OptionOutOfRangeError("label_length", self.label_length, f"0 to the look-back's {lookback} steps")

    def _check_sizes(self) -> None:
        at_least(1, self, "width", "feed_forward", "heads", "encoder_layers", "decoder_layers", "stacks", "factor")
        shares(self, "dropout", "attention_dropout")
        for option in ("attention", "decoder_attention", "sampling"):
            choices = get_args(type(self).__annotations__[option])
            if getattr(self, option) not in choices:
                raise OptionOutOfRangeError(option, getattr(self, option), f"one of {', '.join(choices)}")
        if self.width % self.heads:
            raise WidthNotDivisibleError(self.width, self.heads)

    def sparse(self, kind: str) -> ProbSparse | None:
        """Return the sampling of ProbSparse attention, or None if `kind` is another attention."""
        return ProbSparse(self.factor, self.sampling) if kind == "prob_sparse" else None


class InformerEncoderLayer(nn.Module):
    """Attention between steps, then a perceptron per step, with a LayerNorm after each residual sum (section 3.3)."""

    def __init__(self, config: InformerConfig, steps: int) -> None:
        super().__init__()
        self.attention = TemporalAttention(
            steps, config.width, config.heads, config.attention_dropout, sparse=config.sparse(config.attention)
        )
        self.dropout = Dropout(config.dropout)
        self.norm_attention = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.feed_forward, config.dropout)
        self.norm_feed_forward = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, N, D] to [B, N, D]."""
        tokens = self.norm_attention(tokens + self.dropout(self.attention(tokens)))
        output: Tensor = self.norm_feed_forward(tokens + self.feed_forward(tokens))
        return output  # [B, N, D]


class InformerDecoderLayer(nn.Module):
    """Masked self-attention, full attention to the encoded look-back, then a perceptron (section 3.4)."""

    def __init__(self, config: InformerConfig, steps: int) -> None:
        super().__init__()
        self.attention = TemporalAttention(
            steps,
            config.width,
            config.heads,
            config.attention_dropout,
            causal=True,
            sparse=config.sparse(config.decoder_attention),
            mix=config.mix,
        )
        self.dropout = Dropout(config.dropout)
        self.norm_attention = nn.LayerNorm(config.width)
        self.cross = CrossAttention(config.width, config.heads, config.attention_dropout)
        self.norm_cross = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.feed_forward, config.dropout)
        self.norm_feed_forward = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor, memory: Tensor, newest: int = 0) -> Tensor:
        """Map tokens [B, N, D], with `memory` [B, M, D], to [B, N, D], or to the `newest` of these N alone.

        After the attention no token reads another, so the last layer can skip tokens that the head does not read.
        """
        tokens = self.norm_attention(tokens + self.dropout(self.attention(tokens)))[:, -newest:]
        tokens = self.norm_cross(tokens + self.dropout(self.cross(tokens, memory)))
        output: Tensor = self.norm_feed_forward(tokens + self.feed_forward(tokens))
        return output


class Informer(nn.Module):
    """The network: it encodes the look-back, and decodes a start token and an empty horizon in one pass.

    Past covariates are further channels of the values, zero over the horizon like the targets. Known-future covariates
    are the calendar of every step. Static covariates shift every token; they enter per channel, also if the series has
    one set of them. Output: [B, H, C, Q].
    """

    def __init__(self, config: InformerConfig, shape: WindowShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.start = config.label_length or min(_START, shape.lookback)
        features = {
            "channels": shape.targets + shape.past,
            "calendar": shape.future,
            "constants": shape.static * shape.targets,
        }
        self.embed_past = StepEmbedding(shape.lookback, config.width, config.dropout, **features)
        self.embed_future = StepEmbedding(self.start + shape.horizon, config.width, config.dropout, **features)
        self.stacks = nn.ModuleList(
            _encoder(config, config.encoder_layers - i, shape.lookback >> i) for i in range(config.stacks)
        )
        self.decoder = nn.ModuleList(
            InformerDecoderLayer(config, self.start + shape.horizon) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, shape.targets * shape.outputs)

    def forward(
        self,
        past_target: Tensor,
        past_covariates: Tensor | None = None,
        historic_future: Tensor | None = None,
        future: Tensor | None = None,
        static: Tensor | None = None,
    ) -> Tensor:
        """Forecast [B, H, C, Q] from `past_target` [B, L, C] and covariates (see `WindowShape`)."""
        lookback, horizon, targets = self.shape.lookback, self.shape.horizon, self.shape.targets
        values = past_target if past_covariates is None else torch.cat([past_target, past_covariates], dim=2)
        constants = static.expand(-1, targets, -1).flatten(1) if static is not None else None  # [B, C * S]

        encoded = self.embed_past(values, historic_future, constants)  # [B, L, D]
        memory = torch.cat([stack(encoded[:, -(lookback >> i) :]) for i, stack in enumerate(self.stacks)], dim=1)

        empty = functional.pad(values[:, -self.start :], (0, 0, 0, horizon))  # [B, T + H, C + P]
        calendar = None
        if historic_future is not None and future is not None:
            calendar = torch.cat([historic_future[:, -self.start :], future], dim=1)  # [B, T + H, F]
        tokens = self.embed_future(empty, calendar, constants)  # [B, T + H, D]
        for layer in self.decoder[:-1]:
            tokens = layer(tokens, memory)
        decoded = self.norm(self.decoder[-1](tokens, memory, newest=horizon))  # [B, H, D]
        forecast: Tensor = self.head(decoded).unflatten(-1, (targets, self.shape.outputs))  # [B, H, C, Q]
        return forecast


def _encoder(config: InformerConfig, layers: int, steps: int) -> nn.Sequential:
    """Build one stack: it maps tokens [B, N, D] to [B, about N / 2^(layers - 1), D] with distilling."""
    parts: list[nn.Module] = []
    for layer in range(layers):
        if layer and config.distil:
            parts.append(Distilling(config.width))
            steps = ceil(steps / 2)
        parts.append(InformerEncoderLayer(config, steps))
    return nn.Sequential(*parts, nn.LayerNorm(config.width))


class InformerModule(NetworkModule):
    """`Informer` inside Lightning."""

    network_class = Informer
    config_class = InformerConfig


class InformerModel(NetworkModel):
    """Informer as a darts model; options: the fields of `InformerConfig`.

    Presets:

    - `default`: windows scaled by themselves, because levels drift; a causal decoder, so that no forecast step depends
      on later ones' covariates; one sample of keys for all queries, which finds the same queries and costs one matrix
      product; a linear path, because a look-back explains most of the near future linearly; an eighth of the official
      width, heavy dropout and few epochs, because larger networks fit noise from the second epoch on (ETTh1's
      validation rows), and Adam at 1e-3; averaged weights, the absolute error as loss (validation MSE and MAE at
      horizon 48: .522/.472, with Huber's .528/.476) and, above all, a third of the channels blanked per window, because
      one embedding of all channels learns what they happened to do together (validation MSE at horizon 24, with
      Huber's loss: .406 without averaged weights, .400 with them, .379 with blanked channels too).
    - `faithful`: the official recipe (the authors took a factor of 3 for the shortest horizon, and start tokens of 168
      and 336 steps for horizons from 168 on), with masked ProbSparse attention and the mixed heads in the decoder:
      there forecast steps do depend on later ones' covariates. The one departure: the authors sample keys in evaluation
      too, here evaluation keeps one sample.
    """

    module_class = InformerModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(
        {
            "default": Recipe(
                InformerConfig(),
                {"batch_size": 32, "n_epochs": 3, "optimizer_cls": torch.optim.Adam, "optimizer_kwargs": {"lr": 1e-3}},
                Frame(linear_path=True, channel_dropout=0.3, averaging=0.995, loss="l1"),
            ),
            "faithful": Recipe(
                InformerConfig(
                    width=512,
                    feed_forward=2048,
                    heads=8,
                    decoder_attention="prob_sparse",
                    mix=True,
                    sampling="independent",
                    dropout=0.05,
                    attention_dropout=0.05,
                ),
                official_training(1e-4, epochs=6),
                Frame(scale_windows=False),
            ),
        }
    )
