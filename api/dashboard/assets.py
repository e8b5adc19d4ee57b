"""``GET /static/{name}``: scripts and styles, gzipped, and cached by browsers until they change."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.auth.scopes import public
from api.dashboard import plotly_script
from api.requests.negotiation import conditional
from forecast.errors import NotFoundError

router = APIRouter(include_in_schema=False, dependencies=[public])
_FOLDER = Path(__file__).parent / "static"
_MEDIA = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A static file: its media type, content and digest."""

    media: str
    content: bytes
    digest: str


def _read(file: Path) -> Asset:
    content = file.read_bytes()
    return Asset(_MEDIA[file.suffix], content, hashlib.sha256(content).hexdigest()[:16])


_ASSETS = {file.name: _read(file) for file in (plotly_script.FILE, *_FOLDER.iterdir()) if file.suffix in _MEDIA}


def address(name: str) -> str:
    """Return the URL of a file. It contains the digest, so what it names never changes and can be cached for good."""
    return f"/static/{name}?v={_ASSETS[name].digest}"


@router.get("/static/{name}")
def static(name: str, request: Request, v: str = "") -> Response:
    """Return one file; only a URL with the current digest is cacheable."""
    asset = _ASSETS.get(name)
    if asset is None:
        raise NotFoundError("route.unknown", "this address does not exist", "the dashboard is at /")
    headers = {"Vary": "Accept-Encoding"}
    if v == asset.digest:
        headers["Cache-Control"] = "public, max-age=31536000, immutable"
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return conditional(request, asset.content, asset.media, f'"{asset.digest}"', headers)
    headers["Content-Encoding"] = "gzip"
    return conditional(request, _packed(name), asset.media, f'"{asset.digest}-gzip"', headers)


@cache
def _packed(name: str) -> bytes:
    """Return a file as gzip, cached: plotly's script takes a tenth of a second."""
    return gzip.compress(_ASSETS[name].content, mtime=0)
