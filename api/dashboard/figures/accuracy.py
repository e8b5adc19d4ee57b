"""Figures of the accuracy page: traces and layouts for plotly; "@accent" is a colour of the style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.dashboard.figures.reliability import Reliability
from forecast.monitoring.live_scores import Accuracy


def errors(rows: Sequence[Accuracy], unit: str) -> dict[str, Any]:
    """Draw the mean absolute error by lead time, and that of the seasonal naive forecast where it is known."""
    leads = [int(one.part) for one in rows]
    naive = [
        None
        if one.skill is None or one.skill >= 1 or one.mae_in_units is None
        else round(one.mae_in_units / (1 - one.skill), 6)
        for one in rows
    ]
    data = [
        _line(leads, [one.mae_in_units for one in rows], "served forecasts", "@accent", "solid"),
    ]
    if any(value is not None for value in naive):
        data.append(_line(leads, naive, "seasonal naive", "@soft", "dash"))
    return {
        "data": data,
        "layout": _axes("lead time in steps", f"mean absolute error, {unit}" if unit else "mean absolute error"),
    }


def coverage(rows: Sequence[Accuracy]) -> dict[str, Any]:
    """Draw the coverage of the band by lead time, and its nominal level."""
    leads = [int(one.part) for one in rows]
    data = [
        _line(leads, [one.coverage for one in rows], "coverage", "@accent", "solid", ".1%"),
        _line(leads, [one.promised_coverage for one in rows], "nominal level", "@actual", "dash", ".0%"),
    ]
    layout = _axes("lead time in steps", "share of values inside the band")
    layout["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.02]}
    return {"data": data, "layout": layout}


def calibration(reliability: Reliability) -> dict[str, Any]:
    """Draw the share of values below each quantile against its level."""
    ideal = {
        "x": [0, 1],
        "y": [0, 1],
        "mode": "lines",
        "name": "ideal",
        "line": {"color": "@soft", "dash": "dash", "width": 1},
        "hoverinfo": "skip",
    }
    observed = {
        "x": list(reliability.levels), "y": [round(share, 5) for share in reliability.below],
        "mode": "lines+markers", "name": "observed",
        "line": {"color": "@accent", "width": 2}, "marker": {"size": 9, "color": "@accent"},
        "hovertemplate": "%{y:.1%}",
    }  # fmt: skip
    layout = _axes("quantile level", "share of values below it")
    layout["xaxis"] |= {"tickformat": ".0%", "range": [0, 1]}
    layout["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.02]}
    return {"data": [ideal, observed], "layout": layout}


def bars(names: Sequence[str], values: Sequence[float | None], unit: str, title: str) -> dict[str, Any]:
    """Draw mean absolute errors by group as bars."""
    bar = {
        "type": "bar", "x": list(names), "y": [None if value is None else round(value, 6) for value in values],
        "marker": {"color": "@accent"}, "hovertemplate": "%{y:.3~g}", "name": "mean absolute error",
    }  # fmt: skip
    layout = _axes(title, unit) | {"showlegend": False, "bargap": 0.25}
    layout["xaxis"]["type"] = "category"
    return {"data": [bar], "layout": layout}


def _line(
    x: Sequence[int], y: Sequence[float | None], name: str, colour: str, dash: str, form: str = ".3~g"
) -> dict[str, Any]:
    return {
        "x": list(x), "y": [None if value is None else round(value, 6) for value in y], "mode": "lines", "name": name,
        "line": {"color": colour, "dash": dash, "width": 2}, "hovertemplate": f"%{{y:{form}}}",
    }  # fmt: skip


def _axes(x: str, y: str) -> dict[str, Any]:
    # plotly interprets some HTML in titles, so a unit is escaped.
    y = y.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}, "rangemode": "tozero"}}
