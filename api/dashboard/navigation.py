"""What all pages share: the pages there are, and the data set that is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict

from api.dependencies import find_dataset, seen_datasets
from api.service import Service
from forecast.installation import Dataset

_MOST_ALERTS = 4
PAGES: Mapping[str, str] = {
    "Forecasts": "/",
    "Accuracy": "/accuracy",
    "Models": "/models",
    "Runs": "/runs",
    "Data": "/data",
}


class DatasetQuery(BaseModel):
    """Which data set a page is about; the first one if left out."""

    model_config = ConfigDict(extra="forbid")

    dataset: str | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """One line of a select, or one link of a row of them."""

    value: str
    label: str
    chosen: bool


def chosen(name: str | None, service: Service) -> Dataset:
    """Return the data set of a query, or the first one that the key of the request is for."""
    if name:
        return find_dataset(name, service)
    seen = seen_datasets(service)
    return seen[0] if seen else find_dataset(next(iter(service.installation.config.datasets)), service)


def frame(page: str, dataset: Dataset, service: Service) -> dict[str, Any]:
    """Return what the frame around every page shows."""
    seen = seen_datasets(service)
    here = urlencode({"dataset": dataset.name}) if len(seen) > 1 else ""
    return {
        "page": page,
        "pages": [(name, f"{path}?{here}" if here else path) for name, path in PAGES.items()],
        "here": PAGES[page],
        "dataset": dataset,
        "alerts": service.installation.ledger.alerts.find(dataset.name, open_only=True, limit=_MOST_ALERTS),
        "datasets": [Option(one.name, one.config.title or one.name, one.name == dataset.name) for one in seen],
    }
