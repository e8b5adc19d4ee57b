"""Pre-training without forecasts: mask random patches of the look-back and train the network to fill them in."""

from typing import Any, Protocol, cast

import pytorch_lightning as pl
import torch
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.darts.frame import FramedNetwork
from models.darts.module import NetworkModule
from models.errors import LookbackTooShortError, OptionOutOfRangeError
from models.layers.normalization import scale_window
from models.layers.patching import Patching

# K channels, N patches, B batch, D width


class PatchConfig(Protocol):
    """The sizes of a patch encoder that pre-training reads."""

    @property
    def width(self) -> int:
        """D: size of an embedded patch."""

    @property
    def patch_length(self) -> int:
        """Steps of a patch."""

    @property
    def patch_stride(self) -> int:
        """Steps between the starts of two patches."""


class PatchEncoder(Protocol):
    """A network that can be pre-trained: it cuts windows into patches and encodes them, as `PatchTSMixer` does."""

    config: PatchConfig
    patching: Patching

    def patch(self, past_target: Tensor, past_covariates: Tensor | None = None) -> Tensor:
        """Cut windows [B, L, C] and their past covariates into patches [K, N, B, length]."""

    def encode(self, patches: Tensor, static: Tensor | None = None, keep: int | None = None) -> Tensor:
        """Encode patches [K, N, B, length] as [K, N, B, D]."""


class MaskedPretraining(pl.LightningModule):
    """Train the mixers inside a forecaster on masked patches; its forecasting heads stay as they are.

    Windows are scaled (and their trend is removed) as in the forecaster. A share of each channel's patches is set to 0,
    the mean of a scaled window, and a linear head on each mixed patch reconstructs it. The loss is the mean
    squared error over masked patches only. Source: arXiv 2306.09364.

    Raises:
        OptionOutOfRangeError: a share outside (0, 1), or overlapping patches, which reveal their masked neighbours.
        LookbackTooShortError: the look-back has a single patch, so no patch remains unmasked.

    """

    def __init__(self, forecaster: NetworkModule, mask_ratio: float, same_mask: bool) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise OptionOutOfRangeError("mask_ratio", mask_ratio, "above 0 and below 1")
        self.network: FramedNetwork
        self.network = cast("FramedNetwork", forecaster.network)
        self.window_norm = forecaster.rin
        self.optimizer_class, self.optimizer_arguments = forecaster.optimizer_cls, forecaster.optimizer_kwargs
        self.mask_ratio = mask_ratio
        self.same_mask = same_mask
        config, patching = self._cores()[0].config, self._cores()[0].patching
        if config.patch_stride < config.patch_length:
            raise OptionOutOfRangeError("patch_stride", config.patch_stride, "the patch length or more to pre-train")
        if patching.count == 1:
            needed = config.patch_length + config.patch_stride
            raise LookbackTooShortError(forecaster.input_chunk_length, needed, "pre-training on two patches")
        self.reconstruct = nn.ModuleList(nn.Linear(config.width, config.patch_length) for _ in self.network.members)

    def training_step(self, batch: TorchTrainingBatch, batch_idx: int) -> Tensor:
        """Return the mean of the members' losses; each member has its own masks."""
        del batch_idx
        values = batch.past_target if self.window_norm is None else self.window_norm(batch.past_target)
        if self.network.frame.scale_windows:
            values = scale_window(values).values  # [B, L, C]
        losses = [
            self._loss(core, head, inputs, batch)
            for core, head, inputs in zip(
                self._cores(), self.reconstruct, self.network.core_inputs(values), strict=True
            )
        ]
        loss = torch.stack(losses).mean()
        self.log("reconstruction_loss", loss, batch_size=len(values), prog_bar=True, sync_dist=True)
        return loss

    def configure_optimizers(self) -> Optimizer:
        """Use the forecaster's optimiser, without a schedule of its rate."""
        trained = [*self.network.parameters(), *self.reconstruct.parameters()]
        optimizer: Optimizer = self.optimizer_class(trained, **self.optimizer_arguments)
        return optimizer

    def _cores(self) -> list[PatchEncoder]:
        return cast("list[PatchEncoder]", self.network.cores)

    def _loss(self, core: PatchEncoder, head: nn.Module, values: Tensor, batch: Any) -> Tensor:
        patches = core.patch(values, batch.past_covariates)  # [K, N, B, length]
        masked = random_mask(patches, self.mask_ratio, self.same_mask)  # [K, N, B, 1]
        filled = head(core.encode(patches * ~masked, batch.static_covariates))  # [K, N, B, length]
        errors = (filled - patches).square().mean(dim=3, keepdim=True)  # [K, N, B, 1]
        loss: Tensor = (errors * masked).sum() / masked.sum()
        return loss


def random_mask(patches: Tensor, ratio: float, same: bool) -> Tensor:
    """Choose the same number of patches, at least one and not all, for every window and channel, [K, N, B, 1].

    `patches` [K, N, B, length]; `same` chooses the same ones for all channels of a window, so that no channel
    reveals the masked patches of another.
    """
    channels, count, batch, _ = patches.shape
    chosen = min(max(round(ratio * count), 1), count - 1)
    noise = torch.rand(1 if same else channels, count, batch, device=patches.device)
    rank = noise.argsort(dim=1).argsort(dim=1)
    return (rank < chosen).expand(channels, -1, -1).unsqueeze(3)
