"""Route class for browsers: errors become HTML pages instead of problem documents."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from api.dashboard.rendering import rendered
from api.errors.problems import client_text, invalid_request, status_of
from forecast.errors import ForecastError


class ForBrowsers(APIRoute):
    """A route that answers an error with an HTML page, under the same status code as the REST interface."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with errors rendered as pages."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                invalid = invalid_request(request, error)
                return _problem(status_of(invalid), invalid.code, invalid.fact, invalid.remedy)
            except ForecastError as error:
                return _problem(status_of(error), error.code, *client_text(error))

        return handle


def _problem(status: int, code: str, message: str, remedy: str) -> Response:
    return rendered(
        "problem.html", status, title="This page cannot be shown", code=code, message=message, remedy=remedy
    )
