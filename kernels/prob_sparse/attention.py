"""ProbSparse attention (Informer, arXiv 2012.07436): O(ln L) queries attend to all keys, others take the mean value.

Always ProbSparse, on every device and at every length; full attention is different mathematics and never replaces it.
The causal form takes the running sum of values where a query is not selected, as the authors' code does. Its selection
sees all keys, also as in their code.
"""

from typing import Any, Final

import torch
from torch import Tensor

from kernels.checks import require_finite, require_same_device, require_same_kind, require_shape
from kernels.errors import KernelError, KernelErrorCode
from kernels.precision import working_dtype
from kernels.prob_sparse import torch as plain
from kernels.prob_sparse.reference import Measure, sample_size
from kernels.prob_sparse.sampling import Sampling, draw_keys
from kernels.routing import Route, route_for, taken
from kernels.triton_support import refusal

# B batch, H heads, LQ queries, LK keys, D head size, U sampled keys, u selected queries

_MAX_HEAD_SIZE: Final = 256
_MAX_SELECTED: Final = 128
_MAX_LENGTH: Final = 16384


def prob_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    factor: int = 5,
    causal: bool = False,
    sampling: Sampling = "shared",
    measure: Measure = "paper",
    seed: int | Tensor = 0,
    keys: Tensor | None = None,
    debug: bool = False,
) -> Tensor:
    """Attend with the selected queries; returns [B, H, LQ, D].

    query [B, H, LQ, D]; key, value [B, H, LK, D]; any strides. U = min(LK, factor * ceil(ln LK)) keys are sampled: one
    sample for all queries ("shared") or one per query ("independent"); `keys` [U] or [LQ, U] replaces them. The
    measure divides the sum of sampled scores by LK ("paper") or by U ("sampled_mean"). `debug` also checks values,
    which waits for the device.

    Raises:
        KernelError: a shape, dtype, device, option or key index is invalid.

    """
    _check(query, key, value, factor=factor, causal=causal, sampling=sampling, measure=measure, keys=keys)
    if keys is None:
        keys = _draw(query, key, factor=factor, sampling=sampling, seed=seed)
    if debug:
        _check_values(query, key, value, keys)
    count = sample_size(query.shape[2], factor)
    divisor = key.shape[2] if measure == "paper" else keys.shape[-1]
    if torch.compiler.is_exporting():
        return plain.exportable(query, key, value, keys, count=count, causal=causal, divisor=divisor)
    given = (query, key, value, keys, count, causal, divisor)
    if torch.compiler.is_compiling():
        return _forward_op(*given)[0]
    if torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value)):
        return _ProbSparse.apply(*given)
    return _forward(*given)[0]


def prob_sparse_route(query: Tensor, key: Tensor, *, factor: int = 5) -> Route:
    """Return the implementation that a call with these tensors takes, and why."""
    return _route(query, key, sample_size(query.shape[2], factor))


def _route(query: Tensor, key: Tensor, count: int) -> Route:
    return route_for(query.device, _refused(query, key, count))


def prob_sparse_queries(
    query: Tensor,
    key: Tensor,
    *,
    factor: int = 5,
    sampling: Sampling = "shared",
    measure: Measure = "paper",
    seed: int | Tensor = 0,
    keys: Tensor | None = None,
) -> Tensor:
    """Return the queries [B, H, u] that the attention selects, ascending: for inspection and comparisons."""
    _check(query, key, key, factor=factor, causal=False, sampling=sampling, measure=measure, keys=keys)
    if keys is None:
        keys = _draw(query, key, factor=factor, sampling=sampling, seed=seed)
    divisor = key.shape[2] if measure == "paper" else keys.shape[-1]
    count = sample_size(query.shape[2], factor)
    with torch.no_grad():
        if prob_sparse_route(query, key, factor=factor).path == "triton":
            from kernels.prob_sparse import triton as prob_sparse_triton

            return prob_sparse_triton.select(query, key, keys, count=count, divisor=divisor)
        return plain.select(plain.scores_of(query, key, keys, divisor=divisor), count)


