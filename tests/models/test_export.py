"""A model served by ONNX Runtime is the model that was trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from darts.utils.data.torch_datasets.utils import PLModuleInput
from darts.utils.onnx import run_onnx_prediction

from models import CATALOG, ExportedSignature, ModelError, ModelName, export_onnx
from models.catalog import TRAINABLE

LOOKBACK, HORIZON = 26, 8
INPUTS = {
    "past_target": (None, LOOKBACK, 3),
    "past_covariates": (None, LOOKBACK, 2),
    "historic_future_covariates": (None, LOOKBACK, 3),
    "future_covariates": (None, HORIZON, 3),
}


@pytest.fixture(scope="module", params=TRAINABLE)
def exported(
    request: pytest.FixtureRequest, fitted: Callable[[ModelName], Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, ExportedSignature, Path, ModelName]:
    path = tmp_path_factory.mktemp("onnx") / f"{request.param}.onnx"
    return fitted(request.param), export_onnx(fitted(request.param), path), path, request.param


def test_the_file_says_what_it_takes_and_gives(exported: tuple[Any, ExportedSignature, Path, ModelName]) -> None:
    _, signature, path, name = exported
    outputs = 3 if CATALOG[name].family == "network" else 1
    assert {tensor.name: tensor.shape for tensor in signature.inputs} == INPUTS
    assert [tensor.name for tensor in signature.inputs] == list(INPUTS)
    assert signature.output.shape == (None, HORIZON, 3, outputs)
    assert len(signature.parameters) == (outputs if outputs > 1 else 0)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_onnx_runtime_agrees_with_torch_at_any_batch_size(
    exported: tuple[Any, ExportedSignature, Path, ModelName],
) -> None:
    model, _, path, _ = exported
    session = onnxruntime.InferenceSession(str(path))
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 2, 5, 33):
        windows = {name: torch.randn(batch, *shape[1:], generator=generator) for name, shape in INPUTS.items()}
        with torch.no_grad():
            expected = model.model.eval()(PLModuleInput(**windows)).prediction
        (result,) = session.run(None, {name: window.numpy() for name, window in windows.items()})
        np.testing.assert_allclose(result, expected.numpy(), atol=2e-5)


def test_darts_torch_free_prediction_works_on_the_file(
    exported: tuple[Any, ExportedSignature, Path, ModelName], panel: Any, forecast: Callable[..., np.ndarray]
) -> None:
    model, _, path, _ = exported
    session = onnxruntime.InferenceSession(str(path))
    forecasts = run_onnx_prediction(HORIZON, session, panel.series, **panel.covariates, verbose=False)
    served = np.stack([series.values() for series in forecasts])
    np.testing.assert_allclose(served, forecast(model, panel), atol=2e-5)


def test_a_float64_model_with_static_covariates_is_served_in_float32_and_keeps_its_weights(
    panel: Any, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    statics = pd.DataFrame({"size": [1.0], "kind": [2.0]})
    series = panel.series[1].with_static_covariates(statics).astype(np.float64)
    model = tiny(ModelName.ITRANSFORMER, max_epochs=1).fit(series, verbose=False)
    before = model.model.state_dict()["network.members.0.core.head.weight"].clone()
    signature = export_onnx(model, tmp_path / "model.onnx")
    shapes = {tensor.name: (tensor.shape, tensor.dtype) for tensor in signature.inputs}
    assert shapes == {
        "past_target": ((None, LOOKBACK, 3), "float"),
        "static_covariates": ((None, 1, 2), "float"),
    }
    assert before.dtype == torch.float64
    assert torch.equal(model.model.state_dict()["network.members.0.core.head.weight"], before)


def test_a_model_without_weights_is_refused(tiny: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="call fit") as caught:
        export_onnx(tiny(ModelName.LINEAR), tmp_path / "model.onnx")
    assert caught.value.code == "model.not_fitted"
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_leave_no_file(panel: Any, tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny(ModelName.LINEAR).fit(panel.series, **panel.covariates, verbose=False)
    with torch.no_grad():
        model.model.network.weight[0, 0, 0] = float("nan")
    with pytest.raises(ModelError) as caught:
        export_onnx(model, tmp_path / "model.onnx")
    assert caught.value.code == "model.export_mismatch"
    assert not list(tmp_path.iterdir())
