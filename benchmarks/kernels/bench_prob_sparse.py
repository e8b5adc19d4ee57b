"""ProbSparse attention against its official form, the plain torch composition, torch.compile of it, and full attention.

python -m benchmarks.kernels.bench_prob_sparse  (the figures of docs/kernels.md, with peak memory, into results/)
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels.measuring import RESULTS, Row, copy_rate, measure, peak_here, peak_in_child, report
from kernels.agreement import compare
from kernels.prob_sparse import prob_sparse_attention, prob_sparse_queries, prob_sparse_route
from kernels.prob_sparse import torch as prob_sparse_torch
from kernels.prob_sparse.reference import prob_sparse_reference, sample_size
from kernels.prob_sparse.sampling import draw_keys

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
OURS = "prob_sparse"


def official(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend as the authors' published code does: random keys per query, all of them materialised."""
    LQ, LK, D = query.shape[2], key.shape[2], query.shape[3]
    u = sample_size(LQ, 5)
    drawn = torch.randint(LK, (LQ, sample_size(LK, 5)), device=query.device)
    every = key.unsqueeze(2).expand(-1, -1, LQ, -1, -1)  # [B, H, LQ, LK, D], a view
    sampled = every[:, :, torch.arange(LQ, device=query.device)[:, None], drawn]  # [B, H, LQ, U, D], in memory
    scores = (query.unsqueeze(3) @ sampled.transpose(3, 4)).squeeze(3)
    top = (scores.amax(3) - scores.sum(3) / LK).topk(u, sorted=False).indices
    rows = top[..., None].expand(-1, -1, -1, D)
    weights = (query.gather(2, rows) @ key.transpose(2, 3) / math.sqrt(D)).softmax(-1)
    return value.mean(2, keepdim=True).expand_as(query).scatter(2, rows, weights @ value)


def composition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with one shared sample in plain torch operations and autograd."""
    LK = key.shape[2]
    count = sample_size(query.shape[2], 5)
    keys = shared_keys(query, key)
    return prob_sparse_torch.exportable(query, key, value, keys, count=count, causal=False, divisor=LK)


def shared_keys(query: Tensor, key: Tensor) -> Tensor:
    """Draw the sample that the op draws by default."""
    LQ, LK = query.shape[2], key.shape[2]
    count = sample_size(LK, 5)
    return draw_keys("shared", query_length=LQ, key_length=LK, count=count, seed=0, device=query.device)


def products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute only the three matrix products that every form needs: the lower bound of this machine's BLAS."""
    B, H, L, D = query.shape
    flat = [t.flatten(0, 1) for t in (query, key, value)]
    U = sample_size(L, 5) + 1
    rows = torch.empty(B * H, U, D, dtype=query.dtype, device=query.device).copy_(flat[0][:, :U])
    scores = torch.bmm(rows, flat[0].mT)
    return torch.bmm(torch.bmm(rows, flat[1].mT, out=scores), flat[2])


SIDES: dict[str, Attention] = {
    OURS: prob_sparse_attention,
    "official": official,
    "composition": composition,
    "full": scaled_dot_product_attention,
}


def inputs(options: argparse.Namespace, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw query, key and value in the layout of projections: [B, L, H, D] in memory, viewed as [B, H, L, D]."""
    shape = (options.batch, length, options.heads, options.size)
    dtype = getattr(torch, options.dtype)
    query, key, value = (torch.randn(shape, device=options.device, dtype=dtype).transpose(1, 2) for _ in range(3))
    return query, key, value


def call(attention: Attention, tensors: tuple[Tensor, Tensor, Tensor], *, backward: bool) -> Callable[[], object]:
    """Return one call to measure: forward without gradients, or forward and backward."""
    if not backward:
        return lambda: torch.no_grad()(attention)(*tensors)
    leaves = [t.detach().requires_grad_() for t in tensors]
    upstream = torch.randn_like(tensors[0])
    return lambda: torch.autograd.grad(attention(*leaves), leaves, upstream)


def verify(options: argparse.Namespace) -> None:
    """Compare outputs and gradients with the float64 reference on a small input; raise if they disagree."""
    query, key, value = inputs(argparse.Namespace(**vars(options) | {"batch": 1}), min(*options.lengths, 257))
    keys = shared_keys(query, key)
    chosen = prob_sparse_queries(query, key, keys=keys)
    compare(
        lambda **t: prob_sparse_attention(**t, keys=keys),
        lambda **t: prob_sparse_reference(**t, keys=keys, selected=chosen),
        {"query": query, "key": key, "value": value},
    ).require()


def main() -> None:
    """Verify, measure, report."""
    options = parse()
    torch.manual_seed(0)
    if options.peak_of:
        sys.stdout.write(json.dumps({"peak": peak_of(options)}) + "\n")
        return
    verify(options)
    rate = copy_rate(options.device)
    rows: list[Row] = []
    for length in options.lengths:
        tensors = inputs(options, length)
        route = prob_sparse_route(tensors[0], tensors[1])
        sys.stdout.write(f"L={length}: {OURS} runs on the {route.path} path ({route.reason})\n")
        for backward in (False, True):
            sides = SIDES | ({"compiled": torch.compile(composition)} if options.compile else {})
            if not backward:
                contiguous = tuple(t.contiguous() for t in tensors)
                sides["products"] = lambda *_, given=contiguous: products(*given)
            # Forward reads q, k, v and writes the output; backward reads k, v and the gradient and writes three
            # tensors.
            moved = tensors[0].numel() * tensors[0].element_size() * (10 if backward else 4)
            rows += measure(
                {name: call(side, tensors, backward=backward) for name, side in sides.items()},
                op="prob_sparse_attention",
                passes="forward+backward" if backward else "forward",
                shape=f"B{options.batch} H{options.heads} L{length} D{options.size}",
                options=options,
                floor=dict.fromkeys(sides, moved / rate),
                peak=partial(peak, options, length, backward=backward),
            )
    report(rows, options.csv)


def peak(options: argparse.Namespace, length: int, side: str, *, backward: bool) -> float | None:
    """Measure the peak memory of one side in a child process; that of torch.compile is not comparable and left out."""
    if not options.memory or side not in SIDES:
        return None
    given = [f"--{name}={getattr(options, name)}" for name in ("batch", "heads", "size", "dtype", "device")]
    flags = ["--backward"] if backward else []
    arguments = [*given, *flags, f"--peak-of={side}", "--lengths", str(length)]
    return peak_in_child("benchmarks.kernels.bench_prob_sparse", arguments)


def peak_of(options: argparse.Namespace) -> float:
    """Measure the peak of one side here, after a small call that loads the libraries, which must not count."""
    side = SIDES[options.peak_of]
    small = argparse.Namespace(**vars(options) | {"batch": 1, "heads": 1})
    call(side, inputs(small, 32), backward=options.backward)()
    return peak_here(call(side, inputs(options, options.lengths[0]), backward=options.backward), options.device)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[96, 336, 2048])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--size", type=int, default=64, help="head size")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the composition")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="also peak memory")
    parser.add_argument("--csv", type=Path, default=RESULTS / "prob_sparse_cpu.csv")
    parser.add_argument("--peak-of", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--backward", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
