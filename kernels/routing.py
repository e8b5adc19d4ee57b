"""Which implementation a call takes, and why: an answer that can be asked for, logged and stored with a run."""

import logging
from dataclasses import dataclass
from typing import Literal

import torch

_log = logging.getLogger(__name__)
_logged: set[tuple[str, str, str]] = set()


@dataclass(frozen=True, slots=True)
class Route:
    """`path` is the implementation; `reason` says why this one and not a faster one."""

    path: Literal["triton", "torch", "export"]
    reason: str


def route_for(device: torch.device, refused: str | None) -> Route:
    """Pick the path from the reason a Triton kernel was refused for (None: it was not)."""
    if torch.compiler.is_exporting():
        return Route("export", "the graph is being exported: plain torch operations only")
    if refused is None:
        return Route("triton", f"Triton kernels take {device.type} tensors of this shape and dtype")
    return Route("torch", refused)


def log_once(op: str, route: Route) -> None:
    """Log the first call of `op` that takes `route`; silent while a graph is captured, where logging breaks it."""
    if torch.compiler.is_compiling():
        return
    seen = (op, route.path, route.reason)
    if seen not in _logged:
        _logged.add(seen)
        _log.info("%s runs on the %s path: %s", op, route.path, route.reason)
