"""Roll back to an earlier champion: by hand, or because the present one performs worse on new rows."""

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
from pipelines.forecasting.inputs import fits
from pipelines.preparation.clean import clean
from pipelines.preparation.windows import cut
from pipelines.training.backtest import evidence_of

_LOG = logging.getLogger(__name__)


def rollback(dataset: Dataset, to: str | None = None, why: str = "by hand") -> Champion:
    """Promote an earlier champion again: the previous one, or the version ``to``.

    Its files are checked first. Raises ``promotion.no_earlier`` if it does not exist, and ``model.*`` if its files do
    not match their digests. The ledger decides; if MLflow is down, the next night updates its aliases.
    """
    history = dataset.ledger.champions.history(dataset.name)
    if not history:
        raise NotFoundError(
            "forecast.no_champion", f"{dataset.name} has no champion", f'run "forecast train {dataset.name}"'
        )
    target = _earlier(dataset.name, history, to)
    load(dataset.home.models / target.folder, target.digest)
    verdict = f"{target.model_version} is champion again and replaces {history[0].model_version}: {why}"
    again = Champion(
        dataset=dataset.name, model_name=target.model_name, model_version=target.model_version, folder=target.folder,
        digest=target.digest, promoted_at=SystemClock().now(), verdict=verdict,
    )  # fmt: skip
    dataset.ledger.champions.promote(again)
    sync_aliases(dataset)
    return again


def sync_aliases(dataset: Dataset) -> None:
    """Set MLflow's aliases to the ledger's champions; if the tracking server is down, log a warning and go on."""
    from forecast.tracking.registry import (
        Registry,
    )  # imported late: MLflow takes seconds, and the ledger must be updated first

    champions = distinct(dataset.ledger.champions.history(dataset.name))
    versions = [champion.model_version for champion in champions[:2]]
    if not versions:
        return
    try:
        Registry(dataset.home).mirror(dataset.name, versions[0], versions[1] if len(versions) > 1 else None)
    except StorageError as error:
        _LOG.warning("MLflow's aliases of %s will follow with the next night: %s", dataset.name, error)


def rollback_if_worse(dataset: Dataset) -> Verdict | None:
    """Compare the champion with the previous one on rows since its promotion; roll back if that one is better.

    The test is the one of a promotion, with the previous champion as the challenger, at origins from the champion's
    first forecast on: neither was fitted on these rows. Returns the verdict, or ``None`` if there is no previous
    champion or too few rows.
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
        verdict = _compare(models, folders, panel, config, begin)
    except ForecastError as error:
        _LOG.warning("the champion of %s cannot be compared with the previous one: %s", dataset.name, error)
        return None
    if not any(item.p_better is not None for item in verdict.comparisons):
        return None
    if verdict.promote:
        rollback(dataset, champions[1].model_version, f"on new rows, {verdict.sentence}")
    return verdict


def _compare(
    models: Sequence[ServedModel], folders: Sequence[Path], panel: Panel, config: DatasetConfig, begin: int
) -> Verdict:
    known = set.intersection(*[set(model.manifest.scaler.targets) for model in models])
    if not known or not all(fits(model.manifest, config) for model in models):
        raise ConflictError(
            "promotion.not_comparable", "the models were trained for different series, channels or frequencies"
        )
    panel = panel.only(known)
    # Steps without an observation yet do not count, so the newest origins are scored on their first hours.
    windows = cut(_extend_with_missing(panel, config.horizon), config, begin, panel.steps + config.horizon)
    yardstick = Yardstick.fit(panel, models[0].manifest.scaler, config.season, begin)
    present, earlier = (
        evidence_of(model, windows, yardstick, config, smoke_test(model, folder / NETWORK))
        for model, folder in zip(models, folders, strict=True)
    )
    return decide(earlier, present, config.promotion)


def _extend_with_missing(panel: Panel, steps: int) -> Panel:
    """Append ``steps`` rows of missing values."""
    length = panel.steps + steps

    def rows(values: NDArray[Any], fill: object) -> NDArray[Any]:
        missing = max(length - values.shape[1], 0)  # known-future covariates may already reach further
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
        message = f"{history[0].model_version} is the only champion that {name} has had"
        raise NotFoundError("promotion.no_earlier", message, f'run "forecast train {name}" for another one')
    known = [champion.model_version for champion in others]
    raise NotFoundError("promotion.no_earlier", f"{to} was never champion of {name}", nearest(to, known))
