"""Pages out of templates, in which every value is escaped."""

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
    """Return a page; ``csrf`` is the token of the browser's session, if it has one."""
    present = access()
    own = {"csrf": present.csrf, "may_decide": present.may(Scope.ADMIN) and not present.is_limited}
    text = _pages.get_template(template).render(context | own)
    return HTMLResponse(text, status, {"Cache-Control": "no-store"})


def embedded(document: object) -> Markup:
    """Return a document as JSON that may stand inside a script element; raises ValueError on NaN."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    # Inside a script element nothing is escaped for us: a "</script>" in a name must not end it.
    escaped = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(escaped)  # noqa: S704 - escaped in the line above
