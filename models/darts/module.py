"""The Lightning module around a plain torch network: forward, loss, averaged weights and gradient clipping."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from typing import Any, ClassVar

import torch
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule, io_processor
from darts.utils.data.torch_datasets.utils import (
    ModuleStage,
    PLModuleInput,
    PLModuleOutput,
    TorchTrainingBatch,
)
from torch import Tensor, nn

from models.darts.frame import Frame, FramedNetwork, averaged
from models.darts.recipes import NetworkConfig
from models.shape import WindowShape


class NetworkModule(PLForecastingModule):  # type: ignore[misc]  # darts is untyped
    """The Lightning module of any network; subclasses name the network and its config.

    `config` and `framing` are plain mappings, so that checkpoints name no class of this package and pass darts' safe
    loading.
    """

    network_class: ClassVar[type[nn.Module]]
    config_class: ClassVar[type[NetworkConfig]]

    def __init__(self, config: Mapping[str, Any], framing: Mapping[str, Any] | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        shape = self._window_shape()
        settings = self.config_class(**config)
        self.frame = Frame(**framing) if framing is not None else None
        if self.frame is None:
            self.network: nn.Module = self.network_class(settings, shape)
        else:
            self.network = FramedNetwork(lambda: self.network_class(settings, shape), self.frame, shape)
        self.averaged = averaged(self.network, self.frame.averaging) if self.frame and self.frame.averaging else None
        self._epoch_loss = torch.zeros(())

    @property
    def forecaster(self) -> nn.Module:
        """The network that forecasts: in evaluation the one with averaged weights, if weights are averaged."""
        return self.network if self.averaged is None or self.training else self.averaged.module

    def training_step(self, train_batch: TorchTrainingBatch, batch_idx: int) -> Tensor:
        """Train every member on the batch; members share no weight, so one loss trains all.

        The mean loss is logged once per epoch: Lightning's log of each step would cost as much as a small network's
        optimiser.
        """
        members = self.frame.members if self.frame else 1
        if members > 1:
            parts = {entry.name: getattr(train_batch, entry.name) for entry in fields(train_batch)}
            train_batch = TorchTrainingBatch(
                **{name: tensor.repeat(members, 1, 1) for name, tensor in parts.items() if tensor is not None}
            )
        output = self(train_batch.to_module_input(stage=ModuleStage.TRAIN))
        target = train_batch.future_target
        loss: Tensor = self._compute_loss(output, target, self.train_criterion, train_batch.sample_weight)
        self._update_metrics(output, target, self.train_metrics)
        seen = loss.detach()
        self._epoch_loss = seen if batch_idx == 0 else self._epoch_loss + seen
        if self.trainer.is_last_batch:
            self.log("train_loss", self._epoch_loss / (batch_idx + 1), prog_bar=True, sync_dist=True, batch_size=1)
        return loss

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the loss of the checkpoint: darts 0.48.1 restores `criterion`, but not its copies for training."""
        super().on_load_checkpoint(checkpoint)
        self.train_criterion, self.val_criterion = deepcopy(self.criterion), deepcopy(self.criterion)

    def on_train_batch_end(self, *args: Any) -> None:
        """Update the averaged weights."""
        super().on_train_batch_end(*args)
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip gradients of bfloat16 here, because they have no scale.

        Lightning refuses to clip with a fused optimiser, which may have to unscale gradients first.
        """
        if gradient_clip_val and str(self.trainer.precision) == "bf16-mixed" and gradient_clip_algorithm is None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _window_shape(self) -> WindowShape:
        def width(feature: str) -> int:
            shape = self.train_sample_shape.get(feature)
            return int(shape[1]) if shape else 0

        return WindowShape(
            lookback=self.input_chunk_length,
            horizon=self.output_chunk_length,
            targets=width("past_target"),
            past=width("past_covariates"),
            future=width("future_covariates"),
            static=width("static_covariates"),
            outputs=self.likelihood.num_parameters if self.likelihood is not None else 1,
            gap=self.output_chunk_shift,
        )

    @io_processor  # type: ignore[untyped-decorator]
    def forward(self, x_in: PLModuleInput) -> PLModuleOutput:
        """Call the network with darts' named tensors; future targets are never among them."""
        forecast = self.forecaster(
            x_in.past_target,
            x_in.past_covariates,
            x_in.historic_future_covariates,
            x_in.future_covariates,
            x_in.static_covariates,
        )
        return PLModuleOutput(prediction=forecast)  # [B, H, C, Q]
