"""Read JSON bodies into pydantic models; :mod:`api.errors.validation` words the mistakes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from api.errors.kinds import UnsupportedError
from api.errors.validation import all_mistakes, first_mistake
from api.requests.bodies import read_body

Body = TypeVar("Body", bound=BaseModel)

_LARGEST = 2**18
_MEDIA = frozenset({"application/json", "application/merge-patch+json"})


def parse(body: bytes, model: type[Body], names: Collection[str] = ()) -> Body:
    """Read a large body; ``names`` are keys that an error's place may repeat.

    Raises ``body.not_json``, ``body.unknown_field``, ``body.malformed``, and by field ``<field>.missing``,
    ``<field>.not_finite``, ``<field>.out_of_range`` and so on.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise first_mistake(error, model, names) from None


def sent(model: type[Body], *, optional: bool = False) -> Callable[[Request], Coroutine[Any, Any, Body]]:
    """Return the dependency that reads a short body; an empty body is ``{}`` where it is optional.

    Its error lists every mistake.
    """

    async def read(request: Request) -> Body:
        body = await read_body(request, _LARGEST)
        if optional and not body.strip():
            body = b"{}"
        elif request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _MEDIA:
            raise UnsupportedError(
                "body.not_json", "the content type is not JSON", "send the header Content-Type: application/json"
            )
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            raise all_mistakes(error, model.model_fields) from None

    return read


def checked(model: type[Body], fields: Mapping[str, Any], known: Iterable[str]) -> Body:
    """Validate a document that was merged with the fields of a body; ``known`` are the fields a body may have."""
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        raise all_mistakes(error, known) from None


def described(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Describe a body for OpenAPI; the models that it references must also be part of a response."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}
