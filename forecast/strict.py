"""Base class of all documents: unknown fields are errors, types are strict, instances are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class StrictModel(BaseModel):
    """A document or a part of one: frozen, with no other fields than it declares.

    A subclass that renames a field lists the name of the earlier release in ``renamed_fields``, so that stored
    documents stay readable:

    >>> class Guard(StrictModel):
    ...     message: str
    ...     renamed_fields = {"told": "message"}
    >>> Guard.model_validate({"told": "its band covers 80%"}).message
    'its band covers 80%'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    renamed_fields: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @model_validator(mode="before")
    @classmethod
    def _read_renamed_fields(cls, document: Any) -> Any:
        if not cls.renamed_fields or not isinstance(document, Mapping):
            return document
        return {cls.renamed_fields.get(name, name): value for name, value in document.items()}
