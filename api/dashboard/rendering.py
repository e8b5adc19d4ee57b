"""Render HTML pages from Jinja templates with automatic escaping, and embed JSON safely."""

from __future__ import annotations

import json
from pathlib import Path

from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from api.context import access
from api.dashboard import assets, plotly_script
from api.dashboard.formats import age, count, percent, signed
from forecast.ledger.keys import Scope

FOLDER = Path(__file__).parent / "templates"
_pages = Environment(
    loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_pages.globals.update(static=assets.address, plotly_map_style=plotly_script.MAP_STYLE)
_pages.filters.update(age=age, count=count, percent=percent, signed=signed)


def rendered(template: str, status: int = 200, **context: object) -> Response:
    """Return a page. The context also has ``csrf`` (the session's token, if any) and ``may_decide`` (scope admin)."""
    present = access()
    own = {"csrf": present.csrf, "may_decide": present.may(Scope.ADMIN) and not present.is_limited}
    text = _pages.get_template(template).render(context | own)
    return HTMLResponse(text, status, {"Cache-Control": "no-store"})


def embedded(document: object) -> Markup:
    """Return a document as JSON for a script element; raises ValueError on NaN."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    # Jinja does not escape inside script elements: a "</script>" in a name must not end the element.
    escaped = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(escaped)  # noqa: S704 - escaped in the line above
