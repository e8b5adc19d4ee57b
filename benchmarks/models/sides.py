"""Our sides of the comparisons: `python -m benchmarks.models.sides <kind> <task as JSON>`, started by `lockstep`."""

import json
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts import models as stock
from torch import Tensor, nn

from benchmarks.models.informer_encoder import PublishedEncoder
from benchmarks.models.lockstep import Pacer, Side
from benchmarks.models.paced_training import PacedTraining
from benchmarks.models.products import record
from models.catalog import CATALOG, BuildRequest, ModelName
from models.darts.bridge import NetworkModel
from models.darts.frame import Frame, FramedNetwork
from models.networks.informer import Informer, InformerConfig
from models.shape import WindowShape

# B batch, L steps, C channels, D width

Step = Callable[[], object]
ROWS = 8640
"""Training hours of the ETT protocol."""
QUIET: Mapping[str, Any] = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
    "accelerator": "cpu",
}
"""Arguments of Lightning's Trainer, for our side and the rivals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A training and its data; values are random, because time does not depend on them."""

    model: str
    """A name of the catalogue, or a class of darts."""
    options: Mapping[str, Any] = field(default_factory=dict)
    lookback: int = 96
    horizon: int = 96
    channels: int = 7
    batch: int = 32
    steps: int = 20
    """Steps in a block."""

    def side(self, kind: str) -> Side:
        """Return the process that runs this task."""
        return Side(("benchmarks.models.sides", kind, json.dumps(asdict(self))))


def build(task: Task, **trainer: Any) -> Any:
    """Build the unfitted model of the catalogue, for point forecasts."""
    request = BuildRequest(
        lookback=task.lookback,
        horizon=task.horizon,
        quantiles=(),
        batch_size=task.batch,
        options=task.options,
        trainer=trainer,
    )
    return CATALOG[ModelName(task.model)].build(request)


def network_step(task: Task) -> Step:
    """Return one step of the network alone: frame, loss, optimizer; without averaged weights, darts and Lightning."""
    model: NetworkModel = build(task)
    module = type(model).module_class
    shape = WindowShape(lookback=task.lookback, horizon=task.horizon, targets=task.channels)
    config = module.config_class(**model.network_options)
    frame = Frame(**model.frame_options or {})
    network = FramedNetwork(lambda: module.network_class(config, shape), frame, shape)
    past = torch.randn(task.batch, task.lookback, task.channels)
    future = torch.randn(task.batch, task.horizon, task.channels, 1)
    arguments = model.pl_module_params
    optimizer = arguments["optimizer_cls"](network.parameters(), **arguments["optimizer_kwargs"])
    return training_step(network, optimizer, past, lambda forecast: arguments["loss_fn"](forecast, future))


def training_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, past: Tensor, loss: Callable[[Tensor], Tensor]
) -> Step:
    """Forward, backward, update."""

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(loss(network(past)))
        optimizer.step()

    return step


def product_steps(task: Task) -> Step:
    """Return one pass over the matrix products of the network's step, each with its own shapes, and nothing else."""
    products = [product.prepare() for product in record(network_step(task))]

    def step() -> None:
        for multiply in products:
            multiply()

    return step


def square_product(task: Task) -> Step:
    """Return one large product, 2 * 1024^3 operations: the speed of the library with favourable shapes."""
    del task
    left, right, out = (torch.randn(1024, 1024) for _ in range(3))
    return lambda: torch.mm(left, right, out=out)


def encoder_step(task: Task) -> Step:
    """Return one step of Informer's encoder."""
    shape = WindowShape(lookback=task.lookback, horizon=task.horizon, targets=task.channels)
    return _encoding(Informer(InformerConfig(**task.options), shape).stacks[0], task)


def published_step(task: Task) -> Step:
    """Return one step of Informer's encoder in the authors' form."""
    return _encoding(PublishedEncoder(InformerConfig(**task.options)), task)


def _encoding(encoder: nn.Module, task: Task) -> Step:
    embedded = torch.randn(task.batch, task.lookback, task.options["width"])  # [B, L, D]
    optimizer = torch.optim.Adam(encoder.parameters(), fused=True)
    return training_step(encoder, optimizer, embedded, lambda encoded: encoded.square().mean())


def run(step: Step, pacer: Pacer) -> None:
    """Step until the last block has ended."""
    while True:
        step()
        pacer.step()


def fit(model: Any, task: Task) -> None:
    """Fit a darts model until the last block has ended."""
    values = np.random.default_rng(0).standard_normal((ROWS, task.channels), dtype=np.float32)
    model.fit(TimeSeries.from_values(values), epochs=1_000_000)


def silence() -> None:
    """Silence the advice of libraries."""
    for name in ("pytorch_lightning", "darts", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def main() -> None:
    """Run one side."""
    silence()
    torch.manual_seed(0)
    kind, task = sys.argv[1], Task(**json.loads(sys.argv[2]))
    trainer = {**QUIET, "callbacks": [PacedTraining(task.steps)]} if kind in {"fit", "stock"} else {}
    if kind == "fit":
        fit(build(task, **trainer), task)
    elif kind == "stock":
        model = getattr(stock, task.model)(
            input_chunk_length=task.lookback,
            output_chunk_length=task.horizon,
            batch_size=task.batch,
            pl_trainer_kwargs=trainer,
            **task.options,
        )
        fit(model, task)
    else:
        run(STEPS[kind](task), Pacer(task.steps))


STEPS: Mapping[str, Callable[[Task], Step]] = {
    "network": network_step,
    "products": product_steps,
    "square": square_product,
    "encoder": encoder_step,
    "published": published_step,
}

if __name__ == "__main__":
    main()
