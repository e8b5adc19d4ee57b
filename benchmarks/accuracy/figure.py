"""The figure: the test MSE of every model, seed by seed, beside published errors and baselines."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.accuracy.summary import Result

# Okabe and Ito's colours; every mark differs in shape or dash as well.
BLUE, ORANGE, SKY = "#0072B2", "#D55E00", "#56B4E9"
STYLES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "one seed": {"color": BLUE, "marker": "o", "markersize": 6, "linestyle": "none", "alpha": 0.7},
        "mean": {"color": BLUE, "marker": "|", "markersize": 15, "markeredgewidth": 2, "linestyle": "none"},
        "published": {"color": ORANGE, "marker": "D", "markersize": 7, "fillstyle": "none", "linestyle": "none"},
        "best linear": {"color": "black", "linewidth": 1.2},
        "repeat last": {"color": SKY, "linestyle": "--", "linewidth": 1.8},
    }
)
FAR = 1.25
"""If repeat-last is this many times as far out as all other marks, it gets a separate piece of axis."""


def draw(results: Sequence[Result]) -> Figure:
    """Draw one panel per horizon, one line per model and preset."""
    panels = [(horizon, list(group)) for horizon, group in groupby(results, key=lambda one: one.horizon)]
    heights = [len(group) + 1.2 for _, group in panels]
    figure = Figure(figsize=(9, 0.34 * sum(heights) + 1.1), layout="constrained")
    grid = figure.add_gridspec(len(panels), 2, width_ratios=[8, 1], height_ratios=heights)
    for row, (horizon, group) in enumerate(panels):
        lasts = _lasts(group)
        others = [mark for one in group if one.mean.mse not in lasts for mark in _marks(one)]
        if lasts and others and lasts[0] > FAR * max(others):
            near, far = figure.add_subplot(grid[row, 0]), figure.add_subplot(grid[row, 1])
            _panel(near, group)
            _panel(far, group)
            reach = max(others) - min(others) or 0.1
            near.set_xlim(min(others) - 0.08 * reach, max(others) + 0.08 * reach)
            far.set_xlim(lasts[0] * 0.97, lasts[0] * 1.03)
            far.set_xticks([lasts[0]], [f"{lasts[0]:.2f}"])
            _break(near, far)
        else:
            near = figure.add_subplot(grid[row, :])
            _panel(near, group)
        near.set_yticks(range(len(group)), [f"{one.name}, L {one.lookback}" for one in group])
        near.set_title(f"Horizon {horizon}", loc="left", fontsize=10, fontweight="bold")
    figure.supxlabel("MSE on scaled ETTh1, all test windows (lower is better)", fontsize=10)
    handles = [Line2D([], [], label=label, **style) for label, style in STYLES.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, group: Sequence[Result]) -> None:
    for place, one in enumerate(group):
        axes.plot(one.mse, [place] * len(one.mse), **STYLES["one seed"])
        axes.plot([one.mean.mse], [place], **STYLES["mean"])
        if one.published is not None:
            axes.plot([one.published.mse], [place], **STYLES["published"])
    linear = [one.mean.mse for one in group if one.model == "linear"]
    for lines, style in ((linear, "best linear"), (_lasts(group), "repeat last")):
        if lines:
            axes.axvline(min(lines), zorder=0, **STYLES[style])
    axes.set_ylim(len(group) - 0.4, -0.6)
    axes.tick_params(labelsize=9)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _break(near: Axes, far: Axes) -> None:
    """Mark the break of the axis."""
    far.set_yticks([])
    far.spines["left"].set_visible(False)
    slash: Mapping[str, Any] = {
        "marker": [(-1, -1.6), (1, 1.6)],
        "markersize": 9,
        "linestyle": "none",
        "color": "black",
        "clip_on": False,
    }
    near.plot([1], [0], transform=near.transAxes, **slash)
    far.plot([0], [0], transform=far.transAxes, **slash)


def _marks(one: Result) -> list[float]:
    return [*one.mse, *([one.published.mse] if one.published else [])]


def _lasts(group: Sequence[Result]) -> list[float]:
    return [one.mean.mse for one in group if (one.model, one.preset) == ("seasonal_naive", "last")]
