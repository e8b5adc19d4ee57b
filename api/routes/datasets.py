"""``GET /v1/datasets``: the data sets, their champions and their freshness."""

from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.auth.scopes import reads_own
from api.dependencies import DatasetDep, ServiceDep, seen_datasets
from api.openapi.responses import problems
from api.requests.negotiation import as_json
from api.schemas.forecasts import ChampionInfo, ChannelInfo, DatasetInfo, DatasetList, LatestInfo
from api.service import Service
from api.state.issued import age_of
from forecast.installation import Dataset

router = APIRouter(prefix="/v1/datasets", tags=["data sets"], dependencies=[reads_own])


@router.get("", response_model=DatasetList, summary="All data sets", responses=problems(406, 503))
async def list_datasets(request: Request, service: ServiceDep) -> Response:
    """Describe every data set of the config file that the key is valid for."""
    described = [await run_sync(describe, dataset, service) for dataset in seen_datasets(service)]
    return as_json(request, DatasetList(datasets=described))


@router.get("/{dataset}", response_model=DatasetInfo, summary="One data set", responses=problems(404, 406, 503))
async def read_dataset(request: Request, dataset: DatasetDep, service: ServiceDep) -> Response:
    """Describe one data set: its series and channels, its newest row, its champion and its latest forecast."""
    return as_json(request, await run_sync(describe, dataset, service))


def describe(dataset: Dataset, service: Service) -> DatasetInfo:
    """Return the description of a data set; reads the lake's newest version and the ledger."""
    name, config = dataset.name, dataset.config
    history = service.histories.newest(name)
    champion = service.installation.ledger.champions.current(name)
    issued = service.latest.find(name)
    latest = None
    if issued is not None:
        age, stale = age_of(issued, config, service.latest.now(name))
        issuance = issued.issuance
        latest = LatestInfo(
            forecast_id=issuance.forecast_id,
            issued_at=issuance.issued_at,
            model_version=issuance.model_version,
            age=age,
            stale=stale,
        )
    return DatasetInfo(
        name=name,
        title=config.title,
        frequency=config.frequency,
        zone=config.zone,
        series=[] if history is None else list(history[1].series),
        channels=[
            ChannelInfo(name=key, role=channel.role, unit=channel.unit, lower=channel.lower, upper=channel.upper)
            for key, channel in config.channels.items()
        ],
        horizons=list(config.horizons),
        quantiles=list(config.quantiles),
        data_version=None if history is None else history[0],
        newest_row=None if history is None else history[1].end - config.step,
        champion=None if champion is None else ChampionInfo.model_validate(champion, from_attributes=True),
        latest_forecast=latest,
    )
