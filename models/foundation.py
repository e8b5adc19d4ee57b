"""darts' foundation models: pretrained networks that forecast without any training here.

Weights are never downloaded implicitly: if they are not on the machine, building the model raises the command to get
them.
"""

from json import JSONDecodeError
from pathlib import Path
from typing import Any, ClassVar

import torch
from darts.models.components.huggingface_connector import HuggingFaceConnector
from darts.models.forecasting.chronos2_model import Chronos2Model as DartsChronos2Model
from darts.models.forecasting.chronos2_model import _Chronos2Module
from darts.models.forecasting.foundation_model import FoundationModel
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.models.forecasting.timesfm2p5_model import TimesFM2p5Model as DartsTimesFMModel
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch import Tensor

from models.darts.bridge import ServiceModel, check_arguments, check_window
from models.errors import (
    BeyondPretrainingError,
    NotExportableError,
    OptionOutOfRangeError,
    PackageAbsentError,
    WeightsAbsentError,
    WeightsUnreadableError,
)

try:
    from darts.models.forecasting.tirex_model import TiRexModel as DartsTiRexModel
    from darts.models.forecasting.tirex_model import _TiRexModule
except ImportError:
    # The catalogue needs the classes; building a model without the package raises `PackageAbsentError`.
    DartsTiRexModel, _TiRexModule = FoundationModel, PLForecastingModule


