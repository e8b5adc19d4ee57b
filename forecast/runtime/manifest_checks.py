"""Whether a manifest's numbers belong together: what its types cannot say, and what a golden example does not reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from forecast.runtime.scaler import Moments

if TYPE_CHECKING:
    from forecast.runtime.model import Manifest

_MOST_STEPS = 1_000_000


def faults(manifest: Manifest) -> Iterator[str]:
    """Tell what makes a manifest unusable; nothing if it is sound."""
    for message, is_so in (
        ("a name that is none", not all(map(_is_name, (manifest.model_name, manifest.model_version)))),
        ("a lookback or horizon that is none", not all(map(_is_length, (manifest.lookback, manifest.horizon)))),
        ("a step that is none", not (math.isfinite(manifest.step_seconds) and manifest.step_seconds > 0)),
        ("targets that are missing or twice there", not manifest.targets or _repeats(manifest.targets)),
        ("covariates that are twice there", _repeats(manifest.past) or _repeats(manifest.future)),
        ("quantiles that are not ascending around 0.5", not _are_levels(manifest.quantiles)),
        ("bounds that are none", not _are_bounds(manifest)),
        ("a scaler of other channels, or that divides by nothing", not _scales(manifest)),
        ("a calibration of other channels", not _calibrates(manifest)),
    ):
        if is_so:
            yield message


def _is_name(text: str) -> bool:
    return text not in {"", ".", ".."} and text.isprintable() and not set(text) & set("/\\")


def _is_length(steps: int) -> bool:
    return 1 <= steps <= _MOST_STEPS


def _repeats(names: tuple[str, ...]) -> bool:
    return len(set(names)) < len(names)


def _are_levels(levels: tuple[float, ...]) -> bool:
    return 0.5 in levels and all(0 < one < 1 for one in levels) and all(one < other for one, other in pairwise(levels))


def _are_bounds(manifest: Manifest) -> bool:
    if not len(manifest.lower) == len(manifest.upper) == len(manifest.targets):
        return False
    return all(
        (-math.inf if lower is None else lower) <= (math.inf if upper is None else upper)  # false for NaN
        for lower, upper in zip(manifest.lower, manifest.upper, strict=True)
    )


def _scales(manifest: Manifest) -> bool:
    scaler = manifest.scaler
    known = len(next(iter(scaler.future.values()))[0]) if scaler.future else 0
    return (
        bool(scaler.targets)
        and set(scaler.past) == set(scaler.targets)
        and set(scaler.future) in (set(), set(scaler.targets))
        and known <= len(manifest.future)
        and _are_moments(scaler.targets.values(), len(manifest.targets))
        and _are_moments(scaler.past.values(), len(manifest.past))
        and _are_moments(scaler.future.values(), known)
        and all(len(row) == len(manifest.statics) and _are_finite(row) for row in scaler.statics.values())
    )


def _are_moments(every: Iterable[Moments], channels: int) -> bool:
    return all(
        len(means) == len(deviations) == channels and _are_finite(means) and _are_finite(deviations)
        and all(deviation > 0 for deviation in deviations)
        for means, deviations in every
    )  # fmt: skip


def _calibrates(manifest: Manifest) -> bool:
    calibration, channels, levels = manifest.calibration, len(manifest.targets), len(manifest.quantiles)
    by_level, by_channel = calibration.quantile_offsets, calibration.mean_offsets
    return (
        calibration.group >= 1
        and calibration.period <= _MOST_STEPS
        and len(by_level) == len(by_channel) >= 1
        and all(len(group) == channels and _are_finite(group) for group in by_channel)
        and all(len(group) == channels for group in by_level)
        and all(len(row) == levels and _are_finite(row) for group in by_level for row in group)
    )


def _are_finite(numbers: Iterable[float]) -> bool:
    return all(map(math.isfinite, numbers))
