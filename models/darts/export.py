"""Export of a fitted darts model as one ONNX file for any batch size, compared with torch before it is written."""

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel
from darts.utils.data.torch_datasets.utils import PLModuleInput
from darts.utils.onnx.inference import ONNX_SPEC_METADATA_KEY
from onnx import ModelProto, checker, helper
from torch import Tensor, nn

from models.errors import ExportMismatchError, NotFittedError

OPSET = 20  # the newest opset that every ONNX Runtime of the last two years reads
TOLERANCE = 1e-4
"""Largest accepted difference from torch, in units of the (scaled) data."""
CHECKED_BATCHES = (1, 3, 8)

# darts' own names, in darts' own order.
_TIMED_INPUTS = ("past_target", "past_covariates", "historic_future_covariates", "future_covariates")


@dataclass(frozen=True, slots=True)
class TensorSignature:
    """One input or output of the graph; None in `shape` stands for any batch size."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class ExportedSignature:
    """The inputs and the output of an exported model.

    Inputs, in this order, each only if the model was fitted with it; features in the order of the training series:

    - `past_target` [B, L, C]
    - `past_covariates` [B, L, P]
    - `historic_future_covariates` [B, L, F], the known-future covariates over the look-back
    - `future_covariates` [B, H, F], the same covariates over the horizon
    - `static_covariates` [B, 1 or C, S]

    Output: `prediction` [B, H, C, Q]. Q runs over `parameters`, the names of the likelihood's parameters (quantile
    levels, rising), or has size 1 for a point forecast.
    """

    inputs: tuple[TensorSignature, ...]
    output: TensorSignature
    parameters: tuple[str, ...]
    opset: int
    largest_difference: float
    """Largest difference between ONNX Runtime and torch in the check."""


def export_onnx(model: TorchForecastingModel, path: str | Path) -> ExportedSignature:
    """Write a fitted model to `path`, computing in float32; nothing is written if ONNX Runtime and torch disagree.

    The file is self-contained, has the same bytes for the same weights, and carries darts' window metadata, so that
    `darts.utils.onnx.run_onnx_prediction` can read it.

    >>> from darts.utils.timeseries_generation import sine_timeseries
    >>> from models import CATALOG, BuildRequest
    >>> request = BuildRequest(lookback=24, horizon=6, trainer={"accelerator": "cpu", "enable_model_summary": False})
    >>> model = CATALOG["linear"].build(request).fit(sine_timeseries(length=100), verbose=False)
    >>> with TemporaryDirectory() as folder:
    ...     signature = export_onnx(model, Path(folder) / "model.onnx")
    >>> signature.inputs[0]
    TensorSignature(name='past_target', shape=(None, 24, 1), dtype='float')
    >>> signature.output.shape
    (None, 6, 1, 1)

    Raises:
        NotFittedError: the model has no weights.
        ExportMismatchError: the results differ by more than `TOLERANCE` at one of `CHECKED_BATCHES`.

    """
    module = model.model
    if module is None:
        raise NotFittedError(type(model).__name__, "be exported")
    device, dtype, training = module.device, module.dtype, module.training
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    # float32: ONNX Runtime has no float64 kernels for several operations that networks need.
    module.to("cpu").float().eval()
    try:
        return _export(module, Path(path))
    finally:
        module.to(device=device, dtype=dtype).train(training)
        module.load_state_dict(weights)


def _export(module: PLForecastingModule, path: Path) -> ExportedSignature:
    # darts' own bundle decides names, order and metadata. Two windows, because torch treats a batch of 1 as a constant.
    bundle = module._onnx_wrapper(_random_windows(module, batch=2, seed=0))  # noqa: SLF001
    any_batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        # torch warns of its own deprecated names, and that all inputs share one batch axis, which is intended.
        warnings.filterwarnings("ignore", message=r".*LeafSpec", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r"# The axis name: batch", category=UserWarning)
        program = torch.onnx.export(
            bundle.wrapper.eval(),
            bundle.example_inputs,
            input_names=bundle.input_names,
            output_names=bundle.output_names,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
            dynamic_shapes=(tuple({0: any_batch} for _ in bundle.example_inputs),),
        )
    if program is None:  # only for exports straight to a file
        raise RuntimeError("torch.onnx.export returned no program")
    proto = _without_paths(program.model_proto)
    metadata = json.dumps(asdict(bundle.spec), separators=(",", ":"))
    helper.set_model_props(proto, {ONNX_SPEC_METADATA_KEY: metadata})
    checker.check_model(proto, full_check=True)

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        draft.write_bytes(proto.SerializeToString(deterministic=True))
        session = onnxruntime.InferenceSession(str(draft), providers=["CPUExecutionProvider"])
        difference = _largest_difference(module, bundle.wrapper, session)
        draft.replace(path)
    return ExportedSignature(
        inputs=tuple(_signature(node) for node in session.get_inputs()),
        output=_signature(session.get_outputs()[0]),
        parameters=tuple(bundle.spec.likelihood_parameter_names or ()),
        opset=OPSET,
        largest_difference=difference,
    )


def _without_paths(proto: ModelProto) -> ModelProto:
    """Remove metadata with the paths of source files, so that equal weights give equal bytes on every machine.

    Shapes of intermediate values are removed as well: they can be inferred, and the quantiser, which transposes
    matrices, would leave them stale.
    """
    graph = proto.graph
    del graph.value_info[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return proto


def _largest_difference(module: PLForecastingModule, wrapper: nn.Module, session: Any) -> float:
    names = [node.name for node in session.get_inputs()]
    largest = 0.0
    for batch in CHECKED_BATCHES:
        windows = _random_windows(module, batch, seed=batch)
        tensors: list[Tensor] = [getattr(windows, name) for name in names]
        with torch.no_grad():
            expected = wrapper(*tensors).numpy()
        (result,) = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})
        difference = float(np.abs(result - expected).max()) if result.shape == expected.shape else float("inf")
        if not difference <= TOLERANCE:  # also for NaN
            raise ExportMismatchError(difference, TOLERANCE, batch)
        largest = max(largest, difference)
    return largest


def _random_windows(module: PLForecastingModule, batch: int, seed: int) -> PLModuleInput:
    """Draw standard normal windows of the shapes that the model was fitted with."""
    generator = torch.Generator().manual_seed(seed)
    steps = dict.fromkeys(_TIMED_INPUTS, module.input_chunk_length)
    steps["future_covariates"] = module.output_chunk_length
    tensors: dict[str, Tensor] = {}
    for name in (*_TIMED_INPUTS, "static_covariates"):
        shape = module.train_sample_shape.get(name)
        if shape:
            rows = steps.get(name, shape[0])
            tensors[name] = torch.randn(batch, rows, shape[1], generator=generator, dtype=module.dtype)
    return PLModuleInput(**tensors)


def _signature(node: Any) -> TensorSignature:
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSignature(node.name, shape, node.type.removeprefix("tensor(").removesuffix(")"))