class PretrainedModel(ServiceModel):
    """Base class of the wrappers; subclasses name the files and inherit darts' model.

    Takes darts' own arguments beside those below. `fit` only stores the shapes of the series; forecasts are point
    forecasts (medians), or quantiles with a `QuantileRegression` of pretrained levels.

    Parameters
    ----------
    input_chunk_length
        Look-back L in steps.
    output_chunk_length
        Horizon H in steps.
    output_chunk_shift
        Steps between the last observation and the first forecast step.
    local_dir
        The folder with the weights; None looks into the cache of huggingface_hub.
    hub_model_name, hub_model_revision
        Another variant of the model on the Hugging Face Hub.

    Raises
    ------
    WeightsAbsentError
        The folder does not exist, or a file is missing in it or in the cache.
    WeightsUnreadableError
        The files are damaged (also from `fit`).
    BeyondPretrainingError
        The window is too long or the quantile levels are not among the pretrained ones.

    """

    repository: ClassVar[str]
    revision: ClassVar[str | None] = None
    files: ClassVar[tuple[str, ...]] = ("config.json", "model.safetensors")

    def __init__(
        self,
        input_chunk_length: int,
        output_chunk_length: int,
        output_chunk_shift: int = 0,
        local_dir: str | None = None,
        hub_model_name: str | None = None,
        hub_model_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_window(input_chunk_length, output_chunk_length)
        check_arguments(type(self), kwargs)
        if hub_model_name is None:
            hub_model_name, hub_model_revision = self.repository, hub_model_revision or self.revision
        self.source = (hub_model_name, hub_model_revision, local_dir)
        folder = self.weights_folder()
        try:
            super().__init__(
                input_chunk_length=input_chunk_length,
                output_chunk_length=output_chunk_length,
                output_chunk_shift=output_chunk_shift,
                **self.loading(folder, output_chunk_length + output_chunk_shift),
                **kwargs,
            )
        except (KeyError, UnicodeDecodeError, JSONDecodeError) as error:
            raise WeightsUnreadableError(type(self).__name__, folder, error) from error
        except ValueError as error:  # darts raises it for invalid windows and levels
            raise BeyondPretrainingError(type(self).__name__, error) from error

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the options that locate the weights."""
        return frozenset({"local_dir", "hub_model_name", "hub_model_revision"})

    def loading(self, folder: Path, steps: int) -> dict[str, Any]:
        """Return darts' arguments for weights in `folder` and forecasts of `steps` steps."""
        del steps
        return {"local_dir": str(folder)}

    def read_network(self, train_sample: Any) -> Any:
        """Build darts' network and read its weights."""
        return super()._create_model(train_sample)

    def weights_folder(self) -> Path:
        """Find the folder that holds all files, without internet access.

        Raises:
            WeightsAbsentError: a file is missing.
            OptionOutOfRangeError: `hub_model_name` is no valid name.

        """
        name, revision, local_dir = self.source
        command = " ".join(["hf download", name, *self.files, *(["--revision", revision] if revision else [])])
        if local_dir is not None:
            folder = Path(local_dir).expanduser()
            if not all((folder / file).is_file() for file in self.files):
                raise WeightsAbsentError(type(self).__name__, str(folder), f"{command} --local-dir {folder}")
            return folder
        try:
            cached = [try_to_load_from_cache(name, file, revision=revision) for file in self.files]
        except HFValidationError as error:
            raise OptionOutOfRangeError("hub_model_name", name, "owner/name, as on the Hugging Face Hub") from error
        if not all(isinstance(path, str) for path in cached):
            raise WeightsAbsentError(type(self).__name__, "the cache of huggingface_hub", command)
        return Path(str(cached[0])).parent

    @property
    def hf_connector(self) -> HuggingFaceConnector:
        """The reader of the weights, restricted to the folder so that it never downloads."""
        return HuggingFaceConnector(self.source[0], local_dir=self.weights_folder())

    @property
    def supports_past_covariates(self) -> bool:
        """True: models that cannot read them ignore them, so that all models take the same inputs."""
        return True

    @property
    def supports_future_covariates(self) -> bool:
        """True, see `supports_past_covariates`."""
        return True

    def _build_train_dataset(self, *args: Any, **kwargs: Any) -> Any:
        if self._requires_training:  # fine-tuning
            return super()._build_train_dataset(*args, **kwargs)
        # darts needs only a sample's shapes, from windows without a horizon, which `WindowDataset` does not support.
        return super(ServiceModel, self)._build_train_dataset(*args, **kwargs)

    def _create_model(self, train_sample: Any) -> Any:
        try:
            return self.read_network(train_sample)
        except (SafetensorError, RuntimeError, KeyError) as error:
            raise WeightsUnreadableError(type(self).__name__, self.weights_folder(), error) from error


class Chronos2Module(_Chronos2Module):  # type: ignore[misc]  # darts is untyped
    """Chronos-2's network, exportable: ONNX has no operation for darts' product of a boolean and a float matrix."""

    def _onnx_wrapper(self, input_sample: Any) -> Any:
        self.encoder._construct_and_invert_group_time_mask = _group_mask  # noqa: SLF001
        return super()._onnx_wrapper(input_sample)


def _group_mask(groups: Tensor, observed: Tensor, dtype: torch.dtype) -> Tensor:
    """Allow each variate to attend to the observed variates of its own window: `groups` [V], `observed` [V, T]."""
    same = (groups[:, None] == groups).to(dtype)  # [V, V]
    allowed = same * observed.to(dtype).T[:, None]  # [T, V, V]
    return ((1 - allowed) * torch.finfo(dtype).min).unsqueeze(1)  # [T, 1, V, V]


class Chronos2Model(PretrainedModel, DartsChronos2Model):  # type: ignore[misc]  # darts is untyped
    """Chronos-2 (arXiv 2510.15821): attention over time and across channels; reads all but static covariates."""

    repository = "amazon/chronos-2"

    def read_network(self, train_sample: Any) -> Any:
        """Build the exportable form."""
        del train_sample
        return self.hf_connector.load_model(Chronos2Module, self.pl_module_params)


class TimesFMModel(PretrainedModel, DartsTimesFMModel):  # type: ignore[misc]  # darts is untyped
    """TimesFM 2.5 (arXiv 2310.10688): a decoder over patches of one channel at a time; ignores covariates."""

    repository = "google/timesfm-2.5-200m-pytorch"
    revision = "1d952420fba87f3c6dee4f240de0f1a0fbc790e3"  # the revision for which darts' network was written

    def loading(self, folder: Path, steps: int) -> dict[str, Any]:
        """Use the head for 1,024 steps if the horizon exceeds the 128 steps of the other one."""
        return {**super().loading(folder, steps), "use_longer_projection_head": steps > 128}


class TiRexModule(_TiRexModule):  # type: ignore[misc]  # darts is untyped
    """TiRex's network, which refuses the export: torch would unroll its recurrence step by step for ONNX."""

    def _onnx_wrapper(self, input_sample: Any) -> Any:
        del input_sample
        raise NotExportableError("TiRex", "its recurrence is a Python loop")


class TiRexModel(PretrainedModel, DartsTiRexModel):  # type: ignore[misc]  # darts is untyped
    """TiRex (arXiv 2505.23719): an sLSTM over patches of one channel at a time; ignores covariates.

    Runs on the package tirex-ts. Its weights are under the NXAI Community License; accept it with the option
    `accept_license`. It cannot be exported to ONNX, so it cannot be served.

    Raises
    ------
    PackageAbsentError
        tirex-ts is not installed.
    OptionOutOfRangeError
        The licence is not accepted.

    """

    repository = "NX-AI/TiRex"
    files = ("model.ckpt",)

    def __init__(
        self, input_chunk_length: int, output_chunk_length: int, output_chunk_shift: int = 0, **kwargs: Any
    ) -> None:
        if DartsTiRexModel is FoundationModel:
            raise PackageAbsentError(type(self).__name__, "tirex-ts")
        if kwargs.get("accept_license") is not True:
            raise OptionOutOfRangeError(
                "accept_license",
                kwargs.get("accept_license", False),
                "true, once you have read https://github.com/NX-AI/tirex/blob/main/LICENSE",
            )
        super().__init__(input_chunk_length, output_chunk_length, output_chunk_shift, **kwargs)

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the options that locate the weights, and `accept_license`."""
        return super().option_names() | {"accept_license"}

    def loading(self, folder: Path, steps: int) -> dict[str, Any]:
        """Return arguments that keep the package from downloading."""
        del steps
        return {"setup_kwargs": {"hf_kwargs": {"local_dir": str(folder), "local_files_only": True}}}

    def read_network(self, train_sample: Any) -> Any:
        """Build the network that refuses the export."""
        del train_sample
        return TiRexModule(self._setup_kwargs, self._DEFAULT_QUANTILES, **(self.pl_module_params or {}))
