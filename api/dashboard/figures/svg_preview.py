"""Server-side SVG preview of the chart, shown until plotly has loaded and to browsers without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup

_WIDTH, _HEIGHT, _MARGIN = 1000.0, 320.0, 8.0


def svg_preview(shown: dict[str, Any]) -> Markup:
    """Return a forecast as an SVG element that stretches to its container.

    ``shown`` comes from :func:`api.dashboard.figures.forecast.document`. All steps have the same width.
    """
    past, median = shown["history"], shown["quantiles"][shown["levels"].index(0.5)]
    origin = shown["times"][0]
    before = [value for time, value in zip(past["times"], past["values"], strict=True) if time < origin]
    low, high = shown["quantiles"][0], shown["quantiles"][-1]
    finite = [value for value in (*before, *low, *high) if value is not None]
    least, most = min(finite), max(finite)
    across = _WIDTH / max(len(before) + len(median) - 1, 1)
    up = (_HEIGHT - 2 * _MARGIN) / ((most - least) or 1.0)

    def points(values: Sequence[float | None], first: int) -> list[tuple[float, float] | None]:
        return [
            None if value is None else ((first + place) * across, _HEIGHT - _MARGIN - (value - least) * up)
            for place, value in enumerate(values)
        ]

    begin = len(before)
    bands = [
        (shown["quantiles"][depth], shown["quantiles"][-1 - depth]) for depth in range(len(shown["quantiles"]) // 2)
    ]
    areas = [_line([*points(upper, begin), *reversed(points(lower, begin))]) + "Z" for lower, upper in bands]
    shapes = [f'<path class="band" d="{path}"/>' for path in areas]
    shapes += [
        f'<path class="history" d="{_line(points(before, 0))}"/>',
        f'<path class="median" d="{_line(points(median, begin))}"/>',
    ]
    box = f'viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" preserveAspectRatio="none"'
    # Safe: it contains only numbers formatted here.
    return Markup(f'<svg class="preview" aria-hidden="true" {box}>{"".join(shapes)}</svg>')  # noqa: S704


def _line(points: Sequence[tuple[float, float] | None]) -> str:
    """Return an SVG path; it starts again after each gap."""
    runs = [list(run) for is_gap, run in groupby(points, lambda point: point is None) if not is_gap]
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in run if run) for run in runs)  # type: ignore[misc]
