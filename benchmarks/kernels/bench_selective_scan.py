"""The selective scan against the step-by-step autograd loop, and both directions in one call against two and flips.

python -m benchmarks.kernels.bench_selective_scan  (the figures of docs/kernels.md, into results/)
python -m benchmarks.kernels.bench_selective_scan --onnx  (which export form is faster)
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.kernels.measuring import RESULTS, Row, copy_rate, measure, report
from kernels.agreement import compare
from kernels.selective_scan import selective_scan, selective_scan_bidirectional, selective_scan_route
from kernels.selective_scan.inputs import ScanInputs
from kernels.selective_scan.reference import selective_scan_reference
from kernels.selective_scan.torch import exportable

Tensors = dict[str, Tensor]
TIMED = ("u", "delta", "B", "C", "z")


def ours(**tensors: Tensor) -> Tensor:
    """Scan one direction."""
    return selective_scan(**tensors, delta_softplus=True)


def loop(**tensors: Tensor) -> Tensor:
    """Scan one direction by the loop that autograd records, with one tensor per step: linear in L."""
    return selective_scan_reference(**tensors, delta_softplus=True)[0]


def naive(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """Scan one direction as widespread reference code does: discretise all steps, then read them one by one.

    For each of the L reads autograd returns a gradient of the size of all steps, mostly zeros: quadratic in L.
    """
    step = functional.softplus(delta + delta_bias[:, None])  # [B, D, L]
    decay = torch.exp(step[..., None] * A[:, None])  # [B, D, L, N]
    inflow = (step * u)[..., None] * B.transpose(1, 2)[:, None]  # [B, D, L, N]
    h = u.new_zeros(decay[:, :, 0].shape)  # [B, D, N]
    rows = []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + inflow[:, :, t]
        rows.append((h * C[:, None, :, t]).sum(-1))
    return (torch.stack(rows, 2) + D[:, None] * u) * functional.silu(z)


def both_at_once(**tensors: Tensor) -> Tensor:
    """Scan both directions in one call."""
    two = {name: t[None].expand(2, *t.shape) for name, t in tensors.items()}
    return selective_scan_bidirectional(**two, delta_softplus=True)


def both_by_flips(**tensors: Tensor) -> Tensor:
    """Scan both directions by two calls, the second on flipped inputs."""
    turned = {name: t.flip(-1) if name in TIMED else t for name, t in tensors.items()}
    return torch.stack((ours(**tensors), ours(**turned).flip(-1)))


SIDES: dict[str, Callable[..., Tensor]] = {
    "scan": ours,
    "loop": loop,
    "naive": naive,
    "both at once": both_at_once,
    "both by flips": both_by_flips,
}


def inputs(options: argparse.Namespace, length: int) -> Tensors:
    """Draw a layer's tensors, with channels innermost in memory, the layout of projections."""
    dtype = getattr(torch, options.dtype)

    def timed(size: int) -> Tensor:
        return torch.randn(options.batch, length, size, device=options.device, dtype=dtype).transpose(1, 2)

    return {
        "u": timed(options.channels),
        "delta": timed(options.channels),
        "A": -torch.rand(options.channels, options.states, device=options.device).exp(),
        "B": timed(options.states),
        "C": timed(options.states),
        "D": torch.ones(options.channels, device=options.device),
        "z": timed(options.channels),
        "delta_bias": torch.full((options.channels,), -4.0, device=options.device),
    }


def call(side: Callable[..., Tensor], tensors: Tensors, *, backward: bool) -> Callable[[], object]:
    """Return one call to measure: forward without gradients, or forward and backward."""
    if not backward:
        return lambda: torch.no_grad()(side)(**tensors)
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}

    def run() -> object:
        out = side(**leaves)
        return torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out))

    return run


def verify(options: argparse.Namespace) -> None:
    """Compare outputs and gradients with the float64 reference, and both directions with flips; raise if wrong."""
    tensors = inputs(argparse.Namespace(**vars(options) | {"batch": 1}), min(*options.lengths, 100))
    compare(ours, loop, tensors).require()
    compare(naive, loop, tensors).require()
    compare(both_at_once, both_by_flips, tensors).require()


def shape_of(options: argparse.Namespace, length: int) -> str:
    """Return the label of a shape."""
    return f"B{options.batch} D{options.channels} L{length} N{options.states}"


def measure_torch(options: argparse.Namespace) -> list[Row]:
    """Time all sides at all lengths."""
    rate = copy_rate(options.device)
    rows = []
    for length in options.lengths:
        tensors = inputs(options, length)
        route = selective_scan_route(tensors["u"], tensors["A"])
        sys.stdout.write(f"L={length}: the scan runs on the {route.path} path ({route.reason})\n")
        for backward in (False, True):
            chosen = {name: call(side, tensors, backward=backward) for name, side in SIDES.items()}
            if backward and length > options.naive_up_to:
                del chosen["naive"]  # quadratic: minutes per call
            # Forward reads u, delta, z and writes the output; backward reads those and the gradient and writes three.
            moved = tensors["u"].numel() * tensors["u"].element_size() * (11 if backward else 4)
            rows += measure(
                chosen,
                op="selective_scan",
                passes="forward+backward" if backward else "forward",
                shape=shape_of(options, length),
                options=options,
                floor={name: moved / rate * (2 if name.startswith("both") else 1) for name in chosen},
            )
    return rows


class Exported(torch.nn.Module):
    """One form of the scan, for export."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, **tensors: Tensor) -> Tensor:
        """Scan one direction."""
        return exportable(ScanInputs(*(t[None] for t in tensors.values()), softplus=True), form=self.form)[0][0]


def measure_onnx(options: argparse.Namespace) -> list[Row]:
    """Export both forms at each length, check them against the op, and time them in ONNX Runtime."""
    import onnxruntime

    rows = []
    for length in options.lengths:
        tensors = inputs(options, length)
        arrays = [t.contiguous().numpy() for t in tensors.values()]
        sides = {}
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            for form in ("unrolled", "prefix"):
                program = torch.export.export(Exported(form), (), tensors)
                path = Path(folder) / f"{form}.onnx"
                torch.onnx.export(program, dynamo=True, verbose=False).save(path)
                session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
                # By position: the exporter lowers the names, and B and b would be one.
                feeds = dict(zip((given.name for given in session.get_inputs()), arrays, strict=True))
                found = torch.from_numpy(session.run(None, feeds)[0])
                torch.testing.assert_close(found, ours(**tensors), rtol=1e-3, atol=1e-4)
                sides[form] = partial(session.run, None, feeds)
            shape = shape_of(options, length)
            rows += measure(sides, op="selective_scan", passes="onnxruntime", shape=shape, options=options, floor={})
    return rows


def main() -> None:
    """Verify, measure, report."""
    options = parse()
    torch.manual_seed(0)
    verify(options)
    file = RESULTS / ("selective_scan_onnx_cpu.csv" if options.onnx else "selective_scan_cpu.csv")
    report(measure_onnx(options) if options.onnx else measure_torch(options), options.csv or file)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", help="96 and 321; with --onnx 7, 21, 96 and 321")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--states", type=int, default=16)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--naive-up-to", type=int, default=400, help="longest length of the naive backward")
    parser.add_argument("--onnx", action="store_true", help="time the export forms in ONNX Runtime instead")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    options.lengths = options.lengths or ([7, 21, 96, 321] if options.onnx else [96, 321])
    return options


if __name__ == "__main__":
    main()
