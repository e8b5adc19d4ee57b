"""Quality of the query selection by sampled keys: overlap with the exact measure, and the error of the output.

`selection_quality(query, key, value)` takes the projections of an attention layer.

python -m benchmarks.kernels.selection_quality  (trains an Informer on ETTh1 for one epoch and reads its encoder;
finds the file as benchmarks/accuracy does; CSV into results/, table on standard output)
"""

import argparse
import csv
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from darts.utils.data import SequentialTorchTrainingDataset
from torch import Tensor

from benchmarks.accuracy.protocol import DataMissingError, find_etth1, load_etth1
from benchmarks.kernels.measuring import RESULTS
from kernels.agreement import relative_error
from kernels.prob_sparse import prob_sparse_attention, prob_sparse_queries
from kernels.prob_sparse.sampling import Sampling

# B batch, H heads, LQ queries, LK keys, D head size, u selected queries


@dataclass(frozen=True, slots=True)
class Quality:
    """One way of sampling against the measure over all keys; means over batch, heads and seeds."""

    sampling: Sampling
    overlap: float  # share of the exact measure's top u that the sample finds, in [0, 1]
    chance: float  # the overlap of u random queries: u / LQ
    output_error: float  # ||sampled - exact|| / ||exact|| of the attention's output


def selection_quality(
    query: Tensor, key: Tensor, value: Tensor, *, factor: int = 5, causal: bool = False, seeds: int = 5
) -> list[Quality]:
    """Compare shared and independent samples with the exact measure; query [B, H, LQ, D], key, value [B, H, LK, D]."""
    LQ, LK = query.shape[2], key.shape[2]
    every = torch.arange(LK, device=key.device)
    exact = prob_sparse_queries(query, key, factor=factor, keys=every)  # [B, H, u]
    right = prob_sparse_attention(query, key, value, factor=factor, causal=causal, keys=every)
    samplings: tuple[Sampling, ...] = ("shared", "independent")
    found = []
    for sampling in samplings:
        overlaps, errors = [], []
        for seed in range(seeds):
            chosen = prob_sparse_queries(query, key, factor=factor, sampling=sampling, seed=seed)
            out = prob_sparse_attention(query, key, value, factor=factor, causal=causal, sampling=sampling, seed=seed)
            overlaps.append(_overlap(chosen, exact, LQ))
            errors.append(relative_error(out, right))
        chance = exact.shape[2] / LQ
        found.append(Quality(sampling, sum(overlaps) / seeds, chance, sum(errors) / seeds))
    return found


def _overlap(chosen: Tensor, exact: Tensor, length: int) -> float:
    marks = torch.zeros((2, *exact.shape[:2], length), device=exact.device)
    for mark, queries in zip(marks, (chosen, exact), strict=True):
        mark.scatter_(2, queries, 1.0)
    return float(marks.prod(0).sum() / marks[1].sum())


def trained_projections(lookback: int, windows: int = 16) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Train an Informer for one epoch and return query, key and value of each encoder layer on unseen windows."""
    from models import InformerModel
    from models.darts.windows import WindowDataset
    from models.layers.temporal_attention import TemporalAttention

    data = load_etth1(find_etth1())
    fit = data.targets[: data.borders[0]]
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
    }
    model = InformerModel(lookback, 24, n_epochs=1, random_state=0, pl_trainer_kwargs=quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        model.fit(fit, verbose=False)
    network = model.model.eval().network.cores[0]
    layers = [layer for layer in network.stacks.modules() if isinstance(layer, TemporalAttention)]
    read: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0])) for layer in layers]
    validation = data.targets[data.borders[0] - lookback : data.borders[1]]
    unseen = WindowDataset(
        SequentialTorchTrainingDataset([validation], input_chunk_length=lookback, output_chunk_length=24)
    )
    batch = unseen.__getitems__(torch.linspace(0, len(unseen) - 1, windows).long().tolist())
    with torch.no_grad():
        model.model(batch.to_module_input())
        for hook in hooks:
            hook.remove()
        return [layer.split(tokens) for layer, tokens in zip(layers, read, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and store one row per look-back, layer and way of sampling."""
    parser = argparse.ArgumentParser(description="selection by sampled keys against the exact measure, after training")
    parser.add_argument("--lookbacks", type=int, nargs="+", default=[96, 336, 720])
    options = parser.parse_args(arguments)
    rows = []
    try:
        for lookback in options.lookbacks:
            for number, projections in enumerate(trained_projections(lookback), start=1):
                steps = projections[0].shape[2]
                for quality in selection_quality(*projections):
                    rows.append({"lookback": lookback, "layer": number, "steps": steps, **asdict(quality)})
                    cells = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in rows[-1].values())
                    sys.stdout.write("  ".join(cells) + "\n")
    except DataMissingError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / "selection_quality.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
