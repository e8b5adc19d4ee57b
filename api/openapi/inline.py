"""JSON schemas without references, for bodies that a route reads itself."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def inlined(kind: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema with every ``$ref`` replaced by its definition."""
    schema = kind.model_json_schema()
    known = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolved(known[part["$ref"].rpartition("/")[2]])
        return {key: resolved(value) for key, value in part.items()}

    found: dict[str, Any] = resolved(schema)
    return found
