"""How old the served forecasts and the newest rows are, as figures."""

from __future__ import annotations

from collections.abc import Iterator

from api.observability.metrics import Gauge
from api.service import Service
from api.state.issued import age_of


def gauges(service: Service) -> Iterator[Gauge]:
    """Tell of each data set from memory."""
    for dataset, config in service.installation.config.datasets.items():
        label = (("dataset", dataset),)
        issued, newest = service.latest.find(dataset), service.histories.newest_row(dataset)
        if issued is not None:
            age, stale = age_of(issued, config, service.latest.now(dataset))
            yield Gauge("forecast_age_seconds", "Time since the served forecast was issued.", age, label)
            yield Gauge("forecast_stale", "Whether the served forecast is older than it should be.", stale, label)
        if newest is not None:
            behind = (service.latest.now(dataset) - newest).total_seconds()
            yield Gauge("forecast_data_age_seconds", "Time since the newest row.", behind, label)
