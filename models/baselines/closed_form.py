"""Base class of the darts models that are solved by a formula instead of trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytorch_lightning as pl
from darts.utils.data import SequentialTorchTrainingDataset, TorchTrainingDataset
from darts.utils.data.torch_datasets._data_module import TorchDataModule
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from torch.utils.data import DataLoader

from models.darts.bridge import NetworkModel
from models.darts.module import NetworkModule
from models.darts.windows import collate_windows, window_dataset
from models.errors import OptionOutOfRangeError


class ClosedFormNetwork(Protocol):
    """A network with weights that a formula gives from the training windows."""

    def solve(self, batches: "TrainingBatches") -> None:
        """Set the weights; an implementation may read all batches several times."""


@dataclass(frozen=True, slots=True)
class TrainingBatches:
    """The training windows in a fixed order; each iteration reads all of them."""

    dataset: TorchTrainingDataset
    size: int = 512

    def __iter__(self) -> Iterator[TorchTrainingBatch]:
        return iter(DataLoader(self.dataset, batch_size=self.size, shuffle=False, collate_fn=collate_windows))


class ClosedFormModel(NetworkModel):
    """A model that is solved instead of trained: no epochs, no randomness; its network has a method `solve`.

    It makes point forecasts; it ignores sample weights and validation series.
    """

    def __init__(
        self, input_chunk_length: int, output_chunk_length: int, output_chunk_shift: int = 0, **kwargs: Any
    ) -> None:
        if kwargs.get("likelihood") is not None:
            raise OptionOutOfRangeError("likelihood", kwargs["likelihood"], "left out: the model makes point forecasts")
        super().__init__(input_chunk_length, output_chunk_length, output_chunk_shift, **kwargs)

    @property
    def supports_static_covariates(self) -> bool:
        """False: the model ignores them."""
        return False

    @property
    def _requires_training(self) -> bool:
        return False

    def _build_train_dataset(self, series: Any, past_covariates: Any, future_covariates: Any, **kwargs: Any) -> Any:
        # darts builds windows without a horizon for models that need no training; these do need the targets.
        kwargs.pop("sample_weight", None)
        return window_dataset(
            SequentialTorchTrainingDataset(
                series=series,
                past_covariates=past_covariates,
                future_covariates=future_covariates,
                input_chunk_length=self.input_chunk_length,
                output_chunk_length=self.output_chunk_length,
                output_chunk_shift=self.output_chunk_shift,
                use_static_covariates=self.uses_static_covariates,
                **kwargs,
            )
        )

    def _train(
        self, trainer: pl.Trainer, model: NetworkModule, datamodule: TorchDataModule, load_best: bool = False
    ) -> None:
        sample = next(iter(TrainingBatches(datamodule.train_dataset, size=1)))
        model.to_dtype(sample.past_target.dtype)
        network: ClosedFormNetwork = model.network  # type: ignore[assignment]  # ClosedFormModel says so
        network.solve(TrainingBatches(datamodule.train_dataset))
        super()._train(trainer, model, datamodule, load_best)
