"""Error classes, the status table, and the translation of pydantic's errors."""
