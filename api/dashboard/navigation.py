"""Parts shared by all pages: the list of pages, the data set picker, and the frame's context."""

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
    """The data set of a page; default: the first one."""

    model_config = ConfigDict(extra="forbid")

    dataset: str | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a select."""

    value: str
    label: str
    chosen: bool


def chosen(name: str | None, service: Service) -> Dataset:
    """Return the data set of a query; default: the first one that the request's key permits."""
    if name:
        return find_dataset(name, service)
    seen = seen_datasets(service)
    return seen[0] if seen else find_dataset(next(iter(service.installation.config.datasets)), service)


def frame(page: str, dataset: Dataset, service: Service) -> dict[str, Any]:
    """Return the template context of the layout around every page."""
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
