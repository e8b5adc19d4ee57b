"""The int8 form of an exported network: smaller, close, complete, and equal for equal networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from models import ModelName, export_onnx
from models.darts.quantization import quantize

LOOKBACK = 26


@pytest.mark.slow
@pytest.mark.parametrize("name", [ModelName.NLINEAR, ModelName.TIDE, ModelName.ITRANSFORMER, ModelName.S_MAMBA])
def test_a_network_in_int8_is_close_whole_and_the_same_bytes_each_time(
    name: ModelName, panel: Any, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny(name, max_epochs=1).fit(panel.series, verbose=False)
    exact, coarse, again = (tmp_path / f"{part}.onnx" for part in ("exact", "coarse", "again"))
    export_onnx(model, exact)
    assert quantize(exact, coarse)
    assert quantize(exact, again)
    assert coarse.read_bytes() == again.read_bytes()
    onnx.checker.check_model(str(coarse), full_check=True)
    protos = [onnx.load(path, load_external_data=False) for path in (exact, coarse)]
    assert "MatMulInteger" in {node.op_type for node in protos[1].graph.node}
    ends = [(proto.graph.input, proto.graph.output, proto.metadata_props) for proto in protos]
    assert [list(map(str, part)) for part in ends[0]] == [list(map(str, part)) for part in ends[1]]
    window = {"past_target": np.random.default_rng(0).standard_normal((1, LOOKBACK, 3), dtype=np.float32)}
    expected, found = (onnxruntime.InferenceSession(str(path)).run(None, window)[0] for path in (exact, coarse))
    assert 0 < np.abs(found - expected).max() < 0.2


@pytest.mark.parametrize("name", [ModelName.SEASONAL_NAIVE, ModelName.LINEAR])
def test_a_network_without_a_matrix_that_all_channels_share_is_left_alone(
    name: ModelName, panel: Any, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    export_onnx(tiny(name).fit(panel.series, verbose=False), tmp_path / "exact.onnx")
    assert not quantize(tmp_path / "exact.onnx", tmp_path / "coarse.onnx")
    assert not (tmp_path / "coarse.onnx").exists()
