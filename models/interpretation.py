"""Attribution of a forecast to variates and lags, by integrated gradients, for every torch model of darts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel
from darts.utils.data import SequentialTorchInferenceDataset
from darts.utils.data.torch_datasets.utils import (
    PLModuleInput,
)
from darts.utils.likelihood_models.base import quantile_names
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.darts.inference import evaluating, latest_windows, module_input
from models.darts.series_checks import check_channels
from models.errors import OptionOutOfRangeError

# N points of the path, L past steps, H horizon, C target channels, P past and F known-future covariates, Q outputs

Kind = Literal["past_target", "past_covariates", "future_covariates"]
Inputs = dict[Kind, Tensor]  # each [N, steps, variates]


@dataclass(frozen=True, slots=True)
class InputAttribution:
    """The contribution of one kind of input to a forecast: `attributions` [lags, variates], in units of the forecast.

    `lags` counts steps as darts does: -1 is the last observed step, 0 the step after it.
    """

    kind: Kind
    names: tuple[str, ...]
    lags: tuple[int, ...]
    attributions: np.ndarray


@dataclass(frozen=True, slots=True)
class Attribution:
    """A forecast, decomposed into a baseline and the contribution of each input at each lag."""

    forecast: float
    baseline: float
    """The forecast of a window in which every variate is constant at its mean."""
    inputs: tuple[InputAttribution, ...]

    @property
    def residual(self) -> float:
        """The part of the forecast that attributions do not explain; more `steps` make it smaller."""
        return self.forecast - self.baseline - float(sum(part.attributions.sum() for part in self.inputs))

    @property
    def by_variate(self) -> pd.Series:
        """Share of each (kind, variate) in the absolute attributions; sums to 1, or to 0 if nothing had influence."""
        return self._shares(["kind", "variate"])

    @property
    def by_lag(self) -> pd.Series:
        """Share of each lag, over all kinds and variates; sums like `by_variate`."""
        return self._shares(["lag"]).sort_index()

    def to_frame(self) -> pd.DataFrame:
        """List every attribution: columns kind, variate, lag, attribution."""
        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "kind": part.kind,
                        "variate": np.tile(part.names, len(part.lags)),
                        "lag": np.repeat(part.lags, len(part.names)),
                        "attribution": part.attributions.ravel(),
                    }
                )
                for part in self.inputs
            ],
            ignore_index=True,
        )

    def _shares(self, keys: list[str]) -> pd.Series:
        frame = self.to_frame()
        sizes = frame["attribution"].abs().groupby([frame[key] for key in keys], sort=False).sum()
        return (sizes / (sizes.sum() or 1.0)).rename("share")


def integrated_gradients(
    model: TorchForecastingModel,
    series: TimeSeries,
    past_covariates: TimeSeries | None = None,
    future_covariates: TimeSeries | None = None,
    *,
    target: str | None = None,
    leads: range | None = None,
    parameter: str | None = None,
    steps: int = 64,
) -> Attribution:
    """Attribute the forecast after the end of `series` to every past and known-future value that the model reads.

    The explained number is the forecast of channel `target` (None: the mean over channels), averaged over `leads`, lead
    times from 1 to the horizon (None: all). For a model with a likelihood it is one of its parameters: the median or,
    without quantiles, the first one. The baseline is the same window with every variate at
    its mean: targets and past covariates over the look-back, known-future covariates over look-back and horizon; static
    covariates stay as they are. Gradients are taken in float64 at `steps` Gauss-Legendre points of the straight line
    from the baseline to the window, so the attributions sum to forecast minus baseline, up to `Attribution.residual`. A
    residual remains if a network is discontinuous, as ProbSparse attention is when it selects other queries.

    Source: arXiv 1703.01365, section 3.

    Raises:
        NotFittedError: the model has no weights.
        OptionOutOfRangeError: the channel, lead time or parameter does not exist, or `steps` is below 1.
        ChannelCountError: another number of channels than in training.
        MissingValuesError: the look-back window holds NaN.

    """
    dataset = latest_windows(model, series, past_covariates, future_covariates)
    check_channels(dataset.series, model.model.train_sample_shape["past_target"][1], type(model).__name__)
    channels = [str(name) for name in dataset.series[0].components]
    leads = leads if leads is not None else range(1, model.output_chunk_length + 1)
    names = list(model.likelihood.parameter_names) if model.likelihood is not None else []
    median = quantile_names(0.5)
    parameter = parameter or (median if median in names else names[0] if names else None)
    if target is not None and target not in channels:
        raise OptionOutOfRangeError("target", target, f"one of {', '.join(channels)}")
    if not leads or min(leads) < 1 or max(leads) > model.output_chunk_length:
        raise OptionOutOfRangeError("leads", leads, f"lead times from 1 to {model.output_chunk_length}")
    if parameter is not None and parameter not in names:
        raise OptionOutOfRangeError("parameter", parameter, f"one of {', '.join(names)}" if names else "left out")
    if steps < 1:
        raise OptionOutOfRangeError("steps", steps, "1 or more")

    rows = [lead - 1 for lead in leads]
    columns = [channels.index(target)] if target is not None else list(range(len(channels)))
    output = names.index(parameter) if parameter is not None else 0
    with _in_double(model.model) as module:
        window = module_input(module, [dataset[0]])

        def explained(inputs: Inputs) -> Tensor:
            forecast = _forecast(module, _assemble(window, inputs))  # [N, H, C, Q]
            return forecast[:, rows][:, :, columns, output].mean((1, 2))  # [N]

        forecast, baseline, parts = _integrate(explained, _path_inputs(window), steps)
    return Attribution(forecast, baseline, tuple(_named(dataset, kind, values) for kind, values in parts.items()))


@contextmanager
def _in_double(module: PLForecastingModule) -> Iterator[PLForecastingModule]:
    dtype = module.dtype
    with evaluating(module):
        try:
            yield module.double()
        finally:
            module.to(dtype)  # float32 values are exact in float64


def _path_inputs(window: PLModuleInput) -> Inputs:
    """Return the inputs to explain, each [1, steps, variates]."""
    inputs: Inputs = {"past_target": window.past_target}
    if window.past_covariates is not None:
        inputs["past_covariates"] = window.past_covariates
    if window.future_covariates is not None:
        inputs["future_covariates"] = window.concatenate_future_along_time()  # [1, L + H, F]
    return inputs


def _assemble(window: PLModuleInput, inputs: Inputs) -> PLModuleInput:
    """Invert `_path_inputs` for N windows, with the static covariates of `window`."""
    past = inputs["past_target"]
    known = inputs.get("future_covariates")
    static = window.static_covariates
    lookback = past.shape[1]
    return PLModuleInput(
        past_target=past,
        past_covariates=inputs.get("past_covariates"),
        historic_future_covariates=known[:, :lookback] if known is not None else None,
        future_covariates=known[:, lookback:] if known is not None else None,
        static_covariates=static.expand(len(past), -1, -1) if static is not None else None,
    )


def _forecast(module: PLForecastingModule, window: PLModuleInput) -> Tensor:
    """Forecast likelihood parameters, or points (Q = 1), [N, H, C, Q]."""
    forecast: Tensor = module(window).prediction
    if module.likelihood is None:
        return forecast
    parameters: Tensor = module.likelihood.predict_likelihood_parameters(forecast)  # [N, H, C * Q]
    return parameters.reshape(forecast.shape)


class _WithoutDetach(TorchFunctionMode):
    """Let gradients through `detach`.

    darts' RevIN and NLinear detach a window's statistics, which training allows; the derivative would miss their part.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return args[0] if func is Tensor.detach else func(*args, **(kwargs or {}))


