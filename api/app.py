"""The application: routes, guards and problems put together."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import dashboard, examples, problems
from api.routes import (
    datasets,
    forecasts,
    health,
    inference,
    models,
    nixtla,
    observations,
    on_demand,
    read_back,
    scoring,
)  # fmt: skip
from api.security import Guard
from api.service import Service
from forecast.installation import Installation

_DESCRIPTION = """Forecasts that were issued, with where they come from. Errors are RFC 9457 problem documents with a
stable `code` and a `remedy`; times are RFC 3339 with offset; answers under `/v1/datasets` have an `ETag`."""
_FOREIGN_HOST = problems.UnknownHostError(
    "host.unknown", "this service does not answer to that host name", "use localhost"
)
_FOREIGN_ORIGIN = problems.ForeignOriginError(
    "origin.foreign", "a page of another site may not write here", "send the request from a program"
)


def create_app(installation: Installation) -> FastAPI:
    """Return the service of one installation; it follows the ledger while it runs."""
    service = Service(installation)

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
    problems.install(app)
    app.add_middleware(
        Guard,
        host_refusal=problems.answer(_FOREIGN_HOST),
        origin_refusal=problems.answer(_FOREIGN_ORIGIN),
        failure=problems.answer(problems.UNFORESEEN),
    )
    for router in (
        datasets.router, observations.router, read_back.router, forecasts.router, on_demand.router, models.router,
        nixtla.router, inference.router, scoring.router, health.router, dashboard.router,
    ):  # fmt: skip
        app.include_router(router)
    make = app.openapi

    def described() -> dict[str, Any]:
        document = make()
        examples.fill(document, service)
        return document

    app.openapi = described  # type: ignore[method-assign]  # the framework asks the application for it
    return app
