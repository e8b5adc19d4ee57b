"""Randomness that depends on seed and epoch alone, so that a resumed training repeats the uninterrupted one."""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from darts.utils.data.torch_datasets._data_module import TorchDataModule
from torch.utils.data import DataLoader, RandomSampler


class EpochShuffle(RandomSampler):
    """A new order of the training windows each epoch; Lightning sets the epoch, also after a restart."""

    def __init__(self, length: int, seed: int) -> None:
        super().__init__(range(length))
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_seed(self.seed, self.epoch))
        yield from torch.randperm(len(self), generator=generator).tolist()


class SeededData(TorchDataModule):  # type: ignore[misc]  # darts is untyped
    """darts' loaders, with an `EpochShuffle` for the training windows."""

    def __init__(self, plain: TorchDataModule, seed: int) -> None:
        super().__init__(plain.train_dataset, plain.val_dataset, batch_size=plain.batch_size)
        self.dataloader_kwargs = plain.dataloader_kwargs
        self.seed = seed

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffle by seed and epoch."""
        sampler = EpochShuffle(len(self.train_dataset), self.seed)
        loader: DataLoader[Any] = self._create_dataloader(self.train_dataset, sampler=sampler)
        return loader


class SeededEpochs(pl.Callback):
    """Callback that derives dropout masks from seed and epoch."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Seed at the first batch: Lightning skips the hook of an epoch's start when it resumes at an epoch's end."""
        del pl_module, batch
        if batch_idx == 0:
            torch.manual_seed(_seed(self.seed + 1, trainer.current_epoch))  # seeds every device


def _seed(seed: int, epoch: int) -> int:
    return seed * 100_003 + epoch