def _integrate(
    explained: Callable[[Inputs], Tensor], window: Inputs, steps: int
) -> tuple[float, float, dict[Kind, np.ndarray]]:
    """Integrate the gradient of `explained` from the mean window to `window`; also return its values at both ends."""
    nodes, shares = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    means = {kind: values.mean(1, keepdim=True) for kind, values in window.items()}  # [1, 1, variates]
    deviations = {kind: values - means[kind] for kind, values in window.items()}  # [1, steps, variates]

    def points(positions: np.ndarray) -> Inputs:
        along = {kind: torch.as_tensor(positions).to(mean)[:, None, None] for kind, mean in means.items()}
        return {kind: mean + along[kind] * deviations[kind] for kind, mean in means.items()}

    path = {kind: values.requires_grad_() for kind, values in points((nodes + 1) / 2).items()}
    with torch.enable_grad(), _WithoutDetach():
        gradients = torch.autograd.grad(explained(path).sum(), list(path.values()), materialize_grads=True)
    parts = {
        kind: torch.einsum("n,nlv->lv", torch.as_tensor(shares / 2).to(gradient), gradient) * deviations[kind][0]
        for kind, gradient in zip(path, gradients, strict=True)
    }
    with torch.no_grad():  # last, so that tensors which a network caches hold no graph
        forecast, baseline = explained(points(np.array([1.0, 0.0]))).tolist()
    return forecast, baseline, {kind: part.cpu().numpy() for kind, part in parts.items()}


def _named(dataset: SequentialTorchInferenceDataset, kind: Kind, values: np.ndarray) -> InputAttribution:
    source = {
        "past_target": dataset.series,
        "past_covariates": dataset.past_covariates,
        "future_covariates": dataset.future_covariates,
    }[kind]
    lookback, gap = dataset.input_chunk_length, dataset.output_chunk_shift
    ahead = range(gap, gap + len(values) - lookback)
    names = tuple(str(name) for name in source[0].components)
    return InputAttribution(kind, names, (*range(-lookback, 0), *ahead), values)
