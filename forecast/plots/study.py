"""Charts of hyperparameter searches and of studies that compare models under changed conditions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from enum import StrEnum

import plotly.graph_objects as go

# Okabe and Ito's palette, distinguishable with any colour vision; a symbol each, for prints without colours.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
_GREY = "#4D4D4D"


def history(title: str, trials: Sequence[tuple[int, str, float]]) -> go.Figure:
    """Draw the loss of each trial (number, state, loss) and the best one so far."""
    figure = go.Figure()
    styles = {"complete": (_COLOURS[0], "circle"), "pruned": (_COLOURS[4], "x"), "failed": (_COLOURS[1], "cross")}
    for state, (colour, symbol) in styles.items():
        of = [(number, loss) for number, its_state, loss in trials if its_state == state]
        figure.add_scatter(
            x=[number for number, _ in of], y=[loss for _, loss in of], name=state, mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
        )  # fmt: skip
    complete = [(number, loss) for number, state, loss in trials if state == "complete"]
    best = [min(loss for _, loss in complete[: count + 1]) for count in range(len(complete))]
    figure.add_scatter(
        x=[number for number, _ in complete], y=best, name="best so far", mode="lines",
        line={"color": _GREY, "shape": "hv", "width": 1.4},
    )  # fmt: skip
    figure.update_xaxes(title="trial", rangemode="tozero")
    return _styled(figure, title, "validation loss")


def importance(title: str, shares: Mapping[str, float]) -> go.Figure:
    """Draw the importance of each hyperparameter as its share, largest first."""
    figure = go.Figure()
    names = list(shares)[::-1]
    figure.add_bar(x=[shares[name] for name in names], y=names, orientation="h", marker={"color": _COLOURS[0]})
    figure.update_xaxes(title="share", tickformat=".0%")
    figure = _styled(figure, title, "")
    return figure.update_layout(hovermode="closest", height=max(220, 60 + 32 * len(names)))


class Axis(StrEnum):
    """Scale of the horizontal axis."""

    LINEAR = "linear"
    PERCENT = "percent"
    LOG = "log"
    DOUBLING = "doubling"
    """Logarithmic, with a tick at each value."""


def curves(
    title: str,
    across: str,
    unit: str,
    points: Mapping[str, Sequence[tuple[float, float]]],
    models: Sequence[str],
    axis: Axis = Axis.LINEAR,
) -> go.Figure:
    """Draw a line per model through its points (x, y); ``models`` fixes colours and symbols across figures."""
    figure = go.Figure()
    for name, of in points.items():
        ordered = sorted(point for point in of if math.isfinite(point[1]))
        figure.add_scatter(
            x=[x for x, _ in ordered],
            y=[y for _, y in ordered],
            name=name,
            mode="lines+markers",
            **_style(name, models),
        )
    figure.update_xaxes(title=across)
    match axis:
        case Axis.PERCENT:
            figure.update_xaxes(tickformat=".0%")
        case Axis.LOG:
            figure.update_xaxes(type="log", dtick="D2")  # labels at 1, 2 and 5
        case Axis.DOUBLING:
            ticks = sorted({x for of in points.values() for x, _ in of})
            figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{x:g}" for x in ticks])
        case Axis.LINEAR:
            pass
    return _styled(figure, title, unit)


def pairs(title: str, unit: str, labels: tuple[str, str], values: Mapping[str, tuple[float, float]]) -> go.Figure:
    """Draw two bars per model, without and with a component."""
    figure = go.Figure()
    for place, (label, colour) in enumerate(zip(labels, (_GREY, _COLOURS[0]), strict=True)):
        figure.add_bar(
            x=list(values), y=[value[place] for value in values.values()], name=label, marker={"color": colour}
        )
    figure.update_layout(barmode="group")
    return _styled(figure, title, unit)


def with_subtitle(figure: go.Figure, sentence: str) -> go.Figure:
    """Put a sentence under the title of a figure, wrapped at 130 characters."""
    lines = textwrap.wrap(sentence, 130)
    return figure.update_layout(
        title={"subtitle": {"text": "<br>".join(lines)}, "y": 0.97, "yanchor": "top"},
        margin={"t": 60 + 20 * len(lines)}, height=420 + 20 * len(lines),
    )  # fmt: skip


def _style(name: str, models: Sequence[str]) -> dict[str, object]:
    number = list(models).index(name)
    colour = _COLOURS[number % len(_COLOURS)]
    # The second round of colours is dashed.
    dash = "solid" if number < len(_COLOURS) else "dash"
    symbol = _SYMBOLS[number % len(_SYMBOLS)]
    return {"line": {"color": colour, "dash": dash, "width": 1.8}, "marker": {"symbol": symbol, "size": 8}}


def _styled(figure: go.Figure, title: str, unit: str) -> go.Figure:
    figure.update_layout(
        title={"text": title}, template="plotly_white", height=420, margin={"l": 60, "r": 20, "t": 60, "b": 50},
        legend={"orientation": "v", "y": 1, "x": 1.02}, hovermode="x unified",
    )  # fmt: skip
    figure.update_yaxes(title=unit, rangemode="normal")
    return figure
