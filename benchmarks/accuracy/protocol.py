"""The public ETT protocol: borders, scaling, calendar, and a score over every test window."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from darts.utils.data import SequentialTorchTrainingDataset, TorchTrainingDataset
from torch.utils.data import DataLoader

from models.darts.windows import collate_windows, window_dataset

# L look-back, H horizon, C channels

ROOT = Path(__file__).parents[2]
VARIABLE = "FORECAST_ETTH1"
BESIDE = ROOT.parent / "shared" / "data" / "ETTh1.csv"
MD5 = "8381763947c85f4be6ac456c508460d6"

Part = Literal["train", "validation", "test"]


class DataMissingError(FileNotFoundError):
    """The data set does not exist on this machine, or is not the file of the published figures."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A scaled data set with its calendar and the end rows of its parts."""

    name: str
    targets: TimeSeries
    """[rows, C] float32, in standard deviations of the training rows."""
    calendar: TimeSeries
    """[rows, 4] float32 in [-0.5, 0.5], see `calendar_of`."""
    borders: tuple[int, int, int]
    """End of the training, validation and test rows; rows behind the last are unused."""

    def rows(self, part: Part, lookback: int) -> slice:
        """Rows of a part; validation and test start one look-back before their first target."""
        train, validation, test = self.borders
        return {
            "train": slice(0, train),
            "validation": slice(train - lookback, validation),
            "test": slice(validation - lookback, test),
        }[part]

    def windows(self, part: Part, lookback: int, horizon: int, *, calendar: bool) -> TorchTrainingDataset:
        """Every window whose targets lie within a part: rows of the part - H + 1 (train: and - L)."""
        rows = self.rows(part, lookback)
        return window_dataset(
            SequentialTorchTrainingDataset(
                series=[self.targets[rows]],
                future_covariates=[self.calendar[rows]] if calendar else None,
                input_chunk_length=lookback,
                output_chunk_length=horizon,
            )
        )


@dataclass(frozen=True, slots=True)
class Score:
    """Errors over all windows, steps and channels, on scaled data."""

    mse: float
    mae: float
    windows: int


def find_etth1() -> Path:
    """Find the file: at FORECAST_ETTH1, else in `shared/data` beside the project.

    Raises:
        DataMissingError: the file does not exist, or is another file.

    """
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else BESIDE
    if not path.is_file():
        raise DataMissingError(
            f"{path} does not exist; set {VARIABLE} to the ETTh1.csv of the public ETDataset "
            "(--download fetches it through darts)"
        )
    found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if found != MD5:
        raise DataMissingError(f"{path} has MD5 {found}, the public ETTh1.csv {MD5}; set {VARIABLE} to that file")
    return path


def download_etth1() -> Path:
    """Fetch the file into darts' own cache, which checks the same MD5."""
    from darts.datasets import ETTh1Dataset

    loader = ETTh1Dataset()
    loader.load()
    return Path(loader._get_path_dataset())  # noqa: SLF001  # darts has no public path


def load_etth1(path: Path) -> Dataset:
    """Read ETTh1: 8640, 2880 and 2880 hours, scaled by mean and deviation (ddof 0) of the training rows."""
    borders = (8640, 11520, 14400)
    frame = pd.read_csv(path, index_col="date", parse_dates=True).iloc[: borders[-1]]
    known = frame.to_numpy(np.float64)[: borders[0]]
    scaled = (frame - known.mean(axis=0)) / known.std(axis=0)
    return Dataset("ETTh1", series_of(scaled), calendar_of(scaled.index), borders)


def calendar_of(times: pd.DatetimeIndex) -> TimeSeries:
    """Return hour of day, day of week, of month and of year, each scaled to [-0.5, 0.5], as in the official codes."""
    columns = {
        "hour": times.hour / 23,
        "weekday": times.day_of_week / 6,
        "day": (times.day - 1) / 30,
        "yearday": (times.day_of_year - 1) / 365,
    }
    return series_of(pd.DataFrame(columns, index=times) - 0.5)


def series_of(frame: pd.DataFrame) -> TimeSeries:
    """Return a darts series in float32."""
    return TimeSeries.from_times_and_values(frame.index, frame.to_numpy(np.float32), columns=list(frame.columns))


@torch.no_grad()
def score(module: Any, windows: TorchTrainingDataset) -> Score:
    """Score a model's Lightning module directly on the windows' tensors, in few large batches, without dropout.

    Sums are kept in float64.
    """
    squared = absolute = 0.0
    values = 0
    training = module.training
    module.eval()
    for arrived in DataLoader(windows, batch_size=256, collate_fn=collate_windows):
        batch = module.transfer_batch_to_device(arrived, module.device, 0)
        forecast = module(batch.to_module_input()).prediction[..., 0]  # [B, H, C]
        error = forecast - batch.future_target  # [B, H, C]
        squared += float(error.square().sum(dtype=torch.float64))
        absolute += float(error.abs().sum(dtype=torch.float64))
        values += error.numel()
    module.train(training)
    return Score(squared / values, absolute / values, len(windows))
