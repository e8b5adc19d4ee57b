"""The application: routes, guards and problems put together."""

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
from api.gauges import gauges
from api.limits import Exposure, Limits
from api.openapi import examples
from api.requests import json_body
from api.routes import (  # fmt: skip
    accuracy,
    alerts,
    datasets,
    events,
    forecasts,
    health,
    history,
    jobs,
    mlflow_scoring,
    models,
    nixtla,
    observations,
    on_demand,
    open_inference,
    runs,
)
from api.service import Service
from forecast.installation import Installation

_DESCRIPTION = """Forecasts that were issued, with where they come from. Errors are RFC 9457 problem documents with a
stable `code` and a `remedy`; times are RFC 3339 with offset; answers under `/v1/datasets` have an `ETag`."""
_OF_THE_FRAMEWORK = {
    "/openapi.json": reads_own,
    "/docs": reads_own,
    "/docs/oauth2-redirect": reads_own,
    "/redoc": reads_own,
    "/static-offline-docs": public,
}
"""What the routes need that the framework adds."""


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
    service.metrics.add(lambda: gauges(service))
    problems.install(app)
    json_body.install(app)
    # Looked through in this order with every request.
    for router in (
        on_demand.router, forecasts.router, datasets.router, observations.router, history.router, accuracy.router,
        alerts.router, models.router, models.writing, jobs.router, jobs.writing, runs.router, runs.writing,
        events.router, nixtla.router, open_inference.router, mlflow_scoring.router, health.router,
    ):  # fmt: skip
        app.include_router(router)
    for router in (dashboard.router, dashboard.login_router):
        app.include_router(router)
    rules = app.state.rules = RouteScopes(app, _OF_THE_FRAMEWORK)
    app.router.routes.insert(0, on_demand.direct)  # behind the rules, which are those of the route that it stands for
    make = app.openapi

    def described() -> dict[str, Any]:
        document = rules.describe(make())
        examples.fill(document, service)
        return document

    app.openapi = described  # type: ignore[method-assign]  # the framework asks the application for it
    # The last one added is the outermost.
    app.add_middleware(Shortcut, ready=service.ready)
    app.add_middleware(
        AccessControl,
        rules=rules,
        keyring=service.keyring,
        sessions=service.sessions,
        limits=service.limits,
        admission=service.admission,
        metrics=service.metrics,
    )
    app.add_middleware(SecurityHeaders, hosts=service.exposure.hosts)
    app.add_middleware(Observer, metrics=service.metrics, tracer=service.tracer)
    return app
