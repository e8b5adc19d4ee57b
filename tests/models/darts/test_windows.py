"""The fast windows equal darts' windows."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from darts.utils.data import SequentialTorchTrainingDataset
from darts.utils.data.torch_datasets.utils import TorchTrainingSample, _batch_collate_fn_train

from models import ModelError, ModelName
from models.catalog import TRAINABLE
from models.darts.windows import WindowDataset, collate_windows, window_dataset

FIELDS = [entry.name for entry in fields(TorchTrainingSample)]


def same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and np.array_equal(one, other)


@pytest.fixture(
    params=[
        {},
        {"stride": 3},
        {"max_samples_per_ts": 7},
        {"output_chunk_shift": 4, "stride": 2},
        {"sample_weight": "linear"},
        {"past": False},
        {"future": False, "max_samples_per_ts": 5},
        {"static": True},
        {"dtype": "float64"},
    ],
    ids=str,
)
def reference(request: pytest.FixtureRequest, panel: Any) -> SequentialTorchTrainingDataset:
    arguments = dict(request.param)
    dtype = arguments.pop("dtype", "float32")
    series = [target.astype(dtype) for target in panel.series]
    if arguments.pop("static", False):
        statics = [pd.DataFrame({"size": [float(index)], "kind": [2.0]}) for index in range(2)]
        series = [
            target.with_static_covariates(static).astype(dtype) for target, static in zip(series, statics, strict=True)
        ]
    past = [cov.astype(dtype) for cov in panel.past_covariates] if arguments.pop("past", True) else None
    future = [cov.astype(dtype) for cov in panel.future_covariates] if arguments.pop("future", True) else None
    return SequentialTorchTrainingDataset(
        series, past, future, input_chunk_length=12, output_chunk_length=5, **arguments
    )


def test_every_sample_is_the_sample_of_darts(reference: SequentialTorchTrainingDataset) -> None:
    fast = WindowDataset(reference)
    assert len(fast) == len(reference)
    for index in range(len(reference)):
        ours, theirs = fast[index], reference[index]
        assert all(same(getattr(ours, name), getattr(theirs, name)) for name in FIELDS), index


def test_a_gathered_batch_is_the_stacked_batch_of_darts(reference: SequentialTorchTrainingDataset) -> None:
    fast = WindowDataset(reference)
    indices = torch.randperm(len(reference), generator=torch.Generator().manual_seed(1))[:9].tolist()
    ours = collate_windows(fast.__getitems__(indices))
    theirs = _batch_collate_fn_train([reference[index] for index in indices])
    assert all(same(getattr(ours, name), getattr(theirs, name)) for name in FIELDS)


@pytest.mark.parametrize("name", TRAINABLE)
def test_models_train_on_fast_windows(name: ModelName, panel: Any, tiny: Callable[..., Any]) -> None:
    dataset = tiny(name)._build_train_dataset(
        series=panel.series, **panel.covariates, sample_weight=None, max_samples_per_ts=None
    )
    assert isinstance(dataset, WindowDataset)


def test_fast_windows_change_nothing_in_the_result(
    panel: Any,
    fitted: Callable[[ModelName], Any],
    tiny: Callable[..., Any],
    forecast: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("models.darts.bridge.window_dataset", lambda reference: reference)
    slow = tiny(ModelName.ITRANSFORMER).fit(panel.series, **panel.covariates, verbose=False)
    np.testing.assert_array_equal(forecast(slow, panel), forecast(fitted(ModelName.ITRANSFORMER), panel))


def test_a_series_without_room_for_a_window_is_refused(panel: Any) -> None:
    short = SequentialTorchTrainingDataset(
        [panel.series[0], panel.series[1][:16]], input_chunk_length=12, output_chunk_length=5
    )
    with pytest.raises(ModelError, match="series 1 has 16 steps") as caught:
        window_dataset(short)
    assert caught.value.code == "model.series_too_short"


def test_covariates_that_start_too_late_are_refused(panel: Any) -> None:
    late = SequentialTorchTrainingDataset(
        panel.series[1], panel.past_covariates[1][3:], input_chunk_length=12, output_chunk_length=5
    )
    with pytest.raises(ModelError, match="start 3 steps too late") as caught:
        window_dataset(late)
    assert caught.value.code == "model.covariates_too_short"


def test_a_stochastic_series_stays_with_darts(panel: Any) -> None:
    draws = np.random.default_rng(0).standard_normal((40, 1, 3)).astype(np.float32)
    stochastic = type(panel.series[0]).from_times_and_values(panel.series[0].time_index[:40], draws)
    reference = SequentialTorchTrainingDataset(stochastic, input_chunk_length=12, output_chunk_length=5)
    assert window_dataset(reference) is reference


def test_moved_windows_are_gathered_where_they_lie(reference: SequentialTorchTrainingDataset) -> None:
    """The meta device stands for an accelerator: a tensor left behind, or indices from elsewhere, would fail there."""
    there = WindowDataset(reference).to("meta").__getitems__([0, 3, 1])
    here = WindowDataset(reference).__getitems__([0, 3, 1])
    for name in FIELDS:
        moved, expected = getattr(there, name), getattr(here, name)
        assert (moved is None) == (expected is None), name
        if moved is not None:
            assert (moved.device.type, moved.shape, moved.dtype) == ("meta", expected.shape, expected.dtype)


def test_values_are_kept_once_however_many_features_read_them(panel: Any) -> None:
    data = SequentialTorchTrainingDataset(panel.series, input_chunk_length=12, output_chunk_length=5)
    assert WindowDataset(data).nbytes == sum(series.values().nbytes for series in panel.series)
