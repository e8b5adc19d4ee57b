"""Doors for clients of other services: what they read in an error beside the problem document's own members."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from api.errors.problems import answer, told_outside
from forecast.errors import ForecastError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class TellingError(APIRoute):
    """Answers failures with a problem document that has a member ``error`` too, as inference clients want it."""

    def get_route_handler(self) -> Handler:
        """Return the handler that tells."""
        handle = super().get_route_handler()

        async def with_error_member(request: Request) -> Response:
            try:
                return await handle(request)
            except ForecastError as error:
                fact, remedy = told_outside(error)
                return answer(error, {"error": f"{fact}; {remedy} [{error.code}]"})

        return with_error_member
