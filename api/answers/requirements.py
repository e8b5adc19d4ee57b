"""Requirements of the next forecast: rows, channels and times, and the values that the lake lacks."""

from __future__ import annotations

import numpy as np

from api.schemas.history import Lacking, Needed, NeededChannel, Requirements
from api.service import Service
from api.state.champions import Loaded
from forecast.config.dataset import DatasetConfig
from forecast.installation import Dataset
from forecast.panel import Mask, Panel


def requirements(dataset: Dataset, loaded: Loaded, horizon: int | None, service: Service) -> Requirements:
    """Return the requirements of a model's next forecast. Reads the lake's newest version: call it in a thread."""
    config, manifest = dataset.config, loaded.model.manifest
    found = service.histories.newest(dataset.name)
    steps = horizon or manifest.horizon
    # The network always forecasts whole rounds and needs covariates for all of their steps.
    rounds = -(-steps // manifest.horizon) * manifest.horizon
    origin = found[1].end if found else service.latest.now(dataset.name)
    return Requirements(
        dataset=dataset.name,
        model_name=manifest.model_name,
        model_version=manifest.model_version,
        frequency=config.frequency,
        zone=config.zone,
        origin=origin,
        horizon=steps,
        horizon_trained=manifest.horizon,
        series=list(manifest.scaler.targets),
        channels=[
            NeededChannel(
                name=name, column=channel.column or name, role=channel.role, unit=channel.unit, lower=channel.lower,
                upper=channel.upper,
            )
            for name, channel in config.channels.items()
        ],
        history=Needed(
            start=origin - config.step * manifest.lookback,
            end=origin - config.step,
            rows=manifest.lookback,
            channels=[*config.targets, *config.past_covariates, *config.future_covariates],
        ),
        future=Needed(
            start=origin, end=origin + config.step * (rounds - 1), rows=rounds, channels=list(config.future_covariates)
        )
        if config.future_covariates
        else None,
        data_version=found[0] if found else None,
        lacking=_lacking(found[1], config, manifest.lookback, rounds, set(manifest.scaler.targets)) if found else [],
    )  # fmt: skip


def _lacking(panel: Panel, config: DatasetConfig, lookback: int, ahead: int, trained: set[str]) -> list[Lacking]:
    first = panel.steps - lookback
    parts: tuple[tuple[tuple[str, ...], Mask, int], ...] = (
        (config.targets, panel.observed, panel.steps),
        (config.past_covariates, panel.past_observed, panel.steps),
        (config.future_covariates, panel.future_observed, panel.steps + ahead),
    )
    lacking = []
    for names, observed, last in parts:
        for s, series in enumerate(panel.series):
            for k, channel in enumerate(names):
                seen = np.zeros(last - first, bool)
                stored = observed[s, max(first, 0) : last, k]
                seen[max(-first, 0) : max(-first, 0) + len(stored)] = stored
                rows = np.flatnonzero(~seen)
                if len(rows) and series in trained:
                    at = (panel.time(first + int(rows[0])), panel.time(first + int(rows[-1])))
                    lacking.append(Lacking(series=series, channel=channel, count=len(rows), first=at[0], last=at[1]))
    return lacking
