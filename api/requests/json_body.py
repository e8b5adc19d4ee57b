"""JSON that is sent to a route, read into its model; mistakes are told by their place, and nothing is repeated."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from api.errors.problems import document, status_of, suggest
from api.errors.validation import MISTAKES, OTHER
from api.requests.bodies import UnsupportedError, read_body
from forecast.errors import ConfigError

Sent = TypeVar("Sent", bound=BaseModel)

_LARGEST = 2**18
_MOST_MISTAKES = 10
_MEDIA = frozenset({"application/json", "application/merge-patch+json"})
_REMEDIES: Mapping[str, str] = {
    "name": "write small letters, digits, - and _, at most 63",
    "cron": 'write the five fields of cron, such as "30 2 * * *"',
    "zone": "give an IANA name such as America/New_York",
    "at_most_every": 'write a whole number and s, m, h, d or w, such as "6h"',
    "time_limit": 'write a whole number and s, m, h, d or w, such as "12h"',
    "backoff": 'write a whole number and s, m, h, d or w, such as "30s"',
    "memory_limit": "write it as 500MB or 8GB",
    "first": "write it like 2013-11-02T03:00:00Z",
    "last": "write it like 2013-11-02T03:00:00Z",
}


class InvalidDocumentError(ConfigError):
    """A body does not say what its route needs."""

    def __init__(self, code: str, fact: str, remedy: str = "", mistakes: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(code, fact, remedy)
        self.mistakes = mistakes


def sent(model: type[Sent], *, optional: bool = False) -> Callable[[Request], Coroutine[Any, Any, Sent]]:
    """Return the dependency that reads a body into a model; an empty body is ``{}`` where it is optional."""

    async def read(request: Request) -> Sent:
        body = await read_body(request, _LARGEST)
        if optional and not body.strip():
            body = b"{}"
        elif request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _MEDIA:
            raise UnsupportedError(
                "body.not_json", "the body is not said to be JSON", "send the header Content-Type: application/json"
            )
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            raise _invalid(error, model.model_fields) from None

    return read


def checked(model: type[Sent], fields: Mapping[str, Any], known: Iterable[str]) -> Sent:
    """Make a model of fields of which some were sent; ``known`` are the names that may be sent."""
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        raise _invalid(error, known) from None


def described(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Describe a body for OpenAPI; the models that it names must be part of some answer too."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def install(app: FastAPI) -> None:
    """Answer what is wrong with a body with a problem document that lists every mistake."""
    app.add_exception_handler(InvalidDocumentError, _answer)


async def _answer(_request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidDocumentError)  # noqa: S101 - narrows what Starlette passes
    return document(status_of(error), error.code, error.fact, error.remedy, mistakes=error.mistakes)


def _invalid(error: ValidationError, known: Iterable[str]) -> InvalidDocumentError:
    names, found = list(known), error.errors(include_url=False)
    # Where an entry of a list is wrong, pydantic goes on to say that the list is too short without it.
    deeper = {item["loc"][0] for item in found if len(item["loc"]) > 1}
    found = [item for item in found if not (item["type"] == "too_short" and item["loc"][0] in deeper)]
    mistakes = [_mistake(item, names) for item in found[:_MOST_MISTAKES]]
    first = mistakes[0]
    return InvalidDocumentError(first["code"], first["detail"], first["remedy"], mistakes)


def _mistake(item: ErrorDetails, known: Iterable[str]) -> dict[str, str]:
    code, where, detail, remedy = _told(item, known)
    return {"code": code, "where": where, "detail": detail, "remedy": remedy}


def _told(item: ErrorDetails, known: Iterable[str]) -> tuple[str, str, str, str]:
    kind, at = item["type"], item["loc"]
    if kind == "json_invalid":
        return "body.not_json", "body", "the body is not JSON", "send one JSON object"
    if kind == "extra_forbidden":  # the name came from the client: it is not repeated
        return "field.unknown", "body", "there is no field of that name", suggest(str(at[-1]), known)
    if not at:
        # What contradicts what: told in the words of the model, which repeat nothing but known ones.
        if kind == "value_error":
            message = item["msg"].removeprefix("Value error, ")
            return "body.contradictory", "body", message, "see the examples at /docs"
        return "body.malformed", "body", "the body is not an object", "send one JSON object"
    field, where = str(at[0]), ".".join(("body", *map(str, at)))
    if kind == "enum":
        expected = str(item.get("ctx", {}).get("expected", ""))
        return f"{field}.unknown", where, f"{field} has a word that is not known", f"known are: {expected}"
    ending, message, _ = MISTAKES.get(kind, OTHER)
    return f"{field}.{ending}", where, f"{field} {message}", _REMEDIES.get(field, f"see {field} at /docs")
