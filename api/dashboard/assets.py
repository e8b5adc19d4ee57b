"""``GET /static/{name}``: scripts, styles, and plotly's script out of its Python package."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from api.dashboard import plotly_script
from api.dashboard.rendering import FOLDER
from api.rules import public
from forecast.errors import NotFoundError

router = APIRouter(include_in_schema=False, dependencies=[public])
_KINDS = (".js", ".css", ".svg")
_FILES = {file.name: file for file in FOLDER.iterdir() if file.suffix in _KINDS}


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """Serve one file."""
    if name == plotly_script.NAME:
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return FileResponse(plotly_script.FILE, media_type="text/javascript", headers=headers)
    if name in _FILES:
        return FileResponse(_FILES[name], headers={"Cache-Control": "no-cache"})
    raise NotFoundError("route.unknown", "there is nothing at this address", "the page is at /")
