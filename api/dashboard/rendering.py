"""Pages out of templates, in which every value is escaped."""

from __future__ import annotations

from pathlib import Path

from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api.exchange import access

FOLDER = Path(__file__).parent
_pages = Environment(
    loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def rendered(template: str, status: int = 200, **context: object) -> Response:
    """Return a page; ``csrf`` is the token of the browser's session, if it has one."""
    text = _pages.get_template(template).render(context | {"csrf": access().csrf})
    return HTMLResponse(text, status, {"Cache-Control": "no-store"})
