"""Failures as RFC 9457 problem documents: one table from kind of failure to status; what was sent is never repeated."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from api.context import CURRENT, ForbiddenError, UnauthenticatedError
from api.errors.validation import MISTAKES, OTHER
from api.requests.bodies import SlowBodyError, TooLargeError, UnsupportedError
from api.requests.body_limit import RefusedBody
from api.state.batching import OverloadedError
from forecast.errors import (
    ConfigError,
    ConflictError,
    DataError,
    ForecastError,
    NotFoundError,
    StorageError,
    TrainingError,
    UnavailableError,
    nearest,
)

MEDIA_TYPE = "application/problem+json"
_LONGEST_NAME = 80
_MOST_NAMES = 20
_MOST_MISTAKES = 10
_log = logging.getLogger("api")


class NotAcceptableError(ForecastError):
    """The client accepts none of the formats that there are."""


class UnknownHostError(ForecastError):
    """The request was meant for another host."""


class ForeignOriginError(ForecastError):
    """A page of another site sent a browser to write here."""


class TooManyError(ForecastError):
    """One sender asks for more than its share."""

    seconds = 1
    """After which it may ask again."""


class BusyError(ForecastError):
    """The service has more to do than it can."""


BUSY = BusyError("service.busy", "the service has too much to do", "come again in a second")


class UnforeseenError(ForecastError):
    """Something failed that no code expected."""


UNFORESEEN = UnforeseenError("internal", "the service failed unexpectedly", "see the service's log")

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
"""The only place where a kind of failure meets a status of HTTP."""

_INTERNAL: tuple[type[ForecastError], ...] = (StorageError, TrainingError)
"""These tell of paths and machines: the whole sentence goes to the log, the client learns the code."""

_CUT_OFF: tuple[type[ForecastError], ...] = (TooLargeError, SlowBodyError)


def suggest(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the remedy that names the nearest known word; a long list of names is not written out."""
    names = list(known)
    message = nearest(word[:_LONGEST_NAME], names)
    if message.startswith("did you mean") or len(names) <= _MOST_NAMES:
        return message
    return otherwise or f"there are {len(names)}; they are listed at /v1/datasets"


def too_many(seconds: int) -> TooManyError:
    """Return the refusal of a sender that must wait so long."""
    error = TooManyError("rate.exceeded", "too many requests came from this sender", f"wait {seconds} s")
    error.seconds = seconds
    return error


def status_of(error: ForecastError) -> HTTPStatus:
    """Return the status of a failure: that of its class, or of the nearest class it derives from."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def answer(error: ForecastError, more: Mapping[str, str] | None = None) -> Response:
    """Return the problem document of a failure, with more members if a client wants them."""
    return document(status_of(error), error.code, *told_outside(error), headers=_headers(error), **(more or {}))


def _headers(error: ForecastError) -> dict[str, str]:
    if isinstance(error, _CUT_OFF):  # what is left of the body would be read to its end before the next request
        return {"Connection": "close"}
    if isinstance(error, UnauthenticatedError):
        return {"WWW-Authenticate": 'Bearer realm="forecast"'}
    if isinstance(error, TooManyError):
        return {"Retry-After": str(error.seconds)}
    if isinstance(error, OverloadedError):
        return {"Retry-After": str(error.retry_after)}
    return {"Retry-After": "1"} if isinstance(error, BusyError) else {}


def told_outside(error: ForecastError) -> tuple[str, str]:
    """Return fact and remedy as a client may read them."""
    if not isinstance(error, _INTERNAL):
        return error.fact, error.remedy
    _log.error("%s: %s", error.code, error)
    return "the service cannot use something that it stored", "see the service's log"


def document(
    status: HTTPStatus, code: str, detail: str, remedy: str, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """Return one problem document."""
    content = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "code": code,
        "detail": detail,
        "remedy": remedy,
        **more,
    }
    exchange = CURRENT.get()
    if exchange is not None:
        content["request_id"] = exchange.request_id
    return JSONResponse(content, status, {"Cache-Control": "no-store", **(headers or {})}, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every failure of an application with a problem document."""
    app.add_exception_handler(ForecastError, _forecast_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)


async def _forecast_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ForecastError)  # noqa: S101 - narrows what Starlette passes
    return answer(error)


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    mistakes = mistakes_of(request, error)
    first = mistakes[0]
    return document(HTTPStatus.UNPROCESSABLE_ENTITY, first["code"], first["detail"], first["remedy"], mistakes=mistakes)


def mistakes_of(request: Request, error: RequestValidationError) -> list[dict[str, str]]:
    """Return the first mistakes of a request, each with code, detail and remedy."""
    known = _parameters(request)
    return [_mistake(item, known) for item in error.errors()[:_MOST_MISTAKES]]


def _parameters(request: Request) -> list[str]:
    """Return the names of the query parameters that a request's route takes."""
    declared = [parameter.field_info.annotation for parameter in request.scope["route"].dependant.query_params]
    return [name for model in declared for name in getattr(model, "model_fields", ())]


def _mistake(item: Mapping[str, Any], known: Iterable[str]) -> dict[str, str]:
    place, name = str(item["loc"][0]), str(item["loc"][1] if len(item["loc"]) > 1 else "")
    if item["type"] == "extra_forbidden":  # the name came from the client: it is not repeated
        remedy = suggest(name, known)
        return {
            "code": "parameter.unknown",
            "where": place,
            "detail": "there is no parameter of that name",
            "remedy": remedy,
        }
    kind, message, _ = MISTAKES.get(item["type"], OTHER)
    bounds = {"greater_than_equal": "at least", "less_than_equal": "at most"}
    limit = (item.get("ctx") or {}).get({"greater_than_equal": "ge", "less_than_equal": "le"}.get(item["type"], ""))
    remedy = f"give {bounds[item['type']]} {limit}" if limit is not None else f"see {name} at /docs"
    return {"code": f"{name}.{kind}", "where": f"{place}.{name}", "detail": f"{name} {message}", "remedy": remedy}


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if isinstance(error, RefusedBody):
        return answer(error.error)
    return without_route(HTTPStatus(error.status_code), error.headers or {})


def without_route(status: HTTPStatus, given: Mapping[str, str]) -> Response:
    """Answer what no route answers."""
    code, message, remedy = {
        HTTPStatus.NOT_FOUND: ("route.unknown", "there is nothing at this address", "the routes are listed at /docs"),
        HTTPStatus.METHOD_NOT_ALLOWED: (
            "method.not_allowed",
            "this address does not take that method",
            "see the header Allow",
        ),
    }.get(status, (f"http.{int(status)}", status.phrase, "see /docs"))
    headers = dict(given)
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"  # the guard answers HEAD wherever a route answers GET
    return document(status, code, message, remedy, headers)
