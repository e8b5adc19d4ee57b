"""Route class that adds an ``error`` member to problem documents, as inference clients (Triton, KServe) expect."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from api.errors.problems import answer, client_text
from forecast.errors import ForecastError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ErrorMemberRoute(APIRoute):
    """Adds ``"error": "<fact>; <remedy> [<code>]"`` to the problem documents of its routes."""

    def get_route_handler(self) -> Handler:
        """Return the route's handler with the member added."""
        handle = super().get_route_handler()

        async def with_error_member(request: Request) -> Response:
            try:
                return await handle(request)
            except ForecastError as error:
                fact, remedy = client_text(error)
                return answer(error, {"error": f"{fact}; {remedy} [{error.code}]"})

        return with_error_member
