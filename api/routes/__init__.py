"""One router per noun; a new one is one file here and one entry in ``ROUTERS``."""

from __future__ import annotations

from api.routes import (  # fmt: skip
    accuracy,
    alerts,
    datasets,
    events,
    forecasts,
    health,
    history,
    jobs,
    mlflow_scoring,
    models,
    nixtla,
    observations,
    on_demand,
    open_inference,
    runs,
)

ROUTERS = (
    on_demand.router, forecasts.router, datasets.router, observations.router, history.router, accuracy.router,
    alerts.router, models.router, models.writing, jobs.router, jobs.writing, runs.router, runs.writing,
    events.router, nixtla.router, open_inference.router, mlflow_scoring.router, health.router,
)  # fmt: skip
"""In the order in which the application searches them: the most frequent requests first."""
