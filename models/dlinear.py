"""DLinear: darts' own network with this package's training windows and safe loading."""

from typing import Any, ClassVar

from darts.models import DLinearModel as DartsDLinearModel
from torch import nn

from models.darts_bridge import ServiceModel, check_arguments, check_window
from models.errors import OptionOutOfRangeError


class DLinearModel(ServiceModel, DartsDLinearModel):  # type: ignore[misc]  # darts is untyped
    """Trend and remainder, each through one linear map from look-back to horizon (arXiv 2205.13504, section 4).

    `shared_weights=True`, the default here, is the paper's network: one map for every channel, covariates without
    influence. False is darts' extension to covariates, whose two matrices join every input step of every feature with
    every output, several tens of millions of weights for long windows with many covariates.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"shared_weights", "kernel_size", "const_init", "learning_rate"})

    def __init__(
        self,
        input_chunk_length: int,
        output_chunk_length: int,
        output_chunk_shift: int = 0,
        shared_weights: bool = True,
        kernel_size: int = 25,
        learning_rate: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        check_window(input_chunk_length, output_chunk_length)
        check_arguments(type(self), kwargs)
        if kernel_size < 1:
            raise OptionOutOfRangeError("kernel_size", kernel_size, "1 or more steps")
        if learning_rate <= 0:
            raise OptionOutOfRangeError("learning_rate", learning_rate, "above 0")
        super().__init__(
            input_chunk_length=input_chunk_length,
            output_chunk_length=output_chunk_length,
            output_chunk_shift=output_chunk_shift,
            shared_weights=shared_weights,
            kernel_size=kernel_size,
            **kwargs,
        )
        # darts reads the arguments of the outermost call, so these have to be set behind it. Its default loss is one
        # object, and so one train/eval state, for all models.
        self.pl_module_params.setdefault("loss_fn", nn.MSELoss())
        given = self.pl_module_params.get("optimizer_kwargs") or {}
        self.pl_module_params["optimizer_kwargs"] = {"lr": learning_rate, **given}

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Name darts' hyperparameters of DLinear and `learning_rate`."""
        return cls.OPTIONS

    @property
    def supports_past_covariates(self) -> bool:
        """True: the paper's network ignores them instead of refusing them, as the other models do."""
        return True

    @property
    def supports_future_covariates(self) -> bool:
        """True, see `supports_past_covariates`."""
        return True
