"""Descriptions of responses that many routes share."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from api.errors.problems import MEDIA_TYPE
from api.schemas.forecasts import Problem


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe problem documents with these statuses for OpenAPI."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
