"""Forecasting models as darts models. Classes are imported on first use, so that listing models loads no torch."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.catalog import CATALOG, TRAINABLE, BuildRequest, ModelName, ModelSpec
from models.darts.former_names import FormerModules
from models.errors import ModelError

if TYPE_CHECKING:  # type checkers and editors cannot read the catalogue: the names that `__getattr__` returns
    from models.baselines.linear import LinearModel as LinearModel
    from models.baselines.seasonal_naive import SeasonalNaiveModel as SeasonalNaiveModel
    from models.darts.export import ExportedSignature as ExportedSignature
    from models.darts.export import TensorSignature as TensorSignature
    from models.darts.export import export_onnx as export_onnx
    from models.foundation import Chronos2Model as Chronos2Model
    from models.foundation import TimesFMModel as TimesFMModel
    from models.foundation import TiRexModel as TiRexModel
    from models.networks.dlinear import DLinearModel as DLinearModel
    from models.networks.informer import InformerModel as InformerModel
    from models.networks.itransformer import ITransformerModel as ITransformerModel
    from models.networks.n_hits import NHiTSModel as NHiTSModel
    from models.networks.nlinear import NLinearModel as NLinearModel
    from models.networks.patch_tsmixer import PatchTSMixerModel as PatchTSMixerModel
    from models.networks.s_mamba import SMambaModel as SMambaModel
    from models.networks.tide import TiDEModel as TiDEModel

_MODELS = {spec.class_name: spec for spec in CATALOG.values()}
_EXPORT = ("ExportedSignature", "TensorSignature", "export_onnx")

__all__ = ["CATALOG", "TRAINABLE", "BuildRequest", "ModelError", "ModelName", "ModelSpec", *_MODELS, *_EXPORT]  # noqa: PLE0604  # strings, though from tables

sys.meta_path.append(FormerModules())


def __getattr__(name: str) -> Any:
    if name in _MODELS:
        return _MODELS[name].model_class()
    if name in _EXPORT:
        return getattr(import_module("models.darts.export"), name)
    raise AttributeError(f"module 'models' has no attribute {name!r}")
