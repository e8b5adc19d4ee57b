"""A forecast as a self-contained HTML report: one fan chart per series and target."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np

from forecast.errors import StorageError
from forecast.installation import Dataset
from forecast.ledger.issuance import Issuance
from forecast.panel import Array, Panel
from forecast.plots.charts import fan, page
from forecast.runtime.model import Prediction, load
from pipelines.forecasting.correct import corrected
from pipelines.forecasting.inputs import forecastable
from pipelines.forecasting.recursion import extend
from pipelines.preparation.clean import clean


def write_report(dataset: Dataset, issuance: Issuance, horizon: int | None = None) -> Path:
    """Write the report of an issued forecast, with one look-back of history before it; returns the file.

    The forecast is recomputed from the model and the data version of the issuance, so the report of an old forecast
    shows the history of that time.
    """
    config = dataset.config
    model = load(dataset.home.models / issuance.model_folder, dataset.ledger.issuances.model_digest(issuance))
    whole = clean(dataset.observations.read(version=issuance.data_version), config)
    panel = forecastable(whole, model.manifest, config)
    steps, trained = horizon or issuance.horizon, model.manifest.horizon
    correction = dataset.ledger.corrections.get(issuance.correction)
    prediction = corrected(extend(model, panel, config, steps), correction, model.manifest, panel.series)
    figures = []
    for s, series in enumerate(panel.series):
        for c, channel in enumerate(config.targets):
            history = _history(panel, s, c, config.lookback)
            local = [time.astimezone(config.tz) for time in history[0]]
            issued = f"{issuance.issued_at.astimezone(config.tz):%Y-%m-%d %H:%M}"
            title = f"{channel} at {series}, issued {issued} with {issuance.model_name}"
            figures.append(
                fan(
                    title,
                    config.channels[channel].unit,
                    (local, history[1]),
                    *_fan(prediction, panel, s, c, model.median, config.tz),
                    f"{issuance.quantiles[-1] - issuance.quantiles[0]:.0%} band",
                    recursive_from=None
                    if steps <= trained
                    else panel.time(panel.steps + trained).astimezone(config.tz),
                )
            )
    path = dataset.home.reports / f"{dataset.name}.html"
    try:
        path.write_text(
            page(figures, f"{dataset.name}: forecast {issuance.forecast_id}", facts=_facts(issuance)), encoding="utf-8"
        )
    except OSError as error:
        message = f'cannot write "{path}" ({error.strerror})'
        raise StorageError("report.not_written", message, "check the folder and the disk") from error
    return path


def _facts(issuance: Issuance) -> dict[str, str]:
    """Return where a forecast comes from, under the field names of the REST API."""
    names = ("forecast_id", "issued_at", "origin", "data_version", "model_version", "imputed_fraction")
    facts = {name: getattr(issuance, name) for name in names}
    if issuance.provenance is not None:
        facts |= issuance.provenance.model_dump(mode="json")
    return {name: str(value) for name, value in facts.items() if value is not None and value != {}}


def _history(panel: Panel, series: int, channel: int, steps: int) -> tuple[list[datetime], list[float | None]]:
    first = max(panel.steps - steps, 0)
    values = np.where(panel.observed[series, first:, channel], panel.targets[series, first:, channel], np.nan)
    return [panel.time(i) for i in range(first, panel.steps)], [
        None if np.isnan(value) else float(value) for value in values
    ]


def _fan(
    prediction: Prediction, panel: Panel, series: int, channel: int, median: int, zone: object
) -> tuple[list[datetime], list[float], list[float], list[float]]:
    quantiles: Array = prediction.quantiles[series, :, channel]
    times = [panel.time(panel.steps + lead).astimezone(zone) for lead in range(len(quantiles))]  # type: ignore[arg-type]
    return times, quantiles[:, median].tolist(), quantiles[:, 0].tolist(), quantiles[:, -1].tolist()
