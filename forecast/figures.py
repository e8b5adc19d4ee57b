"""Figures, the same in reports, in MLflow and on the service's page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime

import plotly.graph_objects as go

BAND = "rgba(0, 114, 178, 0.22)"  # Okabe and Ito's palette: told apart with any colour vision
LINE = "#0072B2"
HISTORY = "#4D4D4D"
ACTUAL = "#D55E00"
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")


def fan(
    title: str,
    unit: str,
    history: tuple[Sequence[datetime], Sequence[float | None]],
    times: Sequence[datetime],
    median: Sequence[float],
    lower: Sequence[float],
    upper: Sequence[float],
    band: str,
    actual: tuple[Sequence[datetime], Sequence[float | None]] | None = None,
    recursive_from: datetime | None = None,
) -> go.Figure:
    """Draw history, the median of a forecast, and the band around it; times are wall times of the data set's zone."""
    figure = go.Figure()
    line = {"width": 1.4}
    figure.add_scatter(
        x=list(history[0]), y=list(history[1]), name="observed", mode="lines", line=line | {"color": HISTORY}
    )
    figure.add_scatter(
        x=list(times), y=list(upper), mode="lines", line={"width": 0}, showlegend=False, hoverinfo="skip"
    )
    figure.add_scatter(
        x=list(times),
        y=list(lower),
        mode="lines",
        line={"width": 0},
        fill="tonexty",
        fillcolor=BAND,
        name=band,
        hoverinfo="skip",
    )
    figure.add_scatter(x=list(times), y=list(median), name="median", mode="lines", line={"width": 1.8, "color": LINE})
    if actual is not None:
        figure.add_scatter(
            x=list(actual[0]), y=list(actual[1]), name="came true", mode="lines", line=line | {"color": ACTUAL}
        )
    if recursive_from is not None:
        figure.add_vrect(
            x0=recursive_from, x1=times[-1], fillcolor=HISTORY, opacity=0.08, line_width=0,
            annotation_text="recursive: the band does not grow as it should", annotation_position="top left",
        )  # fmt: skip
    if len(times):
        figure.add_vline(x=times[0], line={"width": 1, "dash": "dot", "color": HISTORY})
    return _dressed(figure, title, unit)


def by_lead(title: str, unit: str, curves: Mapping[str, Sequence[float]]) -> go.Figure:
    """Draw a loss against lead time, one curve per model."""
    figure = go.Figure()
    for number, (name, values) in enumerate(curves.items()):
        colour = _PALETTE[number % len(_PALETTE)]
        figure.add_scatter(
            x=list(range(1, len(values) + 1)), y=list(values), name=name, mode="lines", line={"color": colour}
        )
    figure.update_xaxes(title="lead time in steps")
    return _dressed(figure, title, unit)


def page(figures: Sequence[go.Figure], title: str) -> str:
    """Return a self-contained HTML page of figures: plotly's script is inside, nothing is fetched."""
    parts = [figure.to_html(full_html=False, include_plotlyjs=number == 0) for number, figure in enumerate(figures)]
    style = "body{font-family:system-ui,sans-serif;margin:1rem auto;max-width:1100px}"
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>'
    return f'<!doctype html><html lang="en">{head}{"".join(parts)}</html>'


def _dressed(figure: go.Figure, title: str, unit: str) -> go.Figure:
    figure.update_layout(
        title=title, template="plotly_white", height=380, margin={"l": 60, "r": 20, "t": 50, "b": 40},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"}, hovermode="x unified",
    )  # fmt: skip
    figure.update_yaxes(title=unit)
    return figure
