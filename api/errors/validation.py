"""What pydantic calls a mistake, as the rest of the service tells it: the end of its code, the fact, the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Mistake(NamedTuple):
    """How one kind of mistake is told, behind the name of what it is in."""

    ending: str
    """Of its code, behind the name and a dot."""
    message: str
    remedy: str


OTHER = Mistake("malformed", "is malformed", "see the examples at /docs")
_WHOLE = Mistake("not_a_number", "is not a whole number", "send a whole number")
_NUMBER = Mistake("not_a_number", "is not a number", "send a number, or null where a value is missing")
_SMALLER = Mistake("out_of_range", "is out of range", "send a smaller one")
_LARGER = Mistake("out_of_range", "is out of range", "send a larger one")
_OBJECT = Mistake("malformed", "is not an object", "send an object")

MISTAKES: Mapping[str, Mistake] = MappingProxyType(
    {
        "finite_number": Mistake("not_finite", "is not a finite number", "send null where a value is missing"),
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
        "string_type": Mistake("malformed", "is not text", "send text"),
        "string_too_long": Mistake("too_long", "is too long", "send a shorter one"),
        "string_unicode": Mistake("malformed", "is not valid Unicode", "send valid Unicode"),
        "too_long": Mistake("too_long", "has too many entries", "send fewer"),
        "too_short": Mistake("empty", "is empty", "send at least one"),
        "missing": Mistake("missing", "is missing", "send it"),
        "timezone_aware": Mistake("without_offset", "is a time without an offset", "add an offset or Z"),
        "dict_type": _OBJECT,
        "model_type": _OBJECT,
        "list_type": Mistake("malformed", "is not an array", "send an array"),
    }
)
"""By pydantic's name of it; what is not here is :data:`OTHER`."""
