"""Forecasting models as darts models. Names are imported on first use, so that listing models costs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.catalog import CATALOG, TRAINABLE, BuildRequest, ModelName, ModelSpec
from models.errors import ModelError

if TYPE_CHECKING:
    from models.baselines.linear import LinearModel
    from models.baselines.seasonal_naive import SeasonalNaiveModel
    from models.darts.export import ExportedSignature, TensorSignature, export_onnx
    from models.foundation import Chronos2Model, TimesFMModel, TiRexModel
    from models.networks.dlinear import DLinearModel
    from models.networks.informer import InformerModel
    from models.networks.itransformer import ITransformerModel
    from models.networks.n_hits import NHiTSModel
    from models.networks.nlinear import NLinearModel
    from models.networks.patch_tsmixer import PatchTSMixerModel
    from models.networks.s_mamba import SMambaModel
    from models.networks.tide import TiDEModel

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
    "DLinearModel": "models.networks.dlinear",
    "ExportedSignature": "models.darts.export",
    "ITransformerModel": "models.networks.itransformer",
    "InformerModel": "models.networks.informer",
    "LinearModel": "models.baselines.linear",
    "NHiTSModel": "models.networks.n_hits",
    "NLinearModel": "models.networks.nlinear",
    "PatchTSMixerModel": "models.networks.patch_tsmixer",
    "SMambaModel": "models.networks.s_mamba",
    "SeasonalNaiveModel": "models.baselines.seasonal_naive",
    "TensorSignature": "models.darts.export",
    "TiDEModel": "models.networks.tide",
    "TiRexModel": "models.foundation",
    "TimesFMModel": "models.foundation",
    "export_onnx": "models.darts.export",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(_NEEDS_TORCH[name]), name)
