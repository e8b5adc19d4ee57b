"""Translate pydantic's validation errors into the service's codes: one table for bodies and query parameters.

A message names the field by its place and never repeats a value or a key that the client sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from api.errors.kinds import InvalidDocumentError
from api.errors.suggestions import suggest
from forecast.errors import DataError

_MOST_MISTAKES = 10
_EXAMPLES = "see the examples at /docs"


class _Rule(NamedTuple):
    """The translation of one error type of pydantic."""

    ending: str
    """The code is ``<field>.<ending>``."""
    fact: str
    remedy: str


_OTHER = _Rule("malformed", "is malformed", _EXAMPLES)
_WHOLE = _Rule("not_a_number", "is not a whole number", "send a whole number")
_NUMBER = _Rule("not_a_number", "is not a number", "send a number, or null for a missing value")
_SMALLER = _Rule("out_of_range", "is out of range", "send a smaller value")
_LARGER = _Rule("out_of_range", "is out of range", "send a larger value")
_OBJECT = _Rule("malformed", "is not an object", "send an object")

_RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        "finite_number": _Rule("not_finite", "is not a finite number", "send null for a missing value"),
        "float_type": _NUMBER,
        "float_parsing": _NUMBER,
        "int_type": _WHOLE,
        "int_parsing": _WHOLE,
        "int_from_float": _WHOLE,
        "int_parsing_size": _SMALLER,
        "greater_than": _LARGER,
        "greater_than_equal": _LARGER,
        "less_than": _SMALLER,
        "less_than_equal": _SMALLER,
        "string_type": _Rule("malformed", "is not a string", "send a string"),
        "string_too_long": _Rule("too_long", "is too long", "send a shorter string"),
        "string_unicode": _Rule("malformed", "is not valid Unicode", "send valid Unicode"),
        "too_long": _Rule("too_long", "has too many entries", "send fewer entries"),
        "too_short": _Rule("empty", "is empty", "send at least one entry"),
        "missing": _Rule("missing", "is missing", "add the field"),
        "timezone_aware": _Rule("without_offset", "is a time without an offset", "add an offset or Z"),
        "dict_type": _OBJECT,
        "model_type": _OBJECT,
        "list_type": _Rule("malformed", "is not an array", "send an array"),
        "enum": _Rule("unknown", "is not one of the allowed values", _EXAMPLES),
    }
)
"""By pydantic's error type; every other type is :data:`_OTHER`."""

_REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "name": "use lower-case letters, digits, - and _, at most 63",
        "cron": 'write the five fields of cron, such as "30 2 * * *"',
        "zone": "give an IANA name such as America/New_York",
        "at_most_every": 'write a whole number and s, m, h, d or w, such as "6h"',
        "time_limit": 'write a whole number and s, m, h, d or w, such as "12h"',
        "backoff": 'write a whole number and s, m, h, d or w, such as "30s"',
        "memory_limit": "write it as 500MB or 8GB",
        "first": "write it like 2013-11-02T03:00:00Z",
        "last": "write it like 2013-11-02T03:00:00Z",
    }
)
"""Remedies for fields of jobs and runs."""


def first_mistake(error: ValidationError, model: type[BaseModel], names: Collection[str] = ()) -> DataError:
    """Return the first mistake of a large body, with its place, such as ``history.series.east.load[17]``.

    ``names`` are keys that a place may repeat; a key that is neither one of them nor a field becomes ``*``.
    """
    item = error.errors(include_url=False, include_input=False)[0]
    at = item["loc"]
    if item["type"] == "extra_forbidden":
        fact = f"{_place(at[:-1], model, names)} has an unknown field"
        return DataError("body.unknown_field", fact, suggest(str(at[-1]), model.model_fields))
    if item["type"] == "value_error":
        return DataError("body.malformed", _own_words(item), _EXAMPLES)
    field = next((str(part) for part in at if part in model.model_fields), "body")
    code, fact, remedy = _translated(item, field, _place(at, model, names))
    return DataError(code, fact, remedy)


