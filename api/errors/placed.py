"""JSON that is sent, read into a model; the first mistake is told by its place, and nothing of it is repeated."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from api.errors.problems import suggest
from api.errors.validation import MISTAKES, OTHER
from forecast.errors import DataError

Sent = TypeVar("Sent", bound=BaseModel)


def parse(body: bytes, kind: type[Sent], names: Collection[str] = ()) -> Sent:
    """Read a body; ``names`` may be repeated in places, other keys that were sent are not.

    Raises ``body.not_json``, ``body.unknown_field`` for a field that does not exist, and by the field that is wrong
    ``<field>.missing``, ``<field>.not_finite``, ``<field>.out_of_range`` and so on.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=True)[0]
    raise mistake(first, kind, names)


def mistake(first: ErrorDetails, kind: type[BaseModel], names: Collection[str] = ()) -> DataError:
    """Return the refusal for what pydantic found."""
    found, at = first["type"], first["loc"]
    if found == "json_invalid":
        # "invalid number at line 1 column 52": words and the place, nothing that was sent.
        message = str(first.get("ctx", {}).get("error", "it ends too early"))
        return DataError("body.not_json", f"the body is not JSON: {message}", "send JSON as RFC 8259 has it")
    if found == "extra_forbidden":
        return DataError(
            "body.unknown_field", f"{_place(at[:-1], kind, names)} has a field that does not exist",
            suggest(str(at[-1]), kind.model_fields),
        )  # fmt: skip
    if found == "value_error":
        return DataError("body.malformed", first["msg"].removeprefix("Value error, "), "see the examples at /docs")
    code, message, remedy = MISTAKES.get(found, OTHER)
    field = next((str(part) for part in at if part in kind.model_fields), "body")
    return DataError(f"{field}.{code}", f"{_place(at, kind, names)} {message}", remedy)


def _place(at: tuple[int | str, ...], kind: type[BaseModel], names: Collection[str]) -> str:
    """Write a place such as ``history.series.east.load[17]``."""
    known = {*_fields(kind), *names}
    place = ""
    for part in at:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part in known:
            place += f".{part}"
        elif part.isidentifier() is False or part.startswith(("constrained", "nullable", "list[", "dict[")):
            continue  # pydantic's own names of a union's members
        else:
            place += ".*"
    return place.removeprefix(".") or "the body"


def _fields(kind: type[BaseModel]) -> set[str]:
    fields = set(kind.model_fields)
    for field in kind.model_fields.values():
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                fields |= _fields(inner)
    return fields
