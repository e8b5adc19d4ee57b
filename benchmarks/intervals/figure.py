"""The figure: coverage of every channel and group of lead times, before and after calibration."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.intervals.measure import Row

# Okabe and Ito's colours; every mark differs in shape as well.
STYLES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "none": {"color": "#D55E00", "marker": "D", "fillstyle": "none"},
        "calibrated": {"color": "#0072B2", "marker": "o", "alpha": 0.7},
        "rolling": {"color": "#009E73", "marker": "^", "alpha": 0.7},
    }
)
LABELS = {"none": "as the model tells it", "calibrated": "calibrated", "rolling": "calibrated every week anew"}
APART = 0.24
"""Style of a line between two kinds of bands."""


def draw(rows: Sequence[Row], promised: float, tolerance: float) -> Figure:
    """Draw one panel per data set, one line per model."""
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    models = [list(dict.fromkeys(row.model for row in rows if row.dataset == dataset)) for dataset in datasets]
    figure = Figure(figsize=(9, 0.5 * sum(map(len, models)) + 0.8 * len(datasets) + 0.8), layout="constrained")
    panels = figure.subplots(len(datasets), 1, squeeze=False, sharex=True, height_ratios=[len(one) for one in models])
    for axes, dataset, names in zip(panels[:, 0], datasets, models, strict=True):
        _panel(axes, [row for row in rows if row.dataset == dataset], names)
        axes.axvspan(promised - tolerance, promised + tolerance, color="#DDDDDD", zorder=0)
        axes.axvline(promised, color="black", linewidth=0.8, zorder=0)
        axes.set_title(dataset, loc="left", fontsize=10, fontweight="bold")
    figure.supxlabel("Share of values inside the 80% band; one mark per channel and group of lead times", fontsize=10)
    handles = [Line2D([], [], label=LABELS[bands], linestyle="none", **style) for bands, style in STYLES.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    for number, (bands, style) in enumerate(STYLES.items()):
        for place, name in enumerate(names):
            shares = [row.coverage for row in rows if (row.bands, row.model) == (bands, name)]
            axes.plot(shares, [place + APART * (number - 1)] * len(shares), linestyle="none", markersize=5, **style)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
