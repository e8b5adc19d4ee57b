"""Former names of fields, which answers keep for one release beside the new ones."""

from __future__ import annotations

from pydantic import BaseModel, computed_field


class WithTold(BaseModel):
    """A document with ``message`` and its former name ``told``."""

    message: str

    # Not Field(deprecated=True): pydantic would warn whenever an answer is written.
    @computed_field(description="Deprecated: the same as message.", json_schema_extra={"deprecated": True})
    def told(self) -> str:
        """``message`` under its former name."""
        return self.message
