"""Which implementation a call takes, and why: an answer that can be asked for, logged and stored with a run."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

_log = logging.getLogger(__name__)
_logged: set[tuple[str, str, str]] = set()
_recorders: list[dict[str, "list[Route]"]] = []


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


def taken(op: str, route: Route) -> None:
    """Say that a call of `op` takes `route`: logged the first time, kept by every `recorded_routes` that is open.

    To be called where the work is done and not where it is captured: a compiled graph takes its route at run time.
    """
    seen = (op, route.path, route.reason)
    if seen not in _logged:
        _logged.add(seen)
        _log.info("%s runs on the %s path: %s", op, route.path, route.reason)
    for recorder in _recorders:
        routes = recorder.setdefault(op, [])
        if route not in routes:
            routes.append(route)


@contextmanager
def recorded_routes() -> Iterator[Mapping[str, list[Route]]]:
    """Collect the routes that calls take while the body runs: for each op the different ones, in order."""
    routes: dict[str, list[Route]] = {}
    _recorders.append(routes)
    try:
        yield routes
    finally:
        _recorders[:] = [recorder for recorder in _recorders if recorder is not routes]
