"""Which implementation a call takes, and why: callers can query the route, log it and store it with a run."""

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
    """`path` names the implementation; `reason` says why the op took it."""

    path: Literal["triton", "torch", "export"]
    reason: str


def route_for(device: torch.device, refused: str | None) -> Route:
    """Choose the path; `refused` is the reason why no Triton kernel may run (None: it may).

    >>> route_for(torch.device("cpu"), "tensors are on cpu")
    Route(path='torch', reason='tensors are on cpu')
    """
    if torch.compiler.is_exporting():
        return Route("export", "the graph is being exported: plain torch operations only")
    if refused is None:
        return Route("triton", f"Triton kernels take {device.type} tensors of this shape and dtype")
    return Route("torch", refused)


def taken(op: str, route: Route) -> None:
    """Record that a call of `op` takes `route`: log it the first time, and add it to every open `recorded_routes`.

    Ops call this where the work runs, not where torch captures it: a compiled graph takes its route at run time.
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
    """Collect the routes of all calls in the body: the distinct ones per op, in the order of their first call.

    >>> from kernels.prob_sparse import prob_sparse_attention
    >>> x = torch.randn(1, 2, 30, 8)
    >>> with recorded_routes() as routes:
    ...     y = prob_sparse_attention(x, x, x)
    >>> [route.path for route in routes["prob_sparse_attention"]]
    ['torch']
    """
    routes: dict[str, list[Route]] = {}
    _recorders.append(routes)
    try:
        yield routes
    finally:
        _recorders[:] = [recorder for recorder in _recorders if recorder is not routes]
