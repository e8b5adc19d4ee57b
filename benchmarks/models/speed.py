"""Speed of training and forecasting on this machine's cores, beside a lower bound and beside rivals.

python -m benchmarks.models.speed --rivals --csv speed.csv
python -m benchmarks.models.speed --only training --rounds 5
python -m benchmarks.models.speed --profile

A whole run takes some minutes, and gigabytes of disk for the rivals' environments. Run nothing else at the same time.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.models.breakdown import operations, phases
from benchmarks.models.inference import interleave_inference
from benchmarks.models.lockstep import Side, interleave
from benchmarks.models.products import record
from benchmarks.models.report import Goal, Row, markdown, row_of, write_csv
from benchmarks.models.rivals.environments import environment
from benchmarks.models.sides import ROWS, Task, network_step, silence

# Every transformer here has two layers of width 256 with perceptrons of the same width: the recipe for ETTh1.
ITRANSFORMER = Task(model="itransformer", options={"width": 256, "feed_forward": 256})
# neuralforecast's model of the same name has no linear map beside it and no averaged weights.
PLAIN = replace(ITRANSFORMER, options={**ITRANSFORMER.options, "linear_path": False, "averaging": 0.0, "loss": "mse"})
S_MAMBA = Task(model="s_mamba", options={"width": 256, "feed_forward": 256})
# Equal widths are not equal work: the matrix products of a step take 44, 7.1 and 0.32 billion operations here, and
# iTransformer's 1.1. darts has no closer model.
STOCK = {
    "darts TransformerModel": Task(
        model="TransformerModel",
        options={
            "d_model": 256,
            "nhead": 8,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "dim_feedforward": 256,
        },
        steps=4,  # its tokens are steps, not channels, which is several times the work
    ),
    "darts TSMixerModel": Task(model="TSMixerModel", options={"hidden_size": 256, "ff_size": 256, "num_blocks": 2}),
    "darts TiDEModel": Task(
        model="TiDEModel", options={"hidden_size": 256, "num_encoder_layers": 2, "num_decoder_layers": 2}
    ),
}
MIXER = Task(model="patch_tsmixer", options={"preset": "faithful"}, lookback=512, steps=4)
ENCODER = Task(
    model="informer",
    options={"width": 512, "feed_forward": 2048},
    lookback=336,
    batch=8,  # the published form's backward allocates B * 8 * 336^2 * 64 numbers
    steps=1,
)

PRODUCTS, FLOOR = "matrix products of iTransformer's step", "its operations at the speed of a large product"
GOALS = (
    Goal("training", "iTransformer", PRODUCTS, 2.3, at_most=True),
    Goal("training", "iTransformer", FLOOR, 2.3, at_most=True),
    Goal("training", "S-Mamba", "iTransformer", 3.0, at_most=True),
    *(Goal("training", name, "iTransformer, plain", 1.5) for name in ("neuralforecast iTransformer", *STOCK)),
    Goal("mixer", "Hugging Face PatchTSMixer, network", "PatchTSMixer, network", 2.0),
    Goal("encoder", "Informer's encoder as published", "Informer's encoder", 1.2),
    Goal("inference", "iTransformer", None, 1.0, at_most=True),
)


def training(options: argparse.Namespace) -> list[Row]:
    """Compare training steps at equal sizes: 7 channels, look-back and horizon 96, batch 32."""
    sides = {
        PRODUCTS: ITRANSFORMER.side("products"),
        FLOOR: ITRANSFORMER.side("square"),
        "iTransformer, network": ITRANSFORMER.side("network"),
        "iTransformer": ITRANSFORMER.side("fit"),
        "iTransformer, plain": PLAIN.side("fit"),
        "S-Mamba, network": S_MAMBA.side("network"),
        "S-Mamba": S_MAMBA.side("fit"),
        **{name: task.side("stock") for name, task in STOCK.items()},
    }
    if options.rivals:
        sizes = {"width": 256, "heads": 8, "layers": 2, "feed_forward": 256, "dropout": 0.1, "rows": ROWS}
        sides["neuralforecast iTransformer"] = rival("neuralforecast", ITRANSFORMER, sizes)
    taken = interleave(sides, rounds=options.rounds, threads=options.threads)
    share = sum(product.operations for product in record(network_step(ITRANSFORMER))) / (2 * 1024**3)
    taken[FLOOR] = [time * share for time in taken[FLOOR]]
    floors = {PRODUCTS, FLOOR}
    return [
        row_of("training", name, times, windows=None if name in floors else ITRANSFORMER.batch, threads=options.threads)
        for name, times in taken.items()
    ]


def mixer(options: argparse.Namespace) -> list[Row]:
    """Compare PatchTSMixer with its port, both bare networks with a fused optimizer: look-back 512, horizon 96."""
    sides = {"PatchTSMixer, network": MIXER.side("network"), "PatchTSMixer": MIXER.side("fit")}
    if options.rivals:
        sizes = {"width": 48, "expansion": 3, "layers": 3, "patch": 8, "dropout": 0.5, "head_dropout": 0.7}
        sides["Hugging Face PatchTSMixer, network"] = rival("huggingface", MIXER, sizes)
    return in_turn("mixer", sides, MIXER.batch, options)


def encoder(options: argparse.Namespace) -> list[Row]:
    """Compare steps of Informer's encoder at the authors' sizes, look-back 336."""
    independent = replace(ENCODER, options={**ENCODER.options, "sampling": "independent"})
    sides = {
        "Informer's encoder": ENCODER.side("encoder"),
        "Informer's encoder, keys drawn per query": independent.side("encoder"),
        "Informer's encoder as published": ENCODER.side("published"),
    }
    return in_turn("encoder", sides, ENCODER.batch, options)


def inference(options: argparse.Namespace) -> list[Row]:
    """Time one window of 7 x 96 by ONNX Runtime on one core."""
    taken = interleave_inference(options.rounds)
    return [row_of("inference", name, times, windows=1, threads=1) for name, times in taken.items()]


COMPARISONS = {"training": training, "mixer": mixer, "encoder": encoder, "inference": inference}


def in_turn(comparison: str, sides: Mapping[str, Side], batch: int, options: argparse.Namespace) -> list[Row]:
    """Time sides that train on batches of one size."""
    taken = interleave(sides, rounds=options.rounds, threads=options.threads)
    return [row_of(comparison, name, times, windows=batch, threads=options.threads) for name, times in taken.items()]


def rival(name: str, task: Task, sizes: Mapping[str, Any]) -> Side:
    """Return the process of a rival that trains on windows like the task's."""
    windows = {part: getattr(task, part) for part in ("lookback", "horizon", "channels", "batch", "steps")}
    arguments = (f"benchmarks.models.rivals.{name}_side", json.dumps({**windows, **sizes}))
    return Side(arguments, python=environment(name))


def breakdown() -> str:
    """Return a table of the time of iTransformer's step."""
    lines = []
    for title, spent in (("Network alone", operations(ITRANSFORMER)), ("Inside Lightning", phases(ITRANSFORMER))):
        lines += [f"| {title} | ms | Share |", "| --- | ---: | ---: |"]
        lines += [f"| {name} | {time:.2f} | {time / sum(spent.values()):.0%} |" for name, time in spent.items()]
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the comparisons of the command line."""
    options = parse(arguments)
    silence()
    torch.set_num_threads(options.threads)
    if options.profile:
        sys.stdout.write(breakdown())
        return
    rows = [row for name in options.only for row in COMPARISONS[name](options)]
    sys.stdout.write(markdown(rows, GOALS))
    if options.csv is not None:
        write_csv(rows, options.csv)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS))
    parser.add_argument("--rivals", action="store_true", help="also measure other packages, installed on first use")
    parser.add_argument("--rounds", type=int, default=15, help="blocks of steps per side")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="cores, all if left out")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--profile", action="store_true", help="only print the breakdown of a step's time")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
