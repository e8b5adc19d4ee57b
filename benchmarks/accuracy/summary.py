"""Summaries of rows: means over seeds, the bar of each model, and the references that beat it."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.accuracy.cells import Row
from benchmarks.accuracy.published import PUBLISHED, Errors, bar_for
from benchmarks.accuracy.recipes import HORIZONS, RECIPES
from models.catalog import CATALOG, ModelName

SEEDS_ASKED = 3
REFERENCES = ("seasonal_naive", "linear", "dlinear")
"""References, with which every other model is compared."""
_NAMES = {
    ("seasonal_naive", "last"): "Repeat last",
    ("seasonal_naive", "day"): "Seasonal naive, 24 h",
    ("linear", "default"): "Linear",
}


@dataclass(frozen=True, slots=True)
class Result:
    """All seeds of a model with one preset, look-back and horizon."""

    model: str
    preset: str
    lookback: int
    horizon: int | None
    """None: the average over `HORIZONS`."""
    mse: tuple[float, ...]
    """One per seed."""
    mae: tuple[float, ...]

    @property
    def name(self) -> str:
        """Display name, with the preset if the model has several."""
        named = _NAMES.get((self.model, self.preset))
        if named:
            return named
        title = CATALOG[ModelName(self.model)].title
        return title if self.model in REFERENCES else f"{title} {self.preset}"

    @property
    def mean(self) -> Errors:
        """Mean over the seeds."""
        return Errors(fmean(self.mse), fmean(self.mae))

    @property
    def is_reference(self) -> bool:
        """Whether the model is a reference."""
        return self.model in REFERENCES

    @property
    def published(self) -> Errors | None:
        """The model's own published errors at this horizon, if they exist."""
        table = PUBLISHED.get(self.model, {})
        if self.horizon is not None:
            return table.get(self.horizon)
        if not table.keys() >= set(HORIZONS):
            return None
        return Errors(*(fmean(getattr(table[each], part) for each in HORIZONS) for part in ("mse", "mae")))

    @property
    def bar(self) -> Errors | None:
        """The bar, if the result has one."""
        return bar_for(self.model, self.preset, self.lookback, self.horizon)

    def verdict(self) -> str:
        """Return whether the mean meets the bar, by unrounded figures, and the distance of a miss."""
        if self.bar is None:
            return "-"
        gaps = {"MSE": self.mean.mse - self.bar.mse, "MAE": self.mean.mae - self.bar.mae}
        missed = [f"{gap:.4f} {name}" for name, gap in gaps.items() if gap > 0]
        message = f"**missed** by {', '.join(missed)}" if missed else "met"
        return message if len(self.mse) >= SEEDS_ASKED else f"{message} (too few seeds)"

    def losses(self, references: Collection["Result"]) -> str:
        """Name the references with a lower MSE or MAE."""
        if self.is_reference:
            return "-"
        message = []
        for other in references:
            worse = {"MSE": self.mean.mse > other.mean.mse, "MAE": self.mean.mae > other.mean.mae}
            names = [name for name, is_worse in worse.items() if is_worse]
            if names:
                message.append(f"{other.name} (L {other.lookback}) on {' and '.join(names)}")
        linear = {other.lookback for other in references if other.model == "linear"}
        missing = [] if self.lookback in linear else [f"linear (L {self.lookback})"]
        if not any((other.model, other.preset) == ("seasonal_naive", "last") for other in references):
            missing.append("repeat-last")
        parts = [f"**loses to** {', '.join(message)}"] if message else []
        parts += [f"{' and '.join(missing)} not yet run"] if missing else []
        return "; ".join(parts) or "beats them all"


def summarise(rows: Iterable[Row]) -> list[Result]:
    """Group rows over seeds, by horizon: first the references, then models in the order of the recipes."""
    gathered: dict[tuple[int, int, str, str, int], list[Row]] = {}
    order = list(RECIPES)
    for row in sorted(rows, key=lambda row: row.cell):
        cell = row.cell
        place = order.index((cell.model, cell.preset)) if (cell.model, cell.preset) in order else len(order)
        gathered.setdefault((cell.horizon, place, cell.model, cell.preset, cell.lookback), []).append(row)
    return [
        Result(model, preset, lookback, horizon, tuple(row.mse for row in own), tuple(row.mae for row in own))
        for (horizon, _, model, preset, lookback), own in sorted(gathered.items())
    ]


def averages(results: Sequence[Result]) -> list[Result]:
    """Average over `HORIZONS`, seed by seed, for models with the same number of seeds at all of them."""
    found = []
    at = {(one.model, one.preset, one.lookback, one.horizon): one for one in results}
    for model, preset, lookback in dict.fromkeys((one.model, one.preset, one.lookback) for one in results):
        parts = [at.get((model, preset, lookback, horizon)) for horizon in HORIZONS]
        there = [part for part in parts if part is not None]
        if len(there) < len(HORIZONS) or len({len(part.mse) for part in there}) > 1:
            continue
        mse, mae = (
            tuple(fmean(seed) for seed in zip(*(getattr(part, name) for part in there), strict=True))
            for name in ("mse", "mae")
        )
        found.append(Result(model, preset, lookback, None, mse, mae))
    return found


def gaps(results: Collection[Result]) -> list[str]:
    """List presets with horizons without a row, and results with too few seeds."""
    message = []
    for (model, preset), recipe in RECIPES.items():
        name = Result(model, preset, 0, 0, (), ()).name
        own = [one for one in results if (one.model, one.preset) == (model, preset)]
        missing = [str(horizon) for horizon in recipe.horizons if horizon not in {one.horizon for one in own}]
        if missing:
            message.append(f"{name}: not yet run at {', '.join(missing)}.")
        if CATALOG[ModelName(model)].family == "baseline":
            continue  # solved: independent of the seed
        message += [
            f"{name}, look-back {one.lookback}, horizon {one.horizon}: {len(one.mse)} of {SEEDS_ASKED} seeds."
            for one in own
            if len(one.mse) < SEEDS_ASKED
        ]
    return message
