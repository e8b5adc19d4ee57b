"""Assemble the application: routes, ASGI layers, error handlers and OpenAPI."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import dashboard
from api.asgi.access_control import AccessControl
from api.asgi.guard import SecurityHeaders
from api.asgi.observer import Observer
from api.asgi.shortcut import Shortcut
from api.auth.scopes import RouteScopes, public, reads_own
from api.errors import problems
from api.limits import Exposure, Limits
from api.openapi import examples
from api.routes import ROUTERS
from api.routes.on_demand import direct
from api.service import Service
from forecast.installation import Installation

_DESCRIPTION = """Issued forecasts, and where they come from. Errors are RFC 9457 problem documents with a stable
`code` and a `remedy`; times are RFC 3339 with offset; answers under `/v1/datasets` have an `ETag`."""
_FRAMEWORK_SCOPES = {
    "/openapi.json": reads_own,
    "/docs": reads_own,
    "/docs/oauth2-redirect": reads_own,
    "/redoc": reads_own,
    "/static-offline-docs": public,
}
"""Scopes of the routes that the framework adds."""


def create_app(installation: Installation, limits: Limits | None = None, exposure: Exposure | None = None) -> FastAPI:
    """Return the service of one installation; it follows the ledger while it runs."""
    service = Service(installation, limits, exposure)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPIOffline(
        title="Forecast service",
        description=_DESCRIPTION,
        version=importlib.metadata.version("forecast-service"),
        lifespan=lifespan,
        redirect_slashes=False,
        favicon_url="/static/icon.svg",
    )
    app.state.service = service
    app.state.limits = service.limits
    problems.install(app)
    for router in (*ROUTERS, dashboard.router, dashboard.login_router):
        app.include_router(router)
    scopes = app.state.rules = RouteScopes(app, _FRAMEWORK_SCOPES)
    app.router.routes.insert(0, direct)  # after the scopes are read: it has the scope of the route that it replaces
    make = app.openapi

    def described() -> dict[str, Any]:
        document = scopes.describe(make())
        examples.fill(document, service)
        return document

    app.openapi = described  # type: ignore[method-assign]  # FastAPI calls it for /openapi.json
    # The layer that is added last is the outermost.
    app.add_middleware(Shortcut, answers=service.answers, latest=service.latest, metrics=service.metrics)
    app.add_middleware(
        AccessControl,
        routes=scopes,
        keyring=service.keyring,
        sessions=service.sessions,
        limits=service.limits,
        admission=service.admission,
        metrics=service.metrics,
    )
    app.add_middleware(SecurityHeaders, hosts=service.exposure.hosts)
    app.add_middleware(Observer, metrics=service.metrics, tracer=service.tracer)
    return app
