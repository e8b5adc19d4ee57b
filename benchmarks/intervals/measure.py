"""Fit one model, then roll over the later rows: calibrate, test on the following rows, continue."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals.data import History
from forecast.evaluation.metrics import observed_mean, pinball
from forecast.evaluation.scores import lead_groups
from forecast.panel import Array, Mask
from forecast.runtime.calibration import Calibration
from forecast.runtime.model import ServedModel, load
from pipelines.preparation.darts_series import fit_scaler
from pipelines.preparation.slices import Slices
from pipelines.preparation.windows import Rows, Windows, cut
from pipelines.training.calibrate import calibrate
from pipelines.training.export import export, manifest_fields
from pipelines.training.fit import fit

STRIDE = 5
"""Steps between two windows; no divisor of 24, so that every hour of the day is an origin."""
TEST, AFRESH = timedelta(days=21), timedelta(days=7)
"""Rows of a test, and the interval of the rolling calibration."""
BANDS = ("none", "calibrated", "rolling")
"""Uncalibrated; calibrated once, on as many rows before the test as the config reserves; calibrated every week, on as
many of the newest residuals, also those of unfinished windows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One channel and group of lead times, over all tests."""

    dataset: str
    model: str
    bands: str
    channel: str
    first_lead: int
    last_lead: int
    tests: int
    coverage: float
    """Coverage of the band from 10% to 90%, over all tests."""
    lowest: float
    """Lowest coverage of a single test."""
    highest: float
    pinball: float
    """Pinball loss in deviations of the fit rows, averaged over the levels and doubled."""
    wql: float
    width: float
    """Width of the band, in deviations."""


_Test = tuple[Windows, Array]
"""What was forecast, and the quantiles [N, H, C, Q]."""


def measure(dataset: str, history: History, model_name: str) -> list[Row]:
    """Fit, export and test one model."""
    config, panel = history.config, history.panel
    slices = Slices.of(panel, config)
    scaler = fit_scaler(panel, config, slices.fit)
    with tempfile.TemporaryDirectory() as scratch:
        fitted = fit(config, panel, slices, scaler, model_name)
        manifest = manifest_fields(
            config, scaler, dataset=dataset, model_name=model_name, model_version=model_name, data_version=0,
            trained_at=datetime.now(UTC), data_digest="", fitted_until=panel.time(slices.validation),
        )  # fmt: skip
        bare = Calibration.none(len(config.targets), len(config.quantiles), config.horizon)
        some = cut(panel, config, slices.validation, slices.validation + 2 * config.horizon)
        export(fitted.model, Path(scratch) / "model", manifest, some, calibration=bare)
        model = load(Path(scratch) / "model")
        windows = cut(panel, config, slices.validation, panel.steps, STRIDE)
    origins = np.asarray([panel.index(origin) for origin in windows.origins])
    before, after, afresh = slices.calibration - slices.validation, TEST // config.step, AFRESH // config.step
    whole = [
        (first, first + before, first + before + after)
        for first in range(slices.validation, panel.steps - before - after + 1, after)
    ]
    tests: dict[str, list[_Test]] = {bands: [] for bands in BANDS}
    for first, last, end in whole:
        tested = _only(windows, (origins >= last) & (origins + config.horizon <= end))
        known = _only(windows, (origins >= first) & (origins + config.horizon <= last))
        once = calibrate(model, known, timedelta(days=1))
        tests["none"].append((tested, _forecast(model, tested, bare)))
        tests["calibrated"].append((tested, _forecast(model, tested, once)))
        begins = np.asarray([panel.index(origin) for origin in tested.origins])
        rolling = np.empty((*tested.actual.shape, len(config.quantiles)))
        for now in range(last, end, afresh):
            week = (begins >= now) & (begins < now + afresh)
            if week.any():
                newest = calibrate(model, _known(windows, origins, now - before, now), timedelta(days=1))
                rolling[week] = _forecast(model, _only(tested, week), newest)
        tests["rolling"].append((tested, rolling))
    return [row for bands in BANDS for row in _rows(dataset, model, bands, tests[bands], config.horizons)]


def _known(windows: Windows, origins: Rows, first: int, last: int) -> Windows:
    """Return windows as known at row ``last``: only values from ``first`` on that had arrived by then."""
    horizon = windows.actual.shape[1]
    kept = (origins > first - horizon) & (origins < last)
    found = _only(windows, kept)
    rows = origins[kept][:, None] + np.arange(horizon)
    return replace(found, actual=np.where(((rows >= first) & (rows < last))[..., None], found.actual, np.nan))


def _only(windows: Windows, kept: Mask) -> Windows:
    def some(names: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(name for name, stays in zip(names, kept, strict=True) if stays)

    return Windows(
        origins=some(windows.origins),
        series=some(windows.series),
        targets=windows.targets[kept],
        past=windows.past[kept],
        future=windows.future[kept],
        actual=windows.actual[kept],
    )


def _forecast(model: ServedModel, windows: Windows, calibration: Calibration) -> Array:
    made = ServedModel(model.manifest.model_copy(update={"calibration": calibration}), model._session)  # noqa: SLF001
    return made.predict(windows.targets, windows.past, windows.future, windows.series).quantiles


def _rows(
    dataset: str,
    model: ServedModel,
    bands: str,
    tests: Sequence[_Test],
    horizons: Sequence[int],
) -> Iterator[Row]:
    manifest = model.manifest
    levels = manifest.quantiles
    low, high = levels.index(0.1), levels.index(0.9)
    ends = lead_groups(horizons)
    actual = [windows.actual for windows, _ in tests]
    scale = [manifest.scaler.deviations(windows.series)[:, None] for windows, _ in tests]
    inside = [
        np.where(np.isnan(y), np.nan, (y >= quantiles[..., low]) & (y <= quantiles[..., high]))
        for y, (_, quantiles) in zip(actual, tests, strict=True)
    ]
    losses = [pinball(y, quantiles, levels) for y, (_, quantiles) in zip(actual, tests, strict=True)]
    widths = [quantiles[..., high] - quantiles[..., low] for _, quantiles in tests]
    for channel, name in enumerate(manifest.targets):
        for begin, end in zip((0, *ends[:-1]), ends, strict=True):
            at = np.s_[:, begin:end, channel]
            each = [observed_mean(part[at]) for part in inside]
            magnitude = observed_mean(np.concatenate([np.abs(part[at]) for part in actual]))
            scaled = [part / by for part, by in zip(losses, scale, strict=True)]
            yield Row(
                dataset=dataset,
                model=manifest.model_name,
                bands=bands,
                channel=name,
                first_lead=begin + 1,
                last_lead=end,
                tests=len(tests),
                coverage=observed_mean(np.concatenate([part[at] for part in inside])),
                lowest=float(np.nanmin(each)),
                highest=float(np.nanmax(each)),
                pinball=observed_mean(np.concatenate([part[at] for part in scaled])),
                wql=observed_mean(np.concatenate([part[at] for part in losses])) / magnitude,
                width=observed_mean(np.concatenate([(part / by)[at] for part, by in zip(widths, scale, strict=True)])),
            )
