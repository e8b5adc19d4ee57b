"""Charts of a backtest: forecasts, residuals, calibration and losses on held-out origins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.panel import Array
from forecast.plots.charts import BAND, HISTORY, LINE, QUIET, legend_below, style, styled

_DIVERGING = ((0.0, "#0072B2"), (0.5, "#FFFFFF"), (1.0, "#D55E00"))
_RISING = ((0.0, "#FFFFFF"), (1.0, "#D55E00"))
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Fan:
    """A forecast from one origin, with the observations before and after it."""

    times: Sequence[datetime]
    """Wall times: history, then the H steps of the horizon."""
    observed: Array
    """One value per time; NaN where none was observed."""
    quantiles: Array
    """[H, 3]: lower end of the band, median, upper end."""


def fans(
    title: str, rows: Sequence[str], columns: Sequence[str], grid: Sequence[Sequence[Fan]], band: str
) -> go.Figure:
    """Draw forecasts as a grid: a row per channel, a column per origin."""
    figure = make_subplots(
        len(rows), len(columns), column_titles=list(columns), shared_xaxes="columns", horizontal_spacing=0.05,
        vertical_spacing=0.06 / len(rows),
    )  # fmt: skip
    for r, (name, line) in enumerate(zip(rows, grid, strict=True), 1):
        for c, one in enumerate(line, 1):
            first = len(one.times) - len(one.quantiles)
            ahead = _axis(one.times[first:])
            lower, median, upper = one.quantiles.T.astype(np.float32)
            traces = (
                ({"y": upper, "line": {"width": 0}, "hoverinfo": "skip"}, ahead, ""),
                ({"y": lower, "line": {"width": 0}, "fill": "tonexty", "fillcolor": BAND, "hoverinfo": "skip"},
                 ahead, band),
                ({"y": one.observed.astype(np.float32), "line": {"width": 1.3, "color": HISTORY}},
                 _axis(one.times), "observed"),
                ({"y": median, "line": {"width": 1.8, "color": LINE}}, ahead, "median"),
            )  # fmt: skip
            for look, times, label in traces:
                in_legend = bool(label) and (r, c) == (1, 1)
                figure.add_scatter(
                    **look, **times, mode="lines", name=label, legendgroup=label, showlegend=in_legend, row=r, col=c
                )
            figure.add_vline(x=one.times[first], line={"width": 1, "dash": "dot", "color": HISTORY}, row=r, col=c)
        figure.update_yaxes(title=name, row=r, col=1)
    figure = styled(figure, title, "")
    for r, name in enumerate(rows, 1):
        figure.update_yaxes(title=name, row=r, col=1)
    return _stacked(figure, 150 + 210 * len(rows))


def residuals(title: str, bias: Array, error: Array, hours: Sequence[int]) -> go.Figure:
    """Draw mean residual and mean absolute error, both [7, hours], by weekday and hour of the data set's zone."""
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.12,
        subplot_titles=("mean residual in deviations (orange: forecast too low)", "mean absolute error in deviations"),
    )  # fmt: skip
    widest = float(np.nanmax(np.abs(bias), initial=1e-9))
    for column, (values, scale, low, high) in enumerate(
        ((bias, _DIVERGING, -widest, widest), (error, _RISING, 0.0, float(np.nanmax(error, initial=1e-9)))), 1
    ):
        figure.add_heatmap(
            z=values.astype(np.float32), x=list(hours), y=_WEEKDAYS, colorscale=scale, zmin=low, zmax=high,
            colorbar={"x": 0.44 if column == 1 else 1.0, "thickness": 12},
            hovertemplate="%{y} %{x}:00 %{z:.3f}<extra></extra>", row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(title="hour of the day" if len(hours) > 1 else "", showticklabels=len(hours) > 1)
    figure = styled(figure, title, "")
    figure.update_yaxes(autorange="reversed")
    return figure.update_layout(hovermode="closest", height=420, margin={"t": 90})


def calibration(title: str, levels: Sequence[float], shares: Mapping[str, Array]) -> go.Figure:
    """Draw, for each group of lead times, the share of values below each quantile against its nominal level."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="as promised", line={"color": QUIET, "dash": "dash"}, hoverinfo="skip"
    )
    for number, (group, observed) in enumerate(shares.items()):
        figure.add_scatter(
            x=list(levels), y=observed.astype(np.float32), mode="lines+markers", name=group, line=style(number),
            hovertemplate="%{y:.1%} below the %{x:.0%} quantile",
        )  # fmt: skip
    figure.update_xaxes(title="level of the quantile", range=[0, 1], tickformat=".0%")
    figure = styled(figure, title, "share of values below it")
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    return legend_below(figure, len(shares) + 1).update_layout(hovermode="closest", height=540, width=640)


def bars(title: str, unit: str, losses: Mapping[str, float], colours: Mapping[str, str]) -> go.Figure:
    """Draw the loss of each model as a bar, best on top."""
    ordered = sorted(losses, key=lambda name: losses[name], reverse=True)
    figure = go.Figure()
    figure.add_bar(
        x=[losses[name] for name in ordered], y=ordered, orientation="h",
        marker={"color": [colours[name] for name in ordered]}, text=[f"{losses[name]:.4f}" for name in ordered],
        textposition="outside", cliponaxis=False, hoverinfo="skip",
    )  # fmt: skip
    figure = styled(figure, title, "")
    figure.update_xaxes(title=unit, rangemode="tozero")
    figure.update_yaxes(automargin=True)
    return figure.update_layout(height=150 + 32 * len(ordered), margin={"r": 70})


def _axis(times: Sequence[datetime]) -> dict[str, Any]:
    """Return wall times as start and step, which saves space; as a list if a clock change makes the steps uneven."""
    local = [time.replace(tzinfo=None) for time in times]
    step = local[-1] - local[0] if len(local) == 1 else local[1] - local[0]
    if local[-1] - local[0] != step * (len(local) - 1):
        return {"x": local}
    return {"x0": local[0], "dx": step / timedelta(milliseconds=1)}


def _stacked(figure: go.Figure, height: int) -> go.Figure:
    return figure.update_layout(height=height, margin={"t": 90}, hovermode="closest", legend={"y": 1 + 50 / height})
