"""iTransformer: attention across variates, each variate's whole history one token (arXiv 2310.06625)."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.data import SequentialTorchInferenceDataset
from darts.utils.data.torch_datasets.utils import TorchInferenceSample
from darts.utils.timeseries_generation import _build_forecast_series_from_schema
from darts.utils.ts_utils import series2seq
from torch import Tensor, nn

from models.darts.bridge import NetworkModel
from models.darts.frame import Frame
from models.darts.inference import evaluating, latest_windows, module_input
from models.darts.module import NetworkModule
from models.darts.recipes import SHORT_TRAINING, Recipe, official_training
from models.errors import NotFittedError, OptionOutOfRangeError, WidthNotDivisibleError
from models.layers.attention import SelfAttention
from models.layers.dropout import Dropout
from models.layers.embedding import VariateTokens
from models.layers.feed_forward import FeedForward
from models.option_checks import at_least, shares
from models.shape import WindowShape

# B batch, L steps, H horizon, C target channels, P past and F known-future covariates, V tokens, D width, Q outputs


@dataclass(frozen=True, slots=True)
class ITransformerConfig:
    """Sizes of the network. The defaults are the `default` preset, see `ITransformerModel`."""

    width: int = 64
    """D: size of a token."""
    feed_forward: int = 128
    """Hidden size of the perceptron that each token passes."""
    layers: int = 2
    heads: int = 8
    dropout: float = 0.2
    attention_dropout: float = 0.0
    """Dropout of attention weights; above 0, torch cannot use its fused kernel while training."""
    shared_embedding: bool = False
    """One embedding for all tokens, as in the official code; it reads covariates over the look-back only."""

    def check(self, lookback: int, horizon: int) -> None:
        """Refuse sizes from which no network can be built.

        Raises:
            OptionOutOfRangeError: a size below 1 or a dropout outside [0, 1).
            WidthNotDivisibleError: the width is no multiple of the heads.

        """
        del lookback, horizon
        at_least(1, self, "width", "feed_forward", "layers", "heads")
        shares(self, "dropout", "attention_dropout")
        if self.width % self.heads:
            raise WidthNotDivisibleError(self.width, self.heads)


class VariateEncoderLayer(nn.Module):
    """Attention between tokens, then a perceptron per token, with a LayerNorm after each residual sum (section 3.1)."""

    def __init__(self, config: ITransformerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads, config.attention_dropout)
        self.dropout = Dropout(config.dropout)
        self.norm_attention = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.feed_forward, config.dropout)
        self.norm_feed_forward = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor, keep: int | None = None) -> Tensor:
        """Map tokens [B, V, D] to [B, V, D], or with `keep` to the first ones, [B, keep, D]."""
        attended = self.dropout(self.attention(tokens, keep))
        tokens = self.norm_attention(tokens[:, :keep] + attended)
        output: Tensor = self.norm_feed_forward(tokens + self.feed_forward(tokens))
        return output


class ITransformer(nn.Module):
    """The network: it embeds targets and covariates as tokens and forecasts from the targets' tokens, [B, H, C, Q].

    No weight belongs to a variate, so the same weights take any number of targets and, of each kind that they were
    trained with, covariates. The network does not scale windows; its caller does.

    >>> network = ITransformer(ITransformerConfig(), WindowShape(lookback=96, horizon=24, targets=7))
    >>> network(torch.zeros(2, 96, 7)).shape
    torch.Size([2, 24, 7, 1])
    """

    def __init__(self, config: ITransformerConfig, shape: WindowShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.tokens = VariateTokens(shape, config.width, shared=config.shared_embedding)
        self.dropout = Dropout(config.dropout)
        self.encoder = nn.ModuleList(VariateEncoderLayer(config) for _ in range(config.layers))
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
        encoded = self.norm(self.encoder[-1](tokens, keep=past_target.shape[2]))  # [B, C, D]
        forecast = self.head(encoded)  # [B, C, H * Q]
        unfolded: Tensor = forecast.unflatten(-1, (self.shape.horizon, self.shape.outputs)).transpose(1, 2)
        return unfolded  # [B, H, C, Q]


class ITransformerModule(NetworkModule):
    """`ITransformer` inside Lightning."""

    network_class = ITransformer
    config_class = ITransformerConfig


@dataclass(frozen=True, slots=True)
class AttentionMaps:
    """The attention between the tokens of one forecast."""

    weights: np.ndarray
    """[layers, heads, V, V]: row i holds the weights with which token i reads each token; rows sum to 1."""
    names: tuple[str, ...]
    """V variates: targets, past covariates, known-future covariates."""


class ITransformerModel(NetworkModel):
    """iTransformer as a darts model; options: the fields of `ITransformerConfig`.

    Presets:

    - `default`: embeddings of their own for covariates, so that future values of known covariates reach the forecast;
      a quarter of the width of the official recipe and a higher rate, for short trainings on few cores; against the
      overfitting that brings, twice the dropout and averaged weights; a linear map of the window beside the network,
      because a look-back explains most of the future linearly and a network of this size learns that badly (pinball
      loss on the sample of `data/`: .132, .159 with a map of the trend alone, .135 with both); the absolute
      error as loss, which outliers pull less (Huber's gains .4% of the validation MSE and loses .6% of the MAE, three
      seeds); no dropout on attention weights, which would keep torch from its fused kernel.
    - `faithful`: the official recipe for ETTh1 at horizons 96 and 192 (width 256; 512 for 336 and 720), covariates
      through the targets' own embedding without their future values.
    """

    module_class = ITransformerModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(
        {
            "default": Recipe(
                ITransformerConfig(),
                SHORT_TRAINING,
                Frame(linear_path=True, averaging=0.995, loss="l1"),
            ),
            "faithful": Recipe(
                ITransformerConfig(
                    width=256, feed_forward=256, dropout=0.1, attention_dropout=0.1, shared_embedding=True
                ),
                official_training(1e-4, epochs=10),
            ),
        }
    )

    def forecast_variates(
        self,
        n: int,
        series: TimeSeries | list[TimeSeries] | None = None,
        past_covariates: TimeSeries | list[TimeSeries] | None = None,
        future_covariates: TimeSeries | list[TimeSeries] | None = None,
    ) -> TimeSeries | list[TimeSeries]:
        """Forecast series of any number of channels, also of channels that were never trained on.

        Attention takes any number of tokens, so the weights fit any number of targets, and of covariates of the kinds
        that the training had. For the channels of the training series this is `predict`; with a
        likelihood it gives the likelihood's parameters, named as `predict(predict_likelihood_parameters=True)` does.
        Series of one shape go through the network together, in batches of the training's size.

        Source: arXiv 2310.06625, section 4.2 ("variate generalization").

        Raises:
            NotFittedError: the model has no weights.
            OptionOutOfRangeError: `n` beyond the horizon, covariates of a kind that was not trained with, static
                covariates of another size, or weights of darts' RevIN that belong to the channels of training.
            MissingValuesError: a look-back window holds NaN.

        """
        if not 1 <= n <= self.output_chunk_length:
            raise OptionOutOfRangeError("n", n, f"from 1 to {self.output_chunk_length}, the horizon")
        dataset = self._variate_windows(series, past_covariates, future_covariates)
        samples = [dataset[index] for index in range(len(dataset))]
        alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for index, sample in enumerate(samples):
            alike[tuple(values.shape for values in sample.iter_arrays())].append(index)
        size = self.batch_size
        batches = [group[start : start + size] for group in alike.values() for start in range(0, len(group), size)]
        forecasts: dict[int, TimeSeries] = {}
        for batch in batches:
            values = self._parameters([samples[index] for index in batch])[:, :n, :, None]  # [B, n, C * Q, 1]
            for index, forecast in zip(batch, values, strict=True):
                forecasts[index] = _build_forecast_series_from_schema(
                    forecast,
                    samples[index].series_schema,
                    samples[index].pred_time,
                    predict_likelihood_parameters=self.likelihood is not None,
                    likelihood_component_names_fn=self.likelihood.component_names if self.likelihood else None,
                )
        given = self.training_series if series is None else series
        return forecasts[0] if isinstance(given, TimeSeries) else [forecasts[index] for index in range(len(samples))]

    def attention_maps(
        self,
        series: TimeSeries | None = None,
        past_covariates: TimeSeries | None = None,
        future_covariates: TimeSeries | None = None,
        member: int = 0,
    ) -> AttentionMaps:
        """Return the attention between variates in the forecast after the end of a series of any number of channels.

        `member` picks one network where several are averaged.

        Raises:
            ModelError: as `forecast_variates`; OptionOutOfRangeError also if the member does not exist.

        """
        dataset = self._variate_windows(series, past_covariates, future_covariates)
        with evaluating(self.model), torch.no_grad():
            cores = self.model.forecaster.cores
            if not 0 <= member < len(cores):
                raise OptionOutOfRangeError("member", member, f"from 0 to {len(cores) - 1}")
            layers = [layer.attention for layer in cores[member].encoder]
            read: list[Tensor] = []  # the tokens that each layer attends to
            hooks = [layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0])) for layer in layers]
            try:
                self.model(module_input(self.model, [dataset[0]]))
            finally:
                for hook in hooks:
                    hook.remove()
            maps = torch.cat([layer.weights(tokens) for layer, tokens in zip(layers, read, strict=True)])
        parts = (dataset.series, dataset.past_covariates, dataset.future_covariates)
        names = tuple(str(name) for part in parts if part is not None for name in part[0].components)
        return AttentionMaps(maps.cpu().numpy(), names)

    def _variate_windows(
        self, series: Any, past_covariates: Any, future_covariates: Any
    ) -> SequentialTorchInferenceDataset:
        """Cut the latest windows, or raise the error that says why the weights cannot forecast them."""
        if self.model is None:
            raise NotFittedError(type(self).__name__, "forecast")
        for feature, given, fitted in (
            ("past_covariates", past_covariates, self.uses_past_covariates),
            ("future_covariates", future_covariates, self.uses_future_covariates),
        ):
            if given is not None and not fitted:
                raise OptionOutOfRangeError(feature, "given", "left out, as in training")
        static = self.model.train_sample_shape["static_covariates"]
        scaling = self.model.rin
        for one in series2seq(self.training_series if series is None else series) or ():
            held = one.static_covariates.shape[1] if one.static_covariates is not None else 0
            if static and held != static[1]:
                raise OptionOutOfRangeError("static_covariates", held, f"{static[1]} per channel or series, as trained")
            if scaling is not None and scaling.affine and one.n_components != scaling.input_dim:
                raise OptionOutOfRangeError(
                    "use_reversible_instance_norm",
                    True,
                    "{'affine': False} in training, or its weights belong to the channels of the training series",
                )
        return latest_windows(self, series, past_covariates, future_covariates)

    def _parameters(self, samples: list[TorchInferenceSample]) -> np.ndarray:
        """Forecast windows of one shape: likelihood parameters or points, [B, H, C * Q]."""
        with evaluating(self.model), torch.no_grad():
            forecast = self.model(module_input(self.model, samples)).prediction  # [B, H, C, Q]
            if self.likelihood is not None:
                forecast = self.likelihood.predict_likelihood_parameters(forecast)  # [B, H, C * Q]
            values: np.ndarray = forecast.flatten(2).cpu().numpy()
        return values
