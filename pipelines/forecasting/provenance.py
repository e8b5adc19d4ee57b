"""Record the provenance of a forecast: model, data, covariates, code and machine."""

from __future__ import annotations

import onnxruntime

from forecast.config.dataset import DatasetConfig
from forecast.lake.observations import Observations
from forecast.panel import Panel
from forecast.provenance import Provenance, code, machine
from forecast.runtime.model import ServedModel
from pipelines.forecasting.covariate_age import covariate_age


def provenance_of(
    model_digest: str,
    model: ServedModel,
    table: Observations,
    version: int,
    panel: Panel,
    config: DatasetConfig,
    *,
    hindsight: bool = False,
) -> Provenance:
    """Return the provenance of a forecast of ``panel``, which was read from a version of the table.

    ``model_digest`` is the digest of the model's manifest.
    """
    age = covariate_age(table, version, panel, config)
    running = code()
    return Provenance(
        model_digest=model_digest,
        kernels=model.manifest.kernels,
        data_digest=panel.digest,
        data_recorded_at=table.recorded_at(version),
        covariates_version=age and age.version,
        covariates_recorded_at=age and age.recorded_at,
        covariates_until=age and age.until,
        code_version=running.version,
        code_commit=running.commit,
        code_changed=running.changed,
        runtime=f"onnxruntime {onnxruntime.__version__}",
        provider=model.provider,
        threads=model.threads,
        machine=machine(),
        hindsight=hindsight,
    )
