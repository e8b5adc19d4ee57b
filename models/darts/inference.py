"""Inference on the latest window of a series, outside of darts' `predict`: the window, the tensors, evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel
from darts.utils.data import SequentialTorchInferenceDataset
from darts.utils.data.torch_datasets.utils import (
    PLModuleInput,
    TorchInferenceSample,
    _batch_collate_fn_predict,
)

from models.darts.series_checks import check_values
from models.errors import NotFittedError


def latest_windows(
    model: TorchForecastingModel, series: Any, past_covariates: Any = None, future_covariates: Any = None
) -> SequentialTorchInferenceDataset:
    """Cut the windows from which a fitted model forecasts a whole horizon after the end of each series.

    Takes the arguments of `predict`, with its defaults from training and encoders, and any number of channels.

    Raises:
        NotFittedError: the model has no weights.
        MissingValuesError: a look-back window holds NaN.

    """
    if model.model is None:
        raise NotFittedError(type(model).__name__, "read a window")
    check_values(series, "series", last=model.input_chunk_length)
    setup = model._setup_for_predict_from_dataset(  # noqa: SLF001
        n=model.output_chunk_length,
        series=series,
        past_covariates=past_covariates,
        future_covariates=future_covariates,
        show_warnings=False,
    )
    dataset: SequentialTorchInferenceDataset = setup["dataset"]
    return dataset


def module_input(module: PLForecastingModule, samples: list[TorchInferenceSample]) -> PLModuleInput:
    """Stack windows of one shape, in the precision and on the device of the weights."""
    batch = _batch_collate_fn_predict(samples)
    names = (
        "past_target",
        "past_covariates",
        "historic_future_covariates",
        "future_covariates",
        "static_covariates",
    )
    tensors = {name: getattr(batch, name) for name in names}
    return PLModuleInput(
        **{name: tensor.to(module.device, module.dtype) for name, tensor in tensors.items() if tensor is not None}
    )


@contextmanager
def evaluating(module: PLForecastingModule) -> Iterator[None]:
    """Switch to evaluation mode, and afterwards back to the former mode."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
