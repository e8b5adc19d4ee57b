"""Breakdown of a training step's time: by operation in the network alone, and by phase inside Lightning."""

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback
from torch.profiler import ProfilerActivity, profile

from benchmarks.models.sides import QUIET, Task, build, fit, network_step

_STEPS = 100
_WARM_UP = 20

# Parts of operation names, in the order of the search.
_KINDS: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("_fused_adam", "Optimizer"),
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm"),
    "attention": ("attention",),
    "normalisation": ("_norm",),
    "activation": ("gelu", "silu", "softmax"),
    "random bytes of dropout": ("::random_", "::ge"),
    "copies": ("::copy_", "::cat", "::clone", "::contiguous", "::to"),
    "element by element": ("::mul", "::add", "::sub", "::div", "::sum", "::mean", "::pow", "::sqrt", "::neg", "mse"),
}


def operations(task: Task) -> dict[str, float]:
    """Return milliseconds per step of the network alone, by kind of operation; a profiler overestimates small ones."""
    step = network_step(task)
    for _ in range(_WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(_STEPS):
            step()
    spent: defaultdict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        kind = next((kind for kind, parts in _KINDS.items() if any(part in event.key for part in parts)), "all else")
        spent[kind] += event.self_cpu_time_total / _STEPS / 1e3
    return dict(sorted(spent.items(), key=lambda part: -part[1]))


class _Phases(Callback):
    """Adds up the time between Lightning's hooks."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._batches = 0
        self._last = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Phases":
        return self  # darts copies its arguments

    def _close(self, phase: str) -> None:
        now = time.perf_counter()
        if self._batches >= _WARM_UP:
            self.spent[phase] += (now - self._last) / _STEPS * 1e3
        self._last = now

    def on_train_batch_start(self, *args: Any) -> None:
        del args
        self._close("between steps, loading a batch")

    def on_before_zero_grad(self, *args: Any) -> None:
        del args
        self._close("forward, loss, logging")

    def on_before_backward(self, *args: Any) -> None:
        del args
        self._close("zeroing gradients")

    def on_after_backward(self, *args: Any) -> None:
        del args
        self._close("backward")

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        del args
        self._close("update")
        self._batches += 1
        trainer.should_stop = self._batches == _WARM_UP + _STEPS


def phases(task: Task) -> dict[str, float]:
    """Return milliseconds per step inside darts and Lightning, by phase."""
    watch = _Phases()
    fit(build(task, **QUIET, callbacks=[watch]), task)
    return dict(watch.spent)
