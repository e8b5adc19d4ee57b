"""What routes ask for by the type of a parameter."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from api.context import access
from api.errors.problems import suggest
from api.service import Service
from forecast.errors import NotFoundError
from forecast.home import default_dataset as configured_dataset
from forecast.installation import Dataset


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


def find_dataset(name: str, service: Service) -> Dataset:
    """Return a data set of the job file, or raise ``dataset.unknown`` with the nearest name.

    Raises ``key.other_dataset`` for one that the key of the request is not for.
    """
    access().require(name)
    datasets = service.installation.config.datasets
    if name not in datasets:
        raise NotFoundError("dataset.unknown", "there is no data set of that name", suggest(name, datasets))
    return service.installation.dataset(name)


def seen_datasets(service: Service) -> list[Dataset]:
    """Return the data sets that the key of the request is for, in the order of the job file."""
    seen = access()
    return [dataset for dataset in service.installation.datasets if seen.sees(dataset.name)]


def default_dataset(service: Service) -> Dataset:
    """Return the data set that is meant where none is named: the only one, or ``FORECAST_DEFAULT_DATASET``.

    Raises ``dataset.ambiguous``, and ``key.other_dataset`` if the key of the request is not for it.
    """
    return find_dataset(service.installation.config.dataset(configured_dataset())[0], service)


async def _dataset(
    dataset: Annotated[str, Path(description="Name of a data set, as in the job file.", examples=["nyc-airports"])],
    service: ServiceDep,
) -> Dataset:
    return find_dataset(dataset, service)


DatasetDep = Annotated[Dataset, Depends(_dataset)]
