from collections.abc import Callable
from pathlib import Path

import pytest

from forecast.config.dataset import DatasetConfig
from forecast.runtime.manifest import NETWORK
from forecast.runtime.model import load
from forecast.runtime.smoke_test import SmokeTest, smoke_test


@pytest.fixture
def rehearsed(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: Callable[..., object]
) -> Callable[..., SmokeTest]:
    def make(**changes: object) -> SmokeTest:
        folder = tmp_path / "models" / "m"
        store_model(folder, tiny_config, **changes)
        return smoke_test(load(folder), folder / NETWORK)

    return make


def test_a_sound_model_stands_every_stress(rehearsed: Callable[..., SmokeTest], tmp_path: Path) -> None:
    seen = rehearsed(onnx_difference=2e-6)
    assert seen.not_finite_on == ()
    assert seen.latency_ms > 0
    assert seen.size_mb == pytest.approx((tmp_path / "models" / "m" / NETWORK).stat().st_size / 1e6, abs=1e-3)
    assert seen.onnx_difference == 2e-6


def test_a_model_that_overflows_is_found(rehearsed: Callable[..., SmokeTest]) -> None:
    # A weight near the largest float32: harmless on ordinary history, infinite after a spike of covariates.
    seen = rehearsed(weight=3e38)
    assert "a steep ramp" in seen.not_finite_on or "one spike of a million deviations" in seen.not_finite_on
