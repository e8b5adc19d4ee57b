"""Dependencies that routes declare by a parameter's type, such as ``dataset: DatasetDep``."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from api.auth.scopes import require_dataset
from api.context import access
from api.errors.suggestions import suggest
from api.service import Service
from forecast.errors import NotFoundError
from forecast.home import default_dataset as configured_dataset
from forecast.installation import Dataset


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


def find_dataset(name: str, service: Service) -> Dataset:
    """Return a data set of the config file.

    Raises ``dataset.unknown`` with the nearest name, and ``key.other_dataset`` if the request's key is not valid for
    it.
    """
    require_dataset(access(), name)
    datasets = service.installation.config.datasets
    if name not in datasets:
        raise NotFoundError("dataset.unknown", "the data set does not exist", suggest(name, datasets))
    return service.installation.dataset(name)


def seen_datasets(service: Service) -> list[Dataset]:
    """Return the data sets that the request's key is valid for, in the order of the config file."""
    seen = access()
    return [dataset for dataset in service.installation.datasets if seen.sees(dataset.name)]


def default_dataset(service: Service) -> Dataset:
    """Return the data set of a request that names none: the only one, or ``FORECAST_DEFAULT_DATASET``.

    Raises ``dataset.ambiguous``, and ``key.other_dataset`` if the request's key is not valid for it.
    """
    return find_dataset(service.installation.config.dataset(configured_dataset())[0], service)


async def _dataset(
    dataset: Annotated[str, Path(description="Name of a data set in the config file.", examples=["nyc-airports"])],
    service: ServiceDep,
) -> Dataset:
    return find_dataset(dataset, service)


DatasetDep = Annotated[Dataset, Depends(_dataset)]
