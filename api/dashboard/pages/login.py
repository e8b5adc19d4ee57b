"""``/login`` and ``/logout``: a browser exchanges an API key for a session cookie."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from api.auth.scopes import public
from api.auth.sessions import set_cookie
from api.context import access
from api.dashboard.rendering import rendered
from api.dependencies import ServiceDep
from api.errors.kinds import ForbiddenError
from api.requests.bodies import read_body

router = APIRouter(include_in_schema=False, dependencies=[public])
_LARGEST = 4096


@router.get("/login")
async def login_page(service: ServiceDep) -> Response:
    """Show the form; redirect to ``/`` if no key is needed or a session exists."""
    if service.keyring.is_open or access().session:
        return RedirectResponse("/", 303)
    return rendered("login.html", title="Log in", refused=False)


@router.post("/login")
async def log_in(request: Request, service: ServiceDep) -> Response:
    """Open a session for a valid key; 401 with the form otherwise."""
    found = service.keyring.identify(await _field(request, "key"))
    if found is None:
        return rendered("login.html", 401, title="Log in", refused=True)
    sessions = service.sessions
    answer = RedirectResponse("/", 303)
    cookie = set_cookie(sessions.open(found), sessions.lifetime, secure=request.url.scheme == "https")
    answer.headers["Set-Cookie"] = cookie
    return answer


@router.post("/logout")
async def log_out(request: Request, service: ServiceDep) -> Response:
    """End this browser's session; raises ``csrf.missing`` without the session's token."""
    present = access()
    if present.session and not service.sessions.has_token(present.session, await _field(request, "csrf")):
        raise ForbiddenError("csrf.missing", "a browser's write needs its session's token", "use the page's own form")
    answer = RedirectResponse("/login", 303)
    answer.headers["Set-Cookie"] = set_cookie("", service.sessions.lifetime, secure=request.url.scheme == "https")
    return answer


async def _field(request: Request, name: str) -> str:
    body = await read_body(request, _LARGEST)
    return next(iter(parse_qs(body.decode("latin-1"), max_num_fields=10).get(name, [])), "").strip()
