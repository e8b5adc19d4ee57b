"""Build the record of a new forecast; nothing else constructs an :class:`Issuance`, apart from reading the ledger."""

from __future__ import annotations

import uuid
from datetime import datetime

from forecast.installation import Dataset
from forecast.ledger.champions import Champion
from forecast.ledger.issuance import Issuance
from forecast.panel import Panel
from forecast.provenance import Provenance
from forecast.runtime.manifest import Manifest
from pipelines.preparation.freshness import imputed_fraction, observed_until


def new_issuance(
    dataset: Dataset,
    champion: Champion,
    manifest: Manifest,
    panel: Panel,
    now: datetime,
    *,
    data_version: int = 0,
    provenance: Provenance | None = None,
    correction: int | None = None,
) -> Issuance:
    """Describe a forecast from the end of ``panel``, issued and recorded at ``now``, under a new id.

    ``data_version`` is 0 for a forecast of rows that a client sent: no version of the lake holds them.
    """
    return Issuance(
        forecast_id=uuid.uuid4().hex,
        dataset=dataset.name,
        issued_at=now,
        origin=panel.end,
        horizon=manifest.horizon,
        quantiles=manifest.quantiles,
        data_version=data_version,
        model_name=champion.model_name,
        model_version=champion.model_version,
        model_folder=champion.folder,
        imputed_fraction=imputed_fraction(panel, dataset.config),
        newest_observed=observed_until(panel),
        recorded_at=now,
        provenance=provenance,
        correction=correction,
    )
