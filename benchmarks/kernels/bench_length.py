"""Growth of time and memory with length: ProbSparse attention beside full attention, from 96 to 8192.

python -m benchmarks.kernels.bench_length  (CSV into results/, plot into docs/images/, fitted slopes on standard output)
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.kernels import bench_prob_sparse
from benchmarks.kernels.bench_prob_sparse import OURS, SIDES, call, inputs, verify
from benchmarks.kernels.measuring import RESULTS, Row, measure, report

COMPARED = (OURS, "full")
PASSES = ("forward", "forward+backward")
# Below this length the overhead of a call bends the line.
FITTED_FROM = 768
# Lengths whose ratio is smaller have labels that would overlap.
NEAR = 1.4


def slope(lengths: Sequence[int], costs: Sequence[float]) -> float:
    """Fit cost ~ L^slope by least squares on logarithms: 2 is quadratic, L ln L is slightly above 1."""
    x, y = ([math.log(value) for value in values] for values in (lengths, costs))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def length_of(row: Row) -> int:
    """Read the length back from a row's shape."""
    return next(int(part[1:]) for part in row.shape.split() if part.startswith("L"))


def series(rows: Sequence[Row], side: str, passes: str, cost: Callable[[Row], float | None]) -> list[tuple[int, float]]:
    """Pick one line of the plot: (length, cost) for measured costs above the noise."""
    chosen = ((length_of(row), cost(row)) for row in rows if (row.side, row.passes) == (side, passes))
    return [(length, value) for length, value in chosen if value]


def plot(rows: Sequence[Row], path: Path, *, memory: bool) -> None:
    """Draw time, and memory where it was measured, against length; both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[str, Callable[[Row], float | None]] = {"time of a call [ms]": lambda row: row.median}
    if memory:
        panels["peak memory beyond the inputs [MiB]"] = lambda row: row.peak
    figure, axes = plt.subplots(1, len(panels), figsize=(5.4 * len(panels), 4.2), squeeze=False)
    for axis, (label, cost) in zip(axes[0], panels.items(), strict=True):
        for side, color in zip(COMPARED, ("tab:blue", "tab:red"), strict=True):
            for passes, style in zip(PASSES, ("-", "--"), strict=True):
                points = series(rows, side, passes, cost)
                if not points:
                    continue
                name = "ProbSparse" if side == OURS else "full attention (SDPA)"
                axis.plot(*zip(*points, strict=True), style, color=color, marker="o", label=f"{name}, {passes}")
                fitted_points = [point for point in points if point[0] >= FITTED_FROM]
                if len(fitted_points) > 1:
                    found = slope(*zip(*fitted_points, strict=True))
                    sys.stdout.write(f"{label}, {name}, {passes}: L^{found:.2f} from L={fitted_points[0][0]}\n")
                    axis.annotate(f"$L^{{{found:.2f}}}$", points[-1], xytext=(4, 0), textcoords="offset points")
        axis.set(xscale="log", yscale="log", xlabel="length L", ylabel=label)
        lengths = sorted({length_of(row) for row in rows})
        # A length whose label would overlap with the next one keeps its tick only.
        apart = [following / length > NEAR for length, following in pairwise([*lengths, math.inf])]
        axis.set_xticks(lengths, [str(length) if far else "" for length, far in zip(lengths, apart, strict=True)])
        axis.minorticks_off()
        axis.margins(x=0.12)
        axis.grid(visible=True, alpha=0.3)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{rows[0].shape.replace(f'L{length_of(rows[0])} ', '')}, {rows[0].dtype}, {rows[0].device}")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Verify, measure, report, plot."""
    options = parse()
    torch.manual_seed(0)
    verify(options)
    rows: list[Row] = []
    for length in options.lengths:
        tensors = inputs(options, length)
        for passes in PASSES:
            backward = passes != "forward"
            rows += measure(
                {name: call(SIDES[name], tensors, backward=backward) for name in COMPARED},
                op="prob_sparse_attention",
                passes=passes,
                shape=f"B{options.batch} H{options.heads} L{length} D{options.size}",
                options=options,
                floor={},
                peak=partial(bench_prob_sparse.peak, options, length, backward=backward),
            )
    report(rows, options.csv)
    plot(rows, options.plot, memory=options.memory)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[96, 192, 384, 768, 1536, 3072, 6144, 8192])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--size", type=int, default=64, help="head size")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="also peak memory")
    parser.add_argument("--csv", type=Path, default=RESULTS / "length_cpu.csv")
    parser.add_argument("--plot", type=Path, default=Path("docs/images/attention_length.png"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
