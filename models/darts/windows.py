"""Training windows from contiguous tensors: one gather per batch.

darts cuts every sample out of its TimeSeries in Python and stacks them afterwards. Here one tensor per feature holds
the values of all series, and a batch is one indexed read of it. darts still decides which steps belong to a sample: its
dataset is queried once per series, so both give identical samples (tested).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.data import SequentialTorchTrainingDataset, TorchTrainingDataset
from darts.utils.data.torch_datasets.utils import (
    TorchTrainingBatch,
    TorchTrainingSample,
    _batch_collate_fn_train,
)
from darts.utils.data.utils import FeatureType
from torch import Tensor

from models.errors import CovariatesTooShortError, SeriesTooShortError

# The field of a darts batch, and the name under which darts' dataset remembers its first and last step.
_TIMED_FEATURES = {
    "past_target": FeatureType.PAST_TARGET,
    "past_covariates": FeatureType.PAST_COVARIATES,
    "historic_future_covariates": FeatureType.HISTORIC_FUTURE_COVARIATES,
    "future_covariates": FeatureType.FUTURE_COVARIATES,
    "future_target": FeatureType.FUTURE_TARGET,
    "sample_weight": FeatureType.SAMPLE_WEIGHT,
}


@dataclass(frozen=True, slots=True)
class _Feature:
    """All windows of one feature, as a view that copies data only when it is indexed."""

    values: Tensor  # [steps of all series, components]
    length: int
    newest: Tensor  # [series], the first step of each series' most recent window

    def gather(self, series: Tensor, steps_back: Tensor) -> Tensor:
        windows = self.values.unfold(0, self.length, 1).transpose(1, 2)  # [all windows, length, components]
        return windows[self.newest[series] - steps_back]  # [B, length, components]


class WindowDataset(TorchTrainingDataset):  # type: ignore[misc]  # darts is untyped
    """The samples of a darts `SequentialTorchTrainingDataset`, served in whole batches.

    `dataset[i]` equals `reference[i]`. `dataset.__getitems__(indices)`, which torch's DataLoader
    calls, returns a `TorchTrainingBatch` with features [B, steps, components] in the series' own precision; pair it
    with `collate_windows`.

    Raises:
        CovariatesTooShortError: covariates start after the first step of the oldest window.

    """

    def __init__(self, reference: SequentialTorchTrainingDataset) -> None:
        super().__init__()
        self._length = len(reference)
        self._samples_per_series: int = reference.max_samples_per_ts
        self._stride: int = reference.stride
        room = [len(series) - reference.size_of_both_chunks + 1 for series in reference.series]
        self._counts = torch.tensor([ceil(steps / self._stride) for steps in room])
        for index in range(len(reference.series)):
            reference[index * self._samples_per_series]  # darts aligns and checks the covariates of a series here
        first_steps = [reference._index_memory[index] for index in range(len(reference.series))]  # noqa: SLF001

        used = torch.minimum(self._counts, torch.tensor(self._samples_per_series))
        oldest = ((used - 1) * self._stride).tolist()
        columns = {
            "past_target": reference.series,
            "past_covariates": reference.past_covariates,
            "historic_future_covariates": reference.future_covariates,
            "future_covariates": reference.future_covariates,
            "future_target": reference.series,
            "sample_weight": reference.sample_weight,
        }
        flattened: dict[int, tuple[Tensor, Tensor]] = {}
        self._features: dict[str, _Feature] = {}
        for name, feature in _TIMED_FEATURES.items():
            source = columns[name]
            if source is None:
                continue
            bounds = [memory[feature] for memory in first_steps]
            for index, ((start, _), steps_back) in enumerate(zip(bounds, oldest, strict=True)):
                if start < steps_back:
                    raise CovariatesTooShortError(index, name, steps_back - start)
            if id(source) not in flattened:
                flattened[id(source)] = _flatten(source)
            values, offsets = flattened[id(source)]
            length = bounds[0][1] - bounds[0][0]
            newest = offsets + torch.tensor([start for start, _ in bounds])
            self._features[name] = _Feature(values, length, newest)
        self._static = (
            torch.from_numpy(np.stack([series.static_covariates_values() for series in reference.series]))
            if reference.uses_static_covariates_covariates
            else None
        )

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes of all values, independent of the number of windows."""
        tensors = {feature.values.data_ptr(): feature.values.nbytes for feature in self._features.values()}
        return sum(tensors.values())

    def to(self, device: torch.device | str) -> "WindowDataset":
        """Move the values to the device that gathers batches; returns itself."""
        moved = {id(feature.values): feature.values.to(device) for feature in self._features.values()}
        self._features = {
            name: _Feature(moved[id(feature.values)], feature.length, feature.newest.to(device))
            for name, feature in self._features.items()
        }
        self._counts = self._counts.to(device)
        self._static = self._static.to(device) if self._static is not None else None
        return self

    def __getitem__(self, index: int) -> TorchTrainingSample:
        batch = self.__getitems__([index])
        fields = {name: getattr(batch, name) for name in (*self._features, "static_covariates")}
        return TorchTrainingSample(
            **{name: value[0].cpu().numpy() for name, value in fields.items() if value is not None},
        )

    def __getitems__(self, indices: Sequence[int]) -> TorchTrainingBatch:
        """Gather the samples at `indices` as one batch."""
        index = torch.as_tensor(indices, device=self._counts.device)
        series = index // self._samples_per_series
        steps_back = (index % self._samples_per_series) % self._counts[series] * self._stride
        static = self._static[series] if self._static is not None else None
        features = {name: feature.gather(series, steps_back) for name, feature in self._features.items()}
        return TorchTrainingBatch(static_covariates=static, **features)


def window_dataset(reference: SequentialTorchTrainingDataset) -> TorchTrainingDataset:
    """Return the fast form of a darts training dataset, or the dataset itself if it has unsupported features.

    Unsupported are look-backs of variable length (padded by darts) and stochastic series (darts draws a sample anew
    each time).

    Raises:
        SeriesTooShortError: a series is shorter than one window.
        CovariatesTooShortError: covariates start after the first step of the oldest window.

    """
    for index, series in enumerate(reference.series):
        if len(series) < reference.size_of_both_chunks:
            raise SeriesTooShortError(index, len(series), reference.size_of_both_chunks)
    sources = [reference.series, reference.past_covariates, reference.future_covariates, reference.sample_weight]
    stochastic = any(series.is_stochastic for source in sources if source is not None for series in source)
    if stochastic or reference.min_input_chunk_length != reference.input_chunk_length:
        return reference
    return WindowDataset(reference)


def collate_windows(samples: Any) -> TorchTrainingBatch:
    """Return a gathered batch unchanged; stack other samples as darts does."""
    return samples if isinstance(samples, TorchTrainingBatch) else _batch_collate_fn_train(samples)


def _flatten(source: Sequence[TimeSeries]) -> tuple[Tensor, Tensor]:
    """Concatenate all series: values [all steps, components] and each series' first row."""
    arrays = [series.values(copy=False) for series in source]
    lengths = torch.tensor([len(array) for array in arrays])
    return torch.from_numpy(np.concatenate(arrays)), lengths.cumsum(0) - lengths
