"""Back to an earlier champion: by hand, or because the present one does worse on what came since."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.clock import SystemClock
from forecast.config.dataset import DatasetConfig
from forecast.errors import ConflictError, ForecastError, NotFoundError, StorageError, nearest
from forecast.evaluation.promotion import Verdict, decide
from forecast.evaluation.scores import Yardstick
from forecast.installation import Dataset
from forecast.ledger.champions import Champion, distinct
from forecast.panel import Panel
from forecast.runtime.manifest import NETWORK
from forecast.runtime.model import ServedModel, load
from forecast.runtime.smoke_test import smoke_test
from pipelines.forecasting.issue import fits
from pipelines.preparation.clean import clean
from pipelines.preparation.windows import cut
from pipelines.training.backtest import evidence_of

_LOG = logging.getLogger(__name__)


def rollback(dataset: Dataset, to: str | None = None, why: str = "by hand") -> Champion:
    """Make an earlier champion champion again: the one before the present one, or the version named by ``to``.

    Its files are checked first. Raises ``promotion.no_earlier`` where there is none, and ``model.*`` where its files
    are not what was exported. The ledger decides; MLflow's aliases follow with the next night if it is down now.
    """
    history = dataset.ledger.champions.history(dataset.name)
    if not history:
        raise NotFoundError(
            "forecast.no_champion", f"{dataset.name} has no champion", f'run "forecast train {dataset.name}"'
        )
    target = _earlier(dataset.name, history, to)
    load(dataset.home.models / target.folder, target.digest)
    verdict = f"{target.model_version} is champion again, instead of {history[0].model_version}: {why}"
    again = Champion(
        dataset=dataset.name, model_name=target.model_name, model_version=target.model_version, folder=target.folder,
        digest=target.digest, promoted_at=SystemClock().now(), verdict=verdict,
    )  # fmt: skip
    dataset.ledger.champions.promote(again)
    mirror(dataset)
    return again


def mirror(dataset: Dataset) -> None:
    """Let MLflow's aliases say what the ledger says; a tracking server that is down is told, and no reason to stop."""
    from forecast.tracking.registry import Registry  # MLflow takes seconds to import: not before the ledger has it

    champions = distinct(dataset.ledger.champions.history(dataset.name))
    versions = [champion.model_version for champion in champions[:2]]
    if not versions:
        return
    try:
        Registry(dataset.home).mirror(dataset.name, versions[0], versions[1] if len(versions) > 1 else None)
    except StorageError as error:
        _LOG.warning("MLflow's aliases of %s will follow with the next night: %s", dataset.name, error)


def watch(dataset: Dataset) -> Verdict | None:
    """Compare the champion with the one before on what came since it took over; go back if that one does better.

    The same test as a promotion's, the earlier champion being the challenger, at origins from the champion's first
    forecast on: rows that neither was fitted on. Returns the verdict, or ``None`` where there is nothing to compare or
    too little has come true.
    """
    config = dataset.config
    champions = distinct(dataset.ledger.champions.history(dataset.name))
    if len(champions) < 2:
        return None
    first = dataset.ledger.issuances.first_by(dataset.name, champions[0].model_version)
    if first is None:
        return None
    panel = clean(dataset.observations.read(), config)
    begin = panel.index(first.origin)
    if panel.steps - begin < config.horizons[0]:
        return None
    try:
        folders = [dataset.home.models / champion.folder for champion in champions[:2]]
        models = [load(folder, one.digest) for folder, one in zip(folders, champions[:2], strict=True)]
        verdict = _compared(models, folders, panel, config, begin)
    except ForecastError as error:
        _LOG.warning("the champion of %s cannot be compared with the one before: %s", dataset.name, error)
        return None
    if not any(item.p_better is not None for item in verdict.comparisons):
        return None
    if verdict.promote:
        rollback(dataset, champions[1].model_version, f"on what came since, {verdict.sentence}")
    return verdict


def _compared(
    models: Sequence[ServedModel], folders: Sequence[Path], panel: Panel, config: DatasetConfig, begin: int
) -> Verdict:
    known = set.intersection(*[set(model.manifest.scaler.targets) for model in models])
    if not known or not all(fits(model.manifest, config) for model in models):
        raise ConflictError("promotion.not_comparable", "they were trained for other series, channels or frequencies")
    panel = panel.only(known)
    # What has not come true yet counts nowhere, so that the newest origins are judged by their first hours.
    windows = cut(_lengthened(panel, config.horizon), config, begin, panel.steps + config.horizon)
    yardstick = Yardstick.fit(panel, models[0].manifest.scaler, config.season, begin)
    present, earlier = (
        evidence_of(model, windows, yardstick, config, smoke_test(model, folder / NETWORK))
        for model, folder in zip(models, folders, strict=True)
    )
    return decide(earlier, present, config.promotion)


def _lengthened(panel: Panel, steps: int) -> Panel:
    """Add rows that are still to come, of which nothing was observed."""
    length = panel.steps + steps

    def rows(values: NDArray[Any], fill: object) -> NDArray[Any]:
        missing = max(length - values.shape[1], 0)  # of known-future covariates some may be there
        more = np.full((values.shape[0], missing, values.shape[2]), fill, values.dtype)
        return np.concatenate([values, more], axis=1)

    return replace(
        panel,
        targets=rows(panel.targets, np.nan), observed=rows(panel.observed, fill=False),
        past=rows(panel.past, np.nan), past_observed=rows(panel.past_observed, fill=False),
        future=rows(panel.future, np.nan), future_observed=rows(panel.future_observed, fill=False),
    )  # fmt: skip


def _earlier(name: str, history: Sequence[Champion], to: str | None) -> Champion:
    others = [champion for champion in distinct(history) if champion.model_version != history[0].model_version]
    for champion in others:
        if to in {None, champion.model_version}:
            return champion
    if to is None or to == history[0].model_version:
        message = f"{history[0].model_version} is the champion of {name}, and no other model was before it"
        raise NotFoundError("promotion.no_earlier", message, 'run "forecast train" for another one')
    known = [champion.model_version for champion in others]
    raise NotFoundError("promotion.no_earlier", f"{to} never was champion of {name}", nearest(to, known))
