"""S-Mamba: state-space scans across variates, both ways, each variate's whole history one token (arXiv 2403.11144)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor, nn

from models.darts.bridge import NetworkModel
from models.darts.frame import Frame
from models.darts.module import NetworkModule
from models.darts.recipes import SHORT_TRAINING, Recipe, official_training
from models.layers.dropout import Dropout
from models.layers.embedding import VariateTokens
from models.layers.feed_forward import FeedForward
from models.layers.state_space import BidirectionalMamba
from models.option_checks import at_least, shares
from models.shape import WindowShape

# B batch, L steps, H horizon, C target channels, P past and F known-future covariates, V tokens, D width, Q outputs


@dataclass(frozen=True, slots=True)
class SMambaConfig:
    """Sizes of the network. The defaults are the `default` preset, see `SMambaModel`."""

    width: int = 64
    """D: size of a token."""
    feed_forward: int = 128
    """Hidden size of the perceptron that each token passes."""
    layers: int = 2
    states: int = 2
    """N: states per inner channel, the memory of a scan."""
    convolution: int = 2
    """K: variates that the causal convolution before a scan reads."""
    expansion: int = 1
    """Inner channels of a Mamba block per token value."""
    dropout: float = 0.2
    """Dropout of tokens and in the perceptrons; the Mamba blocks have none."""
    shared_embedding: bool = False
    """One embedding for all tokens, as in the official code; it reads covariates over the look-back only."""

    def check(self, lookback: int, horizon: int) -> None:
        """Refuse sizes from which no network can be built.

        Raises:
            OptionOutOfRangeError: a size below 1 or a dropout outside [0, 1).

        """
        del lookback, horizon
        at_least(1, self, "width", "feed_forward", "layers", "states", "convolution", "expansion")
        shares(self, "dropout")


class SMambaEncoderLayer(nn.Module):
    """Mamba blocks both ways along the tokens, then a perceptron per token; LayerNorm after each residual sum."""

    def __init__(self, config: SMambaConfig) -> None:
        super().__init__()
        self.mamba = BidirectionalMamba(config.width, config.states, config.convolution, config.expansion)
        self.norm_mamba = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.feed_forward, config.dropout)
        self.norm_feed_forward = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor, keep: int | None = None) -> Tensor:
        """Map tokens [B, V, D] to [B, V, D], or with `keep` to the first ones, [B, keep, D]."""
        tokens = self.norm_mamba(tokens[:, :keep] + self.mamba(tokens, keep))
        output: Tensor = self.norm_feed_forward(tokens + self.feed_forward(tokens))
        return output


class SMamba(nn.Module):
    """The network: targets and covariates become variate tokens, and the targets' tokens become forecasts.

    Tokens stand in the order targets, past covariates, known-future covariates, and within each in the order of the
    series' components. A scan depends on their order: another order or another number of variates gives another
    forecast from the same weights. So a trained network fits the channels of its training only, in their order. The
    network does not scale windows; the frame does. Output: [B, H, C, Q].
    """

    def __init__(self, config: SMambaConfig, shape: WindowShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.tokens = VariateTokens(shape, config.width, shared=config.shared_embedding)
        self.dropout = Dropout(config.dropout)
        self.encoder = nn.ModuleList(SMambaEncoderLayer(config) for _ in range(config.layers))
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
        tokens = self.dropout(self.tokens(past_target, past_covariates, historic_future, future, static))  # [B, V, D]
        for layer in self.encoder[:-1]:
            tokens = layer(tokens)
        # The head reads targets only, so the last layer skips the tokens of covariates.
        encoded = self.norm(self.encoder[-1](tokens, keep=self.shape.targets))  # [B, C, D]
        forecast = self.head(encoded)  # [B, C, H * Q]
        unfolded: Tensor = forecast.unflatten(-1, (self.shape.horizon, self.shape.outputs)).transpose(1, 2)
        return unfolded  # [B, H, C, Q]


class SMambaModule(NetworkModule):
    """`SMamba` inside Lightning."""

    network_class = SMamba
    config_class = SMambaConfig


class SMambaModel(NetworkModel):
    """S-Mamba as a darts model; options: the fields of `SMambaConfig`.

    The forecast depends on the order of channels and covariates, and on their number (see `SMamba`).

    Presets:

    - `default`: embeddings of their own for covariates, so that future values of known covariates reach the forecast;
      a quarter of the width of the official recipe and a higher rate, for short trainings on few cores (1e-3 was worse
      on ETTh1's validation rows after each of three epochs); linear map, averaged weights and loss as in iTransformer.
    - `faithful`: the official recipe for ETTh1 (at horizons 336 and 720 its rate is 5e-5), covariates through the
      targets' own embedding without their future values.
    """

    module_class = SMambaModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(
        {
            "default": Recipe(SMambaConfig(), SHORT_TRAINING, Frame(linear_path=True, averaging=0.995, loss="l1")),
            "faithful": Recipe(
                SMambaConfig(width=256, feed_forward=256, dropout=0.1, shared_embedding=True),
                official_training(7e-5, epochs=10),
            ),
        }
    )
