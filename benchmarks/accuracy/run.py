"""Train cells and add their rows; finished cells are skipped, killed ones resume.

python -m benchmarks.accuracy.run --models itransformer patch_tsmixer --presets faithful --horizons 96
python -m benchmarks.accuracy.run --models seasonal_naive linear dlinear --horizons 96
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.accuracy.cells import Cell, Row, add_row, read_rows
from benchmarks.accuracy.protocol import ROOT, DataMissingError, Dataset, download_etth1, find_etth1, load_etth1
from benchmarks.accuracy.recipes import ALL_HORIZONS, RECIPES, Recipe, lookbacks_at
from benchmarks.accuracy.training import Fitted, fit_cell
from models.catalog import CATALOG, ModelName

RESULTS = Path(__file__).parent / "results" / "etth1.csv"
SCRATCH = ROOT / ".accuracy"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells of the command line."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    try:
        data = load_etth1(download_etth1() if options.download else find_etth1())
    except DataMissingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    asked = list(cells(options, data.name))
    if not asked:
        sys.stderr.write("error: no recipe has such a cell; leave out --models, --presets or --horizons\n")
        return 2
    measure(asked, data, results=options.results, scratch=options.scratch, again=options.again)
    return 0


def cells(options: argparse.Namespace, dataset: str) -> Iterator[tuple[Cell, Recipe]]:
    """List the requested cells, each with its recipe at its horizon."""
    for (model, preset), recipe in RECIPES.items():
        if model not in options.models or (options.presets and preset not in options.presets):
            continue
        solved = CATALOG[ModelName(model)].family == "baseline"
        for horizon in recipe.horizons:
            if options.horizons and horizon not in options.horizons:
                continue
            here = recipe.of(horizon)
            own = lookbacks_at(horizon) if recipe.every_lookback else [here.lookback]
            for lookback in options.lookbacks or own:
                for seed in [0] if solved else options.seeds:
                    yield Cell(dataset, model, preset, lookback, horizon, seed), here


def measure(
    asked: Sequence[tuple[Cell, Recipe]], data: Dataset, *, results: Path, scratch: Path, again: bool = False
) -> None:
    """Train and score each cell without a row (`again`: every cell), and add its row."""
    known = {} if again else read_rows(results)
    todo = [(cell, recipe) for cell, recipe in asked if cell not in known]
    say(f"{len(asked)} cells, {len(asked) - len(todo)} of them finished before; {torch.get_num_threads()} threads")
    for cell, recipe in todo:
        fitted = fit_cell(cell, recipe, data, scratch, say)
        add_row(results, row_of(cell, recipe, fitted, data))
        fitted.checkpoint.unlink(missing_ok=True)  # only after the row is stored


def row_of(cell: Cell, recipe: Recipe, fitted: Fitted, data: Dataset) -> Row:
    """Score a trained cell on the test windows."""
    test = fitted.score(data.windows("test", cell.lookback, cell.horizon, calendar=recipe.calendar))
    say(f"{cell}: test {test.mse:.4f}/{test.mae:.4f} over {test.windows} windows, {fitted.seconds:.0f} s")
    return Row(
        cell=cell,
        mse=test.mse,
        mae=test.mae,
        windows=test.windows,
        val_mse=fitted.validation.mse,
        val_mae=fitted.validation.mae,
        best_epoch=fitted.best_epoch,
        epochs=fitted.epochs,
        seconds=round(fitted.seconds, 1),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        commit=commit(),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def commit() -> str:
    """Return the version of the code: the commit, with `+` if tracked files differ from it."""

    def git(*arguments: str) -> str:
        finished = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return finished.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "models", "kernels")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def say(line: str) -> None:
    """Write a line of the log and flush it."""
    sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S} {line}\n")
    sys.stdout.flush()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    models = list(dict.fromkeys(model for model, _ in RECIPES))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=models, choices=models, help="all if left out")
    parser.add_argument("--presets", nargs="+", help="those of the recipes' table; all if left out")
    parser.add_argument("--horizons", type=int, nargs="+", choices=ALL_HORIZONS, help="all of a model's if left out")
    parser.add_argument("--lookbacks", type=int, nargs="+", help="in place of the recipe's own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--again", action="store_true", help="train cells anew that have a row")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--download", action="store_true", help="let darts fetch ETTh1 where it is not on this machine")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="checkpoints of unfinished cells")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
