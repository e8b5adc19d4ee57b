from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from api.schemas.models import GuardInfo

if TYPE_CHECKING:
    from tests.api.conftest import Served


@pytest.mark.parametrize("name", ["AlertInfo", "GuardInfo", "FindingInfo"])
def test_the_former_name_of_message_is_described_as_deprecated(served: Served, name: str) -> None:
    fields = served.client.get("/openapi.json").json()["components"]["schemas"][name]["properties"]
    assert fields["message"]["type"] == "string"
    assert "deprecated" not in fields["message"]
    assert (fields["told"]["type"], fields["told"]["deprecated"], fields["told"]["readOnly"]) == ("string", True, True)


def test_a_guard_is_answered_under_both_names() -> None:
    guard = GuardInfo(name="coverage", passed=True, message="its 80% band covers 79.5%")
    assert guard.model_dump() == {
        "name": "coverage", "passed": True, "message": guard.message, "told": guard.message,
    }  # fmt: skip