class _ProbSparse(torch.autograd.Function):
    """The eager path: less overhead per call than a registered op."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, keys: Tensor, count: int, causal: bool, divisor: int
    ) -> Tensor:
        out, top, lse = _forward(query, key, value, keys, count, causal, divisor)
        ctx.save_for_backward(query, key, value, out, top, lse)
        ctx.causal = causal
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_backward(grad, *ctx.saved_tensors, ctx.causal), None, None, None, None


def _forward(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, count: int, causal: bool, divisor: int
) -> tuple[Tensor, Tensor, Tensor]:
    route = _route(query, key, count)
    taken("prob_sparse_attention", route)
    if route.path == "triton":
        from kernels.prob_sparse import triton as prob_sparse_triton

        return prob_sparse_triton.forward(query, key, value, keys, count=count, causal=causal, divisor=divisor)
    out, top = plain.forward(query, key, value, keys, count=count, causal=causal, divisor=divisor)
    return (
        out,
        top,
        torch.empty(0, dtype=working_dtype(out.dtype), device=out.device),
    )  # plain torch recomputes its softmax from the scores


def _backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, top: Tensor, lse: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if _refused(query, key, top.shape[2]) is None:
        from kernels.prob_sparse import triton as prob_sparse_triton

        return prob_sparse_triton.backward(grad, query, key, value, out, top, lse, causal=causal)
    return plain.backward(grad, query, key, value, out, top, causal=causal)


# The same two functions as registered ops: torch.compile captures each as one node, on every device.
_forward_op = torch.library.custom_op("forecast_kernels::prob_sparse_attention", _forward, mutates_args=())
_backward_op = torch.library.custom_op("forecast_kernels::prob_sparse_attention_backward", _backward, mutates_args=())


@_forward_op.register_fake
def _(query: Tensor, key: Tensor, _value: Tensor, _keys: Tensor, count: int, *_: int) -> tuple[Tensor, ...]:
    B, H = query.shape[:2]
    kept = (B, H, count) if _refused(query, key, count) is None else 0
    return (
        torch.empty(query.shape, dtype=query.dtype, device=query.device),
        query.new_empty((B, H, count), dtype=torch.int64),
        query.new_empty(kept, dtype=working_dtype(query.dtype)),
    )


@_backward_op.register_fake
def _(_grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_saved: Tensor | bool) -> tuple[Tensor, ...]:
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (query, key, value))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, value, _, _, causal, _ = inputs
    ctx.save_for_backward(query, key, value, *output)
    ctx.causal = causal


def _op_backward(ctx: Any, grad: Tensor, _top: None, _lse: None) -> tuple[Tensor | None, ...]:
    return *_backward_op(grad, *ctx.saved_tensors, ctx.causal), None, None, None, None


_forward_op.register_autograd(_op_backward, setup_context=_save_for_backward)


def _refused(query: Tensor, key: Tensor, count: int) -> str | None:
    D, longest = query.shape[3], max(query.shape[2], key.shape[2])
    if D > _MAX_HEAD_SIZE:
        return f"head size {D} exceeds the kernels' limit of {_MAX_HEAD_SIZE}"
    if count > _MAX_SELECTED:
        return f"{count} selected queries exceed the kernels' limit of {_MAX_SELECTED}; a smaller factor selects fewer"
    if longest > _MAX_LENGTH:
        return f"length {longest} exceeds the kernels' limit of {_MAX_LENGTH}"
    return refusal(query.device, query.dtype)


def _draw(query: Tensor, key: Tensor, *, factor: int, sampling: Sampling, seed: int | Tensor) -> Tensor:
    return draw_keys(
        sampling,
        query_length=query.shape[2],
        key_length=key.shape[2],
        count=sample_size(key.shape[2], factor),
        seed=seed,
        device=query.device,
    )


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    factor: int,
    causal: bool,
    sampling: str,
    measure: str,
    keys: Tensor | None,
) -> None:
    require_shape("query", query, dict.fromkeys(("B", "H", "LQ", "D")))
    B, H, LQ, D = query.shape
    require_shape("key", key, {"B": B, "H": H, "LK": LQ if causal else None, "D": D})
    require_shape("value", value, {"B": B, "H": H, "LK": key.shape[2], "D": D})
    require_same_kind({"query": query, "key": key, "value": value})
    if not isinstance(factor, int) or factor <= 0:
        raise KernelError(KernelErrorCode.BAD_FACTOR, f"factor is {factor}", "pass a whole number of at least 1")
    for name, chosen, options in (
        ("sampling", sampling, ("shared", "independent")),
        ("measure", measure, ("paper", "sampled_mean")),
    ):
        if chosen not in options:
            raise KernelError(
                KernelErrorCode.BAD_OPTION, f"{name} is {chosen!r}", f"pass {options[0]!r} or {options[1]!r}"
            )
    if keys is not None:
        _check_keys(query, keys)


def _check_keys(query: Tensor, keys: Tensor) -> None:
    LQ, wanted = query.shape[2], "pass int64 indices [U], or [LQ, U] for a sample per query"
    if keys.dtype is not torch.int64:
        raise KernelError(KernelErrorCode.BAD_KEYS, f"keys are {keys.dtype}", wanted)
    if keys.dim() not in (1, 2) or keys.numel() == 0 or (keys.dim() == 2 and keys.shape[0] != LQ):
        raise KernelError(KernelErrorCode.BAD_KEYS, f"keys have shape {list(keys.shape)} for LQ={LQ}", wanted)
    require_same_device({"query": query, "keys": keys})


def _check_values(query: Tensor, key: Tensor, value: Tensor, keys: Tensor) -> None:
    require_finite({"query": query, "key": key, "value": value})
    LK = key.shape[2]
    if bool(((keys < 0) | (keys >= LK)).any()):
        raise KernelError(
            KernelErrorCode.BAD_KEYS, f"keys hold indices outside [0, {LK})", "pass indices below the number of keys"
        )
