from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Served

MODELS = "/v1/models/tiny"


@pytest.mark.slow
def test_an_earlier_champion_is_asked_back_over_rest_and_a_worker_makes_it_so(
    served: Served,
    crown: Callable[..., Any],
    working: Callable[[], subprocess.Popen[bytes]],
    wait_until: Callable[..., None],
) -> None:
    first = served.client.get(MODELS).json()["champion"]["model_version"]
    crown(served.home, "repeat_last-2", bias=1.0)
    asked = served.client.post(f"{MODELS}/rollback")
    assert asked.status_code == 202
    working()
    run = asked.headers["Location"]
    wait_until(lambda: served.client.get(run).json()["ended_at"], 90)
    assert served.client.get(run).json()["state"] == "succeeded"
    assert served.client.get(MODELS).json()["champion"]["model_version"] == first
    assert served.client.get("/v1/datasets/tiny/forecast").json()["model_version"] == first


def test_a_promotion_that_is_not_possible_is_refused(served: Served) -> None:
    champion = served.client.get(MODELS).json()["champion"]["model_version"]
    for body, status, code in (
        ({"version": champion}, 409, "promotion.is_champion"),
        ({"version": "nobody-1"}, 404, "model.unknown"),
        ({}, 422, "version.missing"),
        ({"version": 7}, 422, "version.malformed"),
    ):
        answer = served.client.post(f"{MODELS}/promote", json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert served.client.post(f"{MODELS}/rollback").json()["code"] == "promotion.no_earlier"
