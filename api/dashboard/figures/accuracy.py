"""The figures of the accuracy page, as the pages' script draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.dashboard.figures.reliability import Reliability
from forecast.monitoring.live_scores import Accuracy


def errors(rows: Sequence[Accuracy], unit: str) -> dict[str, Any]:
    """Draw the mean absolute error by lead time, beside that of the seasonal naive forecast where it could be made."""
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
    """Draw the share of values inside the band by lead time, beside what the band promises."""
    leads = [int(one.part) for one in rows]
    data = [
        _line(leads, [one.coverage for one in rows], "held", "@accent", "solid", ".1%"),
        _line(leads, [one.promised_coverage for one in rows], "promised", "@actual", "dash", ".0%"),
    ]
    layout = _axes("lead time in steps", "share of values inside the band")
    layout["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.02]}
    return {"data": data, "layout": layout}


def calibration(found: Reliability) -> dict[str, Any]:
    """Draw how often each quantile was undershot."""
    exact = {
        "x": [0, 1],
        "y": [0, 1],
        "mode": "lines",
        "name": "exact",
        "line": {"color": "@soft", "dash": "dash", "width": 1},
        "hoverinfo": "skip",
    }
    seen = {
        "x": list(found.levels), "y": [round(share, 5) for share in found.below],
        "mode": "lines+markers", "name": "came out",
        "line": {"color": "@accent", "width": 2}, "marker": {"size": 9, "color": "@accent"},
        "hovertemplate": "%{y:.1%}",
    }  # fmt: skip
    layout = _axes("quantile level", "share of values below it")
    layout["xaxis"] |= {"tickformat": ".0%", "range": [0, 1]}
    layout["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.02]}
    return {"data": [exact, seen], "layout": layout}


def bars(names: Sequence[str], values: Sequence[float | None], unit: str, title: str) -> dict[str, Any]:
    """Draw mean absolute errors by group."""
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
    # plotly reads a little HTML in titles: a unit is only a unit.
    y = y.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}, "rangemode": "tozero"}}
