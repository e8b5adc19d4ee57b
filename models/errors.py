"""Errors of a model's configuration, data or export: the fact and the remedy, with a stable code."""

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar


class ModelError(ValueError):
    """Root of all errors that `models` raises on purpose; `code` never changes, the wording may."""

    code: ClassVar[str] = "model.invalid"


class LookbackTooShortError(ModelError):
    """The look-back window has fewer steps than the model needs."""

    code = "model.lookback_too_short"

    def __init__(self, lookback: int, needed: int, reason: str) -> None:
        super().__init__(
            f"the look-back has {lookback} steps, but {reason} needs at least {needed}; "
            f"set the look-back to {needed} or more"
        )


class HorizonTooShortError(ModelError):
    """The forecast horizon has no step."""

    code = "model.horizon_too_short"

    def __init__(self, horizon: int) -> None:
        super().__init__(f"the horizon is {horizon} steps; set it to 1 or more")


class SeasonTooLongError(ModelError):
    """One season does not fit into the look-back."""

    code = "model.season_too_long"

    def __init__(self, season: int, lookback: int) -> None:
        super().__init__(
            f"a season of {season} steps does not fit into a look-back of {lookback}; "
            f"lengthen the look-back to {season} or choose a shorter season"
        )


class WidthNotDivisibleError(ModelError):
    """The width is no multiple of the number of attention heads."""

    code = "model.width_not_divisible"

    def __init__(self, width: int, heads: int) -> None:
        lower = max(heads, width - width % heads)
        super().__init__(
            f"width {width} is not a multiple of {heads} attention heads; "
            f"set it to a multiple of {heads}, for instance {lower}"
        )


class UnknownOptionError(ModelError):
    """A hyperparameter that the model does not have."""

    code = "model.unknown_option"

    def __init__(self, option: str, model: str, known: Collection[str]) -> None:
        nearest = get_close_matches(option, known, n=1, cutoff=0.0)
        remedy = f"did you mean {nearest[0]!r}? It has" if nearest else "it has"
        super().__init__(f"{model} has no option {option!r}; {remedy}: {', '.join(sorted(known)) or 'none'}")
        self.option = option


class OptionOutOfRangeError(ModelError):
    """A hyperparameter outside its valid range."""

    code = "model.option_out_of_range"

    def __init__(self, option: str, value: object, allowed: str) -> None:
        super().__init__(f"option {option!r} is {value!r}; it must be {allowed}")
        self.option = option


class UnusableQuantilesError(ModelError):
    """Quantile levels from which no quantile regression can be built."""

    code = "model.unusable_quantiles"

    def __init__(self, quantiles: Collection[float], fact: str) -> None:
        levels = ", ".join(f"{level:g}" for level in quantiles)
        super().__init__(
            f"the quantile levels ({levels}) {fact}; give increasing levels between 0 and 1, "
            "symmetric around 0.5 and including it, for instance 0.1, 0.5, 0.9"
        )


class SeriesTooShortError(ModelError):
    """A training series shorter than one look-back and one horizon."""

    code = "model.series_too_short"

    def __init__(self, index: int, length: int, needed: int) -> None:
        super().__init__(
            f"training series {index} has {length} steps, but one look-back and one horizon need {needed}; "
            "give a longer series, or shorten the look-back or the horizon"
        )


class CovariatesTooShortError(ModelError):
    """A covariate series that does not cover every training window of its target series."""

    code = "model.covariates_too_short"

    def __init__(self, index: int, feature: str, missing: int) -> None:
        super().__init__(
            f"{feature} of training series {index} start {missing} steps too late for its first window; "
            "start them at or before the target series, or shorten the target series"
        )


class MissingValuesError(ModelError):
    """A series with NaN in steps that the model reads."""

    code = "model.missing_values"

    def __init__(self, feature: str, index: int, component: str, count: int, first: str) -> None:
        super().__init__(
            f"{feature} {index} has {count} missing values where the model reads it, the first of {component!r} at "
            f"{first}; fill them (darts.utils.missing_values) or split the series at the gap"
        )


class ChannelCountError(ModelError):
    """A series with another number of channels than the model was fitted for."""

    code = "model.channel_count"

    def __init__(self, model: str, index: int, given: int, fitted: int) -> None:
        super().__init__(
            f"series {index} has {given} channels, but {model} was fitted for {fitted}; give the channels of the "
            "training series in their order, or fit again"
        )


class NotFittedError(ModelError):
    """The model has no weights yet."""

    code = "model.not_fitted"

    def __init__(self, model: str, action: str) -> None:
        super().__init__(f"{model} has no weights yet, so it cannot {action}; call fit() first")


class ExportMismatchError(ModelError):
    """ONNX Runtime and torch disagree on the forecasts of the exported model."""

    code = "model.export_mismatch"

    def __init__(self, difference: float, tolerance: float, batch: int) -> None:
        super().__init__(
            f"the exported model differs from torch by {difference:.2e} at batch size {batch} "
            f"(allowed: {tolerance:.0e}), so no file was written; check that the weights are finite and train again"
        )


class WeightsAbsentError(ModelError):
    """The pretrained weights are not on this machine."""

    code = "model.weights_absent"

    def __init__(self, model: str, place: str, command: str) -> None:
        super().__init__(
            f"the pretrained weights of {model} do not exist in {place}; "
            f'run "{command}" on a machine with internet access, or set the option local_dir to their folder'
        )


class WeightsUnreadableError(ModelError):
    """The files exist, but do not hold the weights of this network."""

    code = "model.weights_unreadable"

    def __init__(self, model: str, folder: Path, fact: object) -> None:
        super().__init__(
            f"{model} cannot read the weights in {folder} ({fact}); delete the folder and download them again"
        )


class PackageAbsentError(ModelError):
    """The model runs on an optional package that is not installed."""

    code = "model.package_absent"

    def __init__(self, model: str, package: str) -> None:
        super().__init__(f'{model} needs the package {package}, which is not installed; run "pip install {package}"')


class NotExportableError(ModelError):
    """The network cannot become an ONNX file."""

    code = "model.not_exportable"

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(
            f"{model} cannot be exported to ONNX: {reason}; forecast with predict(), or serve another model"
        )


class BeyondPretrainingError(ModelError):
    """A window or quantile levels that the network was not pretrained for."""

    code = "model.beyond_pretraining"

    def __init__(self, model: str, fact: object) -> None:
        super().__init__(
            f"{model} was not pretrained for this request: {str(fact).strip(' .')}; "
            "change the look-back, the horizon or the quantiles"
        )
