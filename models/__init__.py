"""Forecasting models as darts models. Names are imported on first use, so that listing models costs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.catalog import CATALOG, BuildRequest, ModelName, ModelSpec
from models.errors import ModelError

if TYPE_CHECKING:
    from models.dlinear import DLinearModel
    from models.export import ExportedSignature, TensorSignature, export_onnx
    from models.itransformer import ITransformerModel
    from models.linear import LinearModel
    from models.patch_tsmixer import PatchTSMixerModel
    from models.seasonal_naive import SeasonalNaiveModel

__all__ = [
    "CATALOG",
    "BuildRequest",
    "DLinearModel",
    "ExportedSignature",
    "ITransformerModel",
    "LinearModel",
    "ModelError",
    "ModelName",
    "ModelSpec",
    "PatchTSMixerModel",
    "SeasonalNaiveModel",
    "TensorSignature",
    "export_onnx",
]

_NEEDS_TORCH = {
    "DLinearModel": "models.dlinear",
    "ExportedSignature": "models.export",
    "ITransformerModel": "models.itransformer",
    "LinearModel": "models.linear",
    "PatchTSMixerModel": "models.patch_tsmixer",
    "SeasonalNaiveModel": "models.seasonal_naive",
    "TensorSignature": "models.export",
    "export_onnx": "models.export",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(_NEEDS_TORCH[name]), name)
