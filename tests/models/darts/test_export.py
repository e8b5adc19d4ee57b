"""An exported model forecasts in ONNX Runtime as the trained model does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from darts.utils.data.torch_datasets.utils import PLModuleInput
from darts.utils.onnx import run_onnx_prediction

from models import CATALOG, ExportedSignature, ModelError, ModelName, export_onnx
from models.catalog import TRAINABLE
from models.darts.export import OPSET, TOLERANCE

LOOKBACK, HORIZON = 26, 8
HEAD = "network.members.0.core.head.weight"
INPUTS = {
    "past_target": (None, LOOKBACK, 3),
    "past_covariates": (None, LOOKBACK, 2),
    "historic_future_covariates": (None, LOOKBACK, 3),
    "future_covariates": (None, HORIZON, 3),
}
EXEMPT = {
    ModelName.CHRONOS_2: "no weights on the machine; test_foundation.py exports one of random weights",
    ModelName.TIMESFM_2_5: "no weights on the machine",
    ModelName.TIREX: "refuses to be exported, see test_foundation.py",
}
"""Models that no test of this file exports, and why."""
FORMS = {"no covariates, one step": (False, 1), "covariates, longer than the look-back": (True, 30)}
REACHING_BACK = (ModelName.SEASONAL_NAIVE, ModelName.N_HITS, ModelName.INFORMER)
"""Models whose graph has parts as long as the look-back and as the horizon: one may be longer than the other."""


@pytest.fixture(scope="module", params=TRAINABLE)
def exported(
    request: pytest.FixtureRequest, fitted: Callable[[ModelName], Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, ExportedSignature, Path, ModelName]:
    path = tmp_path_factory.mktemp("onnx") / f"{request.param}.onnx"
    return fitted(request.param), export_onnx(fitted(request.param), path), path, request.param


@pytest.mark.slow
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
    for batch in (1, 2, 7, 33):
        windows = {name: torch.randn(batch, *shape[1:], generator=generator) for name, shape in INPUTS.items()}
        assert distance(model, session, windows) < 2e-5


def distance(model: Any, session: onnxruntime.InferenceSession, windows: dict[str, torch.Tensor]) -> float:
    """The largest difference between the forecasts of torch and ONNX Runtime for the same windows."""
    with torch.no_grad():
        expected = model.model.eval()(PLModuleInput(**windows)).prediction.numpy()
    (result,) = session.run(None, {name: window.numpy() for name, window in windows.items()})
    assert result.shape == expected.shape
    return float(np.abs(result - expected).max())


def test_every_model_of_the_catalogue_is_exported_here_or_exempt_for_a_reason() -> None:
    assert {*TRAINABLE, *EXEMPT} == set(ModelName)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [(name, form) for form, (covariates, _) in FORMS.items() for name in (REACHING_BACK if covariates else TRAINABLE)],
)
def test_with_and_without_covariates_and_at_any_horizon_onnx_runtime_agrees_with_torch(
    name: ModelName, form: str, panel: Any, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    with_covariates, horizon = FORMS[form]
    given = panel.covariates if with_covariates else {}
    model = tiny(name, horizon=horizon, max_epochs=1).fit(panel.series, **given, verbose=False)
    signature = export_onnx(model, tmp_path / "model.onnx")
    assert len(signature.inputs) == (4 if with_covariates else 1)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    generator = torch.Generator().manual_seed(1)
    for batch in (1, 2, 7):
        windows = {
            tensor.name: torch.randn(batch, *(size or 0 for size in tensor.shape[1:]), generator=generator)
            for tensor in signature.inputs
        }
        assert distance(model, session, windows) < TOLERANCE


def test_the_graph_is_sound_and_holds_no_unused_parts(
    exported: tuple[Any, ExportedSignature, Path, ModelName],
) -> None:
    _, signature, path, _ = exported
    onnx.checker.check_model(str(path), full_check=True)
    proto = onnx.load(path, load_external_data=False)
    graph = proto.graph
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
    assert signature.opset == OPSET
    read = {name for node in graph.node for name in node.input} | {node.name for node in graph.output}
    assert {tensor.name for tensor in graph.initializer} <= read
    assert all(set(node.output) & read for node in graph.node)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.initializer), "not in other files"
    assert [node.name for node in graph.output] == ["prediction"]
    assert [entry.key for entry in proto.metadata_props] == ["darts.onnx_spec"]
    assert b".py" not in path.read_bytes(), "nothing tells where the code lay"


@pytest.mark.slow
def test_equal_weights_give_equal_bytes(
    exported: tuple[Any, ExportedSignature, Path, ModelName], tmp_path: Path
) -> None:
    model, _, path, name = exported
    if name in (ModelName.INFORMER, ModelName.LINEAR):  # keys drawn at random, one product
        export_onnx(model, tmp_path / "again.onnx")
        assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


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
    before = model.model.state_dict()[HEAD].clone()
    signature = export_onnx(model, tmp_path / "model.onnx")
    shapes = {tensor.name: (tensor.shape, tensor.dtype) for tensor in signature.inputs}
    assert shapes == {
        "past_target": ((None, LOOKBACK, 3), "float"),
        "static_covariates": ((None, 1, 2), "float"),
    }
    assert before.dtype == torch.float64
    assert torch.equal(model.model.state_dict()[HEAD], before)


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
