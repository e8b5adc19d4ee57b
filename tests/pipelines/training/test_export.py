from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.config.training import Quantize
from forecast.errors import StorageError
from forecast.panel import Panel
from forecast.runtime.manifest import NETWORK, Manifest
from forecast.runtime.model import load
from forecast.runtime.precision import ServedIn, Variant, Variants
from forecast.runtime.smoke_test import smoke_test
from pipelines.preparation.darts_series import fit_scaler
from pipelines.preparation.slices import Slices
from pipelines.preparation.windows import Windows, cut
from pipelines.training.export import export, manifest_fields
from pipelines.training.fit import fit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SLOW = Variant(size_mb=2.0, latency_ms=2.0, loss=1.0)
PREFERS_INT8 = Variants(float32=SLOW, int8=Variant(size_mb=1.0, latency_ms=1.0, loss=1.0))


@pytest.fixture
def exported(
    config_with: Callable[..., DatasetConfig], tiny_panel: Callable[..., Panel]
) -> Callable[..., tuple[Manifest, Windows]]:
    def make(folder: Path, name: str = "nlinear", **given: Any) -> tuple[Manifest, Windows]:
        config = config_with(models=[name], training={"max_epochs": 1, "stride": 8})
        panel = tiny_panel(config)
        slices = Slices.of(panel, config)
        scaler = fit_scaler(panel, config, slices.fit)
        fitted = fit(config, panel, slices, scaler, name)
        message = manifest_fields(
            config, scaler, dataset="tiny", model_name=name, model_version=folder.name, trained_at=panel.start,
            data_version=0, data_digest="", fitted_until=panel.time(slices.calibration),
        )  # fmt: skip
        windows = cut(panel, config, slices.validation, slices.calibration)
        return export(fitted.model, folder, message, windows, **given), windows

    return make


def operations(folder: Path) -> set[str]:
    return {node.op_type for node in onnx.load(folder / NETWORK).graph.node}


def test_left_alone_a_network_serves_in_float32_and_int8_is_not_tried(
    exported: Callable[..., tuple[Manifest, Windows]], tmp_path: Path
) -> None:
    manifest, _ = exported(tmp_path / "m")
    assert (manifest.precision, manifest.variants) == (ServedIn.FLOAT32, None)
    assert "MatMulInteger" not in operations(tmp_path / "m")


def test_both_precisions_are_compared_on_the_calibration_rows_and_the_manifest_tells_both(
    exported: Callable[..., tuple[Manifest, Windows]], tmp_path: Path
) -> None:
    manifest, _ = exported(tmp_path / "m", quantize=Quantize.AUTO)
    variants = manifest.variants
    assert variants is not None
    assert manifest.precision is variants.serves
    assert variants.int8.size_mb < variants.float32.size_mb
    assert variants.int8.loss == pytest.approx(variants.float32.loss, rel=0.05)
    assert variants.int8.loss != variants.float32.loss
    served = load(tmp_path / "m")  # digests and golden example are those of the precision that serves
    assert ("MatMulInteger" in operations(tmp_path / "m")) is (manifest.precision is ServedIn.INT8)
    seen = smoke_test(served, tmp_path / "m" / NETWORK)
    assert (seen.precision, seen.variants) == (manifest.precision, variants)


def test_a_choice_made_before_is_kept_and_a_forecast_in_int8_depends_on_its_own_window_alone(
    exported: Callable[..., tuple[Manifest, Windows]], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    manifest, windows = exported(folder, variants=PREFERS_INT8)
    assert (manifest.precision, manifest.variants) == (ServedIn.INT8, PREFERS_INT8)
    assert "MatMulInteger" in operations(folder)
    model = load(folder)
    first = (windows.targets[:1], windows.past[:1], windows.future[:1], windows.series[:1])
    alone = model.predict(*first).quantiles
    wild = windows.targets[:3].copy()
    wild[1:] *= 1e3
    beside = model.predict(wild, windows.past[:3], windows.future[:3], windows.series[:3]).quantiles
    np.testing.assert_array_equal(beside[:1], alone)

    content = bytearray((folder / NETWORK).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / NETWORK).write_bytes(content)
    with pytest.raises(StorageError) as caught:
        load(folder)
    assert caught.value.code == "model.corrupt"


def test_a_network_without_weights_serves_in_float32(
    exported: Callable[..., tuple[Manifest, Windows]], tmp_path: Path
) -> None:
    manifest, _ = exported(tmp_path / "m", "seasonal_naive", quantize=Quantize.AUTO)
    assert (manifest.precision, manifest.variants) == (ServedIn.FLOAT32, None)
