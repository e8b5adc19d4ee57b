"""Timing of kernels: interleaved sides, median and quartiles, peak memory in a separate process, one CSV row each."""

import csv
import json
import platform
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, TextIO

import torch

Side = Callable[[], object]
# Folder of the figures of docs/kernels.md.
RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One side of one shape; times in milliseconds, memory in MiB beyond the inputs; None where not measured."""

    op: str
    side: str
    passes: str
    shape: str
    dtype: str
    device: str
    threads: int
    median: float
    lower_quartile: float
    upper_quartile: float
    rounds: int
    floor: float | None
    peak: float | None
    torch: str


def device_name(device: str) -> str:
    """Return the name of the hardware, so that each figure carries its machine."""
    return torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()


def time_sides(sides: Mapping[str, Side], *, device: str, rounds: int) -> dict[str, list[float]]:
    """Time every side once per round, in turn, after one warm-up each: a slow minute affects all sides."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run()
    for _ in range(rounds):
        for name, run in sides.items():
            taken[name].append(_time_once(run, device))
    return taken


def measure(
    sides: Mapping[str, Side],
    *,
    op: str,
    passes: str,
    shape: str,
    options: Namespace,
    floor: Mapping[str, float],
    peak: Callable[[str], float | None] = lambda _: None,
) -> list[Row]:
    """Time the sides of one shape and return their rows; `floor` and `peak` by side, None if unknown."""
    taken = time_sides(sides, device=options.device, rounds=options.rounds)
    return [
        row_of(
            times,
            op=op,
            side=name,
            passes=passes,
            shape=shape,
            dtype=options.dtype,
            device=options.device,
            floor=floor.get(name),
            peak=peak(name),
        )
        for name, times in taken.items()
    ]


def _time_once(run: Side, device: str) -> float:
    if device != "cuda":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def copy_rate(device: str) -> float:
    """Measure the bytes per millisecond of a large copy, read plus written; the memory floor is derived from it."""
    source = torch.empty(1 << (28 if device == "cuda" else 25), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    times = time_sides({"copy": lambda: target.copy_(source)}, device=device, rounds=7)["copy"]
    return 2 * source.numel() * 4 / statistics.median(times)


def peak_here(run: Side, device: str) -> float:
    """Return the peak MiB of one call, beyond the memory before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
    run()
    return (_resident("VmHWM") - before) / 2**10


def _resident(field: str) -> int:
    """Read KiB of this process from Linux; getrusage would return the high-water mark inherited from the parent."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:"))


def peak_in_child(module: str, arguments: Sequence[str]) -> float | None:
    """Take `peak_here` in a fresh process, where no earlier call has raised the high-water mark."""
    finished = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    return json.loads(finished.stdout.splitlines()[-1])["peak"] if finished.returncode == 0 else None


def row_of(
    times: Sequence[float],
    *,
    op: str,
    side: str,
    passes: str,
    shape: str,
    dtype: str,
    device: str,
    floor: float | None,
    peak: float | None,
) -> Row:
    """Reduce the times of one side."""
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else (times[0],) * 3
    return Row(
        op,
        side,
        passes,
        shape,
        dtype,
        device_name(device),
        torch.get_num_threads(),
        median,
        lower,
        upper,
        len(times),
        floor,
        peak,
        torch.__version__,
    )


def report(rows: Sequence[Row], path: Path | None, stream: TextIO = sys.stdout) -> None:
    """Print a table and, if a path is given, write the same rows as CSV."""
    stream.write(f"{'side':<14}{'passes':<18}{'shape':<34}{'median':>11}{'quartiles':>23}{'floor':>10}{'peak':>12}\n")
    for row in rows:
        spread = f"{row.lower_quartile:.3f}..{row.upper_quartile:.3f}"
        floor = "-" if row.floor is None else f"{row.median / row.floor:.1f}x"
        peak = "-" if row.peak is None else f"{row.peak:.1f} MiB"
        stream.write(
            f"{row.side:<14}{row.passes:<18}{row.shape:<34}{row.median:>8.3f} ms{spread:>23}{floor:>10}{peak:>12}\n"
        )
    if path is not None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
