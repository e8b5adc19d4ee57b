"""Examples for OpenAPI, made from the installation's own data sets: each can be sent unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from api.service import Service
from forecast.errors import ForecastError
from forecast.installation import Dataset
from forecast.scheduling.job_book import JobBook

_NEW_JOB = "example"
_SOME_START = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Subject:
    """The data set of the examples: the look-back of one series with constant values."""

    dataset: Dataset
    series: tuple[str, ...]
    lookback: int
    horizon: int
    start: datetime

    def columns(self) -> dict[str, list[float]]:
        config = self.dataset.config
        return {name: [self.value(name)] * self.lookback for name in config.channels}

    def ahead(self) -> dict[str, list[float]]:
        return {name: [self.value(name)] * self.horizon for name in self.dataset.config.future_covariates}

    def value(self, channel: str) -> float:
        """Return a value within the channel's bounds."""
        one = self.dataset.config.channels[channel]
        low, high = one.lower, one.upper
        if low is not None and low > 1:
            return low
        return high if high is not None and high < 1 else 1.0

    @property
    def times(self) -> list[str]:
        step = self.dataset.config.step
        return [(self.start + step * row).isoformat() for row in range(self.lookback)]


def fill(document: dict[str, Any], service: Service) -> None:
    """Add examples of path parameters and JSON bodies to an OpenAPI document."""
    subject = _subject(service)
    in_path = {"dataset": subject.dataset.name, "name": subject.dataset.name, "version": "champion"}
    in_path |= _scheduled(service)
    for path, item in document["paths"].items():
        for operation in item.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] in in_path:
                    parameter["example"] = in_path[parameter["name"]]
            make = _BODIES.get(path)
            content = operation.get("requestBody", {}).get("content", {})
            if make is not None and "application/json" in content:
                content["application/json"]["examples"] = {
                    name: {"value": value} for name, value in make(subject).items()
                }


def _scheduled(service: Service) -> dict[str, Any]:
    """Return an existing job and run, otherwise those that the examples create."""
    found: dict[str, Any] = {"job": _NEW_JOB, "run": 1}
    with suppress(ForecastError):  # the documentation must work while the ledger does not answer
        found["job"] = next(iter(JobBook(service.installation).jobs()), _NEW_JOB)
        found["run"] = next((run.run_id for run in service.installation.ledger.runs.find(limit=1)), 1)
    return found


def _subject(service: Service) -> _Subject:
    dataset = next(service.installation.datasets)
    name, config = dataset.name, dataset.config
    manifest = service.champions.manifest(name)
    latest = service.latest.find(name)
    lookback = config.lookback if manifest is None else manifest.lookback
    origin = _SOME_START + config.step * lookback if latest is None else latest.issuance.origin
    return _Subject(
        dataset=dataset,
        series=("a",) if manifest is None else tuple(manifest.scaler.targets),
        lookback=lookback,
        horizon=config.horizon if manifest is None else manifest.horizon,
        start=(origin - config.step * lookback).astimezone(UTC),
    )


def _on_demand(subject: _Subject) -> dict[str, Any]:
    config, one = subject.dataset.config, subject.series[0]
    about = {"dataset": subject.dataset.name, "horizon": subject.horizon}
    grid: dict[str, Any] = {"start": subject.start.isoformat(), "series": {one: subject.columns()}}
    future = {"future": {one: subject.ahead()}} if config.future_covariates else {}
    examples: dict[str, Any] = {"history on the grid": about | {"history": grid} | future}
    wide = str(config.source.layout) == "wide" and not config.source.version
    if wide and not config.future_covariates and not any(channel.source_unit for channel in config.channels.values()):
        columns = {config.channels[name].column or name: values for name, values in subject.columns().items()}
        named = {config.series: [one] * subject.lookback} if config.series else {}
        rows = {config.time: subject.times, **named, **columns}
        examples["rows as they are pushed"] = about | {"rows": rows}
    return examples


def _nixtla(subject: _Subject) -> dict[str, Any]:
    config = subject.dataset.config
    count = len(subject.series) * len(config.targets)
    names = sorted(
        name if len(config.targets) == 1 else f"{name}/{target}" for name in subject.series for target in config.targets
    )
    values = [
        subject.value(name.rpartition("/")[2] if len(config.targets) > 1 else config.targets[0]) for name in names
    ]
    covariates = (*config.future_covariates, *config.past_covariates)
    step = int(config.step.total_seconds())
    body = {
        "model": subject.dataset.name,
        "freq": f"{step // 3600}h" if step % 3600 == 0 else f"{step}s",
        "h": subject.horizon,
        "level": [round(100 * (2 * config.quantiles[-1] - 1), 6)],
        "series": {
            "y": [value for value in values for _ in range(subject.lookback)],
            "sizes": [subject.lookback] * count,
            "X": [[subject.value(name)] * (subject.lookback * count) for name in covariates] or None,
            "X_future": [[subject.value(name)] * (subject.horizon * count) for name in config.future_covariates]
            or None,
            "start_datetime": [subject.start.isoformat()] * count,
        },
    }
    return {"a forecast": body}


def _infer(subject: _Subject) -> dict[str, Any]:
    config = subject.dataset.config

    def tensor(role: str, channels: tuple[str, ...], rows: int) -> dict[str, Any]:
        data = [subject.value(name) for _ in range(rows) for name in channels]
        return {"name": role, "datatype": "FP64", "shape": [1, rows, len(channels)], "data": data}

    inputs = [
        {"name": "series", "datatype": "BYTES", "shape": [1], "data": [subject.series[0]]},
        {"name": "start", "datatype": "BYTES", "shape": [1], "data": [subject.start.isoformat()]},
        tensor("targets", config.targets, subject.lookback),
    ]
    if config.past_covariates:
        inputs.append(tensor("past", config.past_covariates, subject.lookback))
    if config.future_covariates:
        inputs.append(tensor("future", config.future_covariates, subject.lookback + subject.horizon))
    return {"one window": {"inputs": inputs, "parameters": {"horizon": subject.horizon}}}


def _invocation(subject: _Subject) -> dict[str, Any]:
    config = subject.dataset.config
    columns: dict[str, Any] = {"series": [subject.series[0]] * subject.lookback, "time": subject.times}
    columns |= subject.columns()
    if config.future_covariates:
        later = [(subject.start + config.step * (subject.lookback + row)).isoformat() for row in range(subject.horizon)]
        columns["series"] += [subject.series[0]] * subject.horizon
        columns["time"] += later
        for name in config.channels:
            columns[name] += subject.ahead().get(name, [None] * subject.horizon)
    return {"columns": {"inputs": columns, "params": {"horizon": subject.horizon}}}


def _new_job(subject: _Subject) -> dict[str, Any]:
    job = {"name": _NEW_JOB, "dataset": subject.dataset.name, "steps": ["ingest", "forecast"], "cron": "5 * * * *"}
    return {"every hour": job}


def _changes(_subject: _Subject) -> dict[str, Any]:
    return {"pause": {"paused": True}, "resume": {"paused": False}}


def _runs(_subject: _Subject) -> dict[str, Any]:
    return {"now": {}}


_BODIES: Mapping[str, Callable[[_Subject], dict[str, Any]]] = MappingProxyType(
    {
        "/v1/forecasts": _on_demand,
        "/v2/forecast": _nixtla,
        "/v2/models/{name}/infer": _infer,
        "/v2/models/{name}/versions/{version}/infer": _infer,
        "/invocations": _invocation,
        "/v1/jobs": _new_job,
        "/v1/jobs/{job}": _changes,
        "/v1/jobs/{job}/runs": _runs,
    }
)
