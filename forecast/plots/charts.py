"""Charts of forecasts and losses: the same figures in HTML reports and in MLflow."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final

import numpy as np
import plotly.graph_objects as go

BAND = "rgba(0, 114, 178, 0.22)"  # Okabe and Ito's palette, distinguishable with any colour vision
LINE = "#0072B2"
HISTORY = "#4D4D4D"
ACTUAL = "#D55E00"
QUIET = "#B3B3B3"
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
_DASHES = ("solid", "dash", "dot")


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
    """Draw history, median and band of a forecast; times are wall times of the data set's zone."""
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
            x=list(actual[0]), y=list(actual[1]), name="actual", mode="lines", line=line | {"color": ACTUAL}
        )
    if recursive_from is not None:
        figure.add_vrect(
            x0=recursive_from, x1=times[-1], fillcolor=HISTORY, opacity=0.08, line_width=0,
            annotation_text="recursive: the band does not widen as it should", annotation_position="top left",
        )  # fmt: skip
    if len(times):
        figure.add_vline(x=times[0], line={"width": 1, "dash": "dot", "color": HISTORY})
    return styled(figure, title, unit)


def by_lead(title: str, unit: str, curves: Mapping[str, Sequence[float]]) -> go.Figure:
    """Draw a loss against lead time, one curve per model."""
    figure = go.Figure()
    for number, (name, values) in enumerate(curves.items()):
        figure.add_scatter(
            x0=1, dx=1, y=np.asarray(values, np.float32), name=name, mode="lines", line=style(number),
            hovertemplate="%{y:.4f}",
        )  # fmt: skip
    figure.update_xaxes(title="lead time in steps")
    return legend_below(styled(figure, title, unit), len(curves))


def style(number: int) -> dict[str, str]:
    """Return the style of the n-th line: colours first, then the same colours with another dash.

    >>> style(0)["dash"], style(7)["dash"], style(0)["color"] == style(7)["color"]
    ('solid', 'dash', True)
    """
    return {"color": _PALETTE[number % len(_PALETTE)], "dash": _DASHES[number // len(_PALETTE) % len(_DASHES)]}


def page(
    figures: Sequence[go.Figure],
    title: str,
    sources: Sequence[str] = (),
    facts: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return an HTML page of figures, with a table of ``facts`` (name and value) below them.

    Without ``sources`` Plotly's script is embedded and the page loads nothing. Otherwise the first source that responds
    provides it; a source that begins with "/" is a path on the server of the page.
    """
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=number == 0 and not sources, config={"displaylogo": False})
        for number, figure in enumerate(figures)
    ]
    style = "body{font-family:system-ui,sans-serif;margin:1rem auto;max-width:1100px}"
    loader = "".join(_FETCH.replace("SOURCE", _script_text(source)) for source in sources)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>{loader}'
    failure = _LOST if sources else ""
    return f'<!doctype html><html lang="en">{head}{"".join(parts)}{_table(facts)}{failure}</html>'


def _table(facts: Mapping[str, str]) -> str:
    rows = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts.items())
    style = "text-align:left;font-size:.85rem;overflow-wrap:anywhere"
    return f'<table style="{style}">{"".join(rows)}</table>' if facts else ""


_FETCH: Final = """<script>
if (!window.Plotly) {
  // A frame without an origin of its own finds the server in the URL of its blob.
  const server = SOURCE.startsWith("/") ? (location.href.match(/https?:\\/\\/[^/]+/) || [""])[0] : "";
  document.write('<script src="' + server + SOURCE + '"></' + 'script>');
}
</script>"""
_LOST: Final = """<script>
if (!window.Plotly) document.body.textContent =
  "The script that draws this page could not be loaded: put plotly.mjs of the parent run beside this file.";
</script>"""


def _script_text(text: str) -> str:
    return json.dumps(text).replace("<", "\\u003c").replace("&", "\\u0026")


def styled(figure: go.Figure, title: str, unit: str) -> go.Figure:
    """Apply the common layout: title, legend above the plot, margins for both."""
    figure.update_layout(
        title=title, template="plotly_white", height=380, margin={"l": 60, "r": 20, "t": 50, "b": 40},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"}, hovermode="x unified",
    )  # fmt: skip
    figure.update_yaxes(title=unit)
    return figure


def legend_below(figure: go.Figure, count: int) -> go.Figure:
    """Move a legend of ``count`` entries, which may need several rows, below the figure."""
    rows = -(-count // 3)
    legend = {"y": -70 / 290, "yanchor": "top", "x": 0, "xanchor": "left"}
    return figure.update_layout(legend=legend, height=400 + 22 * rows, margin={"b": 70 + 22 * rows})