def all_mistakes(error: ValidationError, known: Iterable[str]) -> InvalidDocumentError:
    """Return the first ten mistakes of a short body; ``known`` are the fields that the body may have."""
    names, items = list(known), error.errors(include_url=False)
    # Where an entry of a list is wrong, pydantic also reports that the list is too short without it.
    deeper = {item["loc"][0] for item in items if len(item["loc"]) > 1}
    items = [item for item in items if not (item["type"] == "too_short" and item["loc"][0] in deeper)]
    return _listed([_in_body(item, names) for item in items])


def parameter_mistakes(items: Sequence[Mapping[str, Any]], known: Iterable[str]) -> InvalidDocumentError:
    """Return the first ten mistakes of an address; ``known`` are the query parameters that its route takes."""
    names = list(known)
    return _listed([_in_address(item, names) for item in items[:_MOST_MISTAKES]])


def _in_body(item: Mapping[str, Any], known: Sequence[str]) -> dict[str, str]:
    at = item["loc"]
    if item["type"] == "extra_forbidden":
        return _mistake("field.unknown", "body", "the body has an unknown field", suggest(str(at[-1]), known))
    if item["type"] == "value_error" and not at:
        return _mistake("body.contradictory", "body", _own_words(item), _EXAMPLES)
    field = str(at[0]) if at else "body"
    code, fact, remedy = _translated(item, field, field if at else "the body")
    if at and item["type"] != "enum":
        remedy = _REMEDIES.get(field, f"see {field} at /docs")
    return _mistake(code, ".".join(("body", *map(str, at))), fact, remedy)


def _in_address(item: Mapping[str, Any], known: Sequence[str]) -> dict[str, str]:
    where, name = str(item["loc"][0]), str(item["loc"][1] if len(item["loc"]) > 1 else "")
    if item["type"] == "extra_forbidden":
        return _mistake("parameter.unknown", where, "unknown parameter", suggest(name, known))
    code, fact, _ = _translated(item, name, name)
    context, remedy = item.get("ctx") or {}, f"see {name} at /docs"
    for bound, words in (("ge", "at least"), ("le", "at most")):
        if bound in context:
            remedy = f"give {words} {context[bound]}"
    return _mistake(code, f"{where}.{name}", fact, remedy)


def _translated(item: Mapping[str, Any], field: str, subject: str) -> tuple[str, str, str]:
    """Return code, fact and remedy of a mistake in ``field``, which the fact calls ``subject``."""
    context = item.get("ctx") or {}
    if item["type"] == "json_invalid":
        # "invalid number at line 1 column 52": pydantic names the place and repeats nothing that was sent.
        fact = f"the body is not JSON: {context.get('error', 'it ends too early')}"
        return "body.not_json", fact, "send JSON as RFC 8259 defines it"
    rule = _RULES.get(item["type"], _OTHER)
    remedy = f"use one of {context['expected']}" if "expected" in context and item["type"] == "enum" else rule.remedy
    return f"{field}.{rule.ending}", f"{subject} {rule.fact}", remedy


def _own_words(item: Mapping[str, Any]) -> str:
    """Return the sentence of a model's own validator; it repeats known names only."""
    return str(item["msg"]).removeprefix("Value error, ")


def _mistake(code: str, where: str, detail: str, remedy: str) -> dict[str, str]:
    return {"code": code, "where": where, "detail": detail, "remedy": remedy}


def _listed(mistakes: Sequence[dict[str, str]]) -> InvalidDocumentError:
    first = mistakes[0]
    return InvalidDocumentError(first["code"], first["detail"], first["remedy"], mistakes[:_MOST_MISTAKES])


def _place(at: Sequence[int | str], model: type[BaseModel], names: Collection[str]) -> str:
    known = {*_fields(model), *names}
    place = ""
    for part in at:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part in known:
            place += f".{part}"
        elif part.isidentifier() is False or part.startswith(("constrained", "nullable", "list[", "dict[")):
            continue  # pydantic's name of a union's member
        else:
            place += ".*"
    return place.removeprefix(".") or "the body"


def _fields(model: type[BaseModel]) -> set[str]:
    fields = set(model.model_fields)
    for field in model.model_fields.values():
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                fields |= _fields(inner)
    return fields
