"""RFC 9457 problem documents: one table maps each error class to a status."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from api.context import CURRENT
from api.errors.kinds import (
    BusyError,
    ForbiddenError,
    ForeignOriginError,
    InvalidDocumentError,
    NotAcceptableError,
    OverloadedError,
    RefusedBody,
    SlowBodyError,
    TooLargeError,
    TooManyError,
    UnauthenticatedError,
    UnforeseenError,
    UnknownHostError,
    UnsupportedError,
)
from api.errors.validation import parameter_mistakes
from forecast.errors import (
    ConfigError,
    ConflictError,
    DataError,
    ForecastError,
    NotFoundError,
    StorageError,
    TrainingError,
    UnavailableError,
)

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("api")

STATUS: Mapping[type[ForecastError], HTTPStatus] = {
    ConfigError: HTTPStatus.UNPROCESSABLE_ENTITY,
    DataError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    NotAcceptableError: HTTPStatus.NOT_ACCEPTABLE,
    UnknownHostError: HTTPStatus.BAD_REQUEST,
    UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    ForeignOriginError: HTTPStatus.FORBIDDEN,
    TooManyError: HTTPStatus.TOO_MANY_REQUESTS,
    BusyError: HTTPStatus.SERVICE_UNAVAILABLE,
    SlowBodyError: HTTPStatus.REQUEST_TIMEOUT,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    StorageError: HTTPStatus.SERVICE_UNAVAILABLE,
    TrainingError: HTTPStatus.INTERNAL_SERVER_ERROR,
    UnforeseenError: HTTPStatus.INTERNAL_SERVER_ERROR,
    ForecastError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""The only place that maps an error class to a status; a subclass has the status of its nearest base class."""

_INTERNAL: tuple[type[ForecastError], ...] = (StorageError, TrainingError)
"""Their sentences name paths and machines: they go to the log, and the client reads a general sentence."""

_CUT_OFF: tuple[type[ForecastError], ...] = (TooLargeError, SlowBodyError)


def status_of(error: ForecastError) -> HTTPStatus:
    """Return the status of an error's class, or of its nearest base class in :data:`STATUS`."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def answer(error: ForecastError, more: Mapping[str, Any] | None = None) -> Response:
    """Return the problem document of an error; ``more`` are additional members."""
    members = dict(more or {})
    if isinstance(error, InvalidDocumentError):
        members["mistakes"] = error.mistakes
    return document(status_of(error), error.code, *client_text(error), headers=_headers(error), **members)


def _headers(error: ForecastError) -> dict[str, str]:
    if isinstance(error, _CUT_OFF):  # otherwise the rest of the body would be read before the next request
        return {"Connection": "close"}
    if isinstance(error, UnauthenticatedError):
        return {"WWW-Authenticate": 'Bearer realm="forecast"'}
    if isinstance(error, TooManyError):
        return {"Retry-After": str(error.seconds)}
    if isinstance(error, OverloadedError):
        return {"Retry-After": str(error.retry_after)}
    return {"Retry-After": "1"} if isinstance(error, BusyError) else {}


def client_text(error: ForecastError) -> tuple[str, str]:
    """Return fact and remedy for a client; an internal error is logged in full instead."""
    if not isinstance(error, _INTERNAL):
        return error.fact, error.remedy
    _log.error("%s: %s", error.code, error)
    return "the service cannot use its stored data", "see the service's log"


def document(
    status: HTTPStatus, code: str, detail: str, remedy: str, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """Return a problem document."""
    content = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "code": code,
        "detail": detail,
        "remedy": remedy,
        **more,
    }
    context = CURRENT.get()
    if context is not None:
        content["request_id"] = context.request_id
    return JSONResponse(content, status, {"Cache-Control": "no-store", **(headers or {})}, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem document."""
    app.add_exception_handler(ForecastError, _forecast_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)


async def _forecast_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ForecastError)  # noqa: S101 - narrows the type that Starlette passes
    return answer(error)


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    return answer(invalid_request(request, error))


def invalid_request(request: Request, error: RequestValidationError) -> InvalidDocumentError:
    """Translate FastAPI's error for an address."""
    declared = [parameter.field_info.annotation for parameter in request.scope["route"].dependant.query_params]
    return parameter_mistakes(
        error.errors(), [name for model in declared for name in getattr(model, "model_fields", ())]
    )


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if isinstance(error, RefusedBody):
        return answer(error.error)
    return without_route(HTTPStatus(error.status_code), error.headers or {})


def without_route(status: HTTPStatus, given: Mapping[str, str]) -> Response:
    """Return the problem document of a request that matches no route."""
    code, fact, remedy = {
        HTTPStatus.NOT_FOUND: ("route.unknown", "this address does not exist", "see /docs for all routes"),
        HTTPStatus.METHOD_NOT_ALLOWED: (
            "method.not_allowed",
            "this address does not support the method",
            "see the header Allow",
        ),
    }.get(status, (f"http.{int(status)}", status.phrase, "see /docs"))
    headers = dict(given)
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"  # SecurityHeaders answers HEAD wherever a route answers GET
    return document(status, code, fact, remedy, headers)
