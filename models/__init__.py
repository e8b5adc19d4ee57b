"""Forecasting models as darts models. Names are imported on first use, so that listing models costs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.catalog import CATALOG, TRAINABLE, BuildRequest, ModelName, ModelSpec
from models.errors import ModelError

if TYPE_CHECKING:
    from models.dlinear import DLinearModel
    from models.export import ExportedSignature, TensorSignature, export_onnx
    from models.foundation import Chronos2Model, TimesFMModel, TiRexModel
    from models.informer import InformerModel
    from models.itransformer import ITransformerModel
    from models.linear import LinearModel
    from models.n_hits import NHiTSModel
    from models.nlinear import NLinearModel
    from models.patch_tsmixer import PatchTSMixerModel
    from models.s_mamba import SMambaModel
    from models.seasonal_naive import SeasonalNaiveModel
    from models.tide import TiDEModel

__all__ = [
    "CATALOG",
    "TRAINABLE",
    "BuildRequest",
    "Chronos2Model",
    "DLinearModel",
    "ExportedSignature",
    "ITransformerModel",
    "InformerModel",
    "LinearModel",
    "ModelError",
    "ModelName",
    "ModelSpec",
    "NHiTSModel",
    "NLinearModel",
    "PatchTSMixerModel",
    "SMambaModel",
    "SeasonalNaiveModel",
    "TensorSignature",
    "TiDEModel",
    "TiRexModel",
    "TimesFMModel",
    "export_onnx",
]

_NEEDS_TORCH = {
    "Chronos2Model": "models.foundation",
    "DLinearModel": "models.dlinear",
    "ExportedSignature": "models.export",
    "ITransformerModel": "models.itransformer",
    "InformerModel": "models.informer",
    "LinearModel": "models.linear",
    "NHiTSModel": "models.n_hits",
    "NLinearModel": "models.nlinear",
    "PatchTSMixerModel": "models.patch_tsmixer",
    "SMambaModel": "models.s_mamba",
    "SeasonalNaiveModel": "models.seasonal_naive",
    "TensorSignature": "models.export",
    "TiDEModel": "models.tide",
    "TiRexModel": "models.foundation",
    "TimesFMModel": "models.foundation",
    "export_onnx": "models.export",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(_NEEDS_TORCH[name]), name)
