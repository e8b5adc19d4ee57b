"""The config file ``forecast.toml``: data sets and jobs. A mistake is an error that names its place and its remedy."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from forecast.config.alerts import AlertRule
from forecast.config.channels import Channel
from forecast.config.dataset import DatasetConfig
from forecast.config.jobs import JOB_NAME, Job
from forecast.config.sources import Source
from forecast.config.splits import Splits
from forecast.config.training import PromotionPolicy, Training
from forecast.errors import ConfigError, ForecastError, NotFoundError, StorageError, nearest
from forecast.strict import StrictModel

_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


class ConfigFile(StrictModel):
    """The whole of ``forecast.toml``."""

    datasets: dict[Annotated[str, Field(pattern=_NAME)], DatasetConfig] = Field(min_length=1)
    jobs: dict[Annotated[str, Field(pattern=JOB_NAME)], Job] = Field(default_factory=dict)
    """Scheduled jobs by name; the command line and REST can define more."""

    @model_validator(mode="after")
    def _jobs_have_data_sets(self) -> Self:
        for name, job in self.jobs.items():
            try:
                self.check_job(name, job)
            except ForecastError as error:
                raise ValueError(str(error)) from error
        return self

    def check_job(self, name: str, job: Job) -> None:
        """Raise ``job.no_data_set`` if the job refers to a data set that this file does not define."""
        if job.dataset not in self.datasets:
            raise ConfigError(
                "job.no_data_set", f'job "{name}" refers to data set "{job.dataset}", which does not exist',
                nearest(job.dataset, self.datasets),
            )  # fmt: skip

    def dataset(self, name: str | None) -> tuple[str, DatasetConfig]:
        """Return name and config of a data set; without a name, those of the only one.

        Raises ``dataset.unknown``, and ``dataset.ambiguous`` without a name among several data sets.
        """
        if name is None:
            if len(self.datasets) > 1:
                raise ConfigError(
                    "dataset.ambiguous",
                    f"the config file has {len(self.datasets)} data sets",
                    f"name one of: {', '.join(self.datasets)}",
                )
            name = next(iter(self.datasets))
        if name not in self.datasets:
            raise NotFoundError("dataset.unknown", f'no data set "{name}"', nearest(name, self.datasets))
        return name, self.datasets[name]


def load_config_file(path: Path) -> ConfigFile:
    """Read and validate a config file.

    Raises ``job_file.unreadable``, ``job_file.malformed`` (not TOML), or ``job_file.invalid``: one error that lists
    every mistake with its place and remedy.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(
            "job_file.unreadable", f'cannot read "{path}" ({error.strerror})', "check the path and its permissions"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            "job_file.malformed", f'"{path}" is not valid TOML: {error}', "correct the line that the message names"
        ) from error
    try:
        return ConfigFile.model_validate(document)
    except ValidationError as error:
        mistakes = [_describe(item) for item in error.errors()]
        raise ConfigError("job_file.invalid", f'"{path.name}": ' + "\n  ".join(mistakes), "") from error


def _describe(item: ErrorDetails) -> str:
    # pydantic puts the tag of the source union into the location; the file has no table of that name.
    at = item["loc"][:3] + item["loc"][4:] if item["loc"][2:3] == ("source",) else item["loc"]
    place = ".".join(str(part) for part in at)
    if item["type"] == "extra_forbidden" and item["loc"][2:] == ("schedule",):
        return f'"{place}" is no longer a field; define [jobs.<name>] instead, see docs/operating.md'
    if item["type"] == "extra_forbidden":
        fields = _fields_at(item["loc"][:-1])
        return f'"{place}" is not a field; {nearest(str(item["loc"][-1]), fields)}'
    if item["type"] == "missing":
        return f'"{place}" is missing'
    return f'"{place or "file"}": {item["msg"].removeprefix("Value error, ")}'


def _fields_at(location: tuple[int | str, ...]) -> Mapping[str, Any]:
    """Return the fields that the config file may have at a location."""
    tables: dict[str, type[BaseModel]] = {
        "channels": Channel, "splits": Splits, "training": Training, "promotion": PromotionPolicy,
        "alerts": AlertRule,
    }  # fmt: skip
    match location:
        case ():
            return ConfigFile.model_fields
        case ("jobs", *_):
            return Job.model_fields
        case (_, _):  # datasets, and a data set's name
            return DatasetConfig.model_fields
        case (_, _, "source", str(kind)):
            return _SOURCES[kind].model_fields
        case (_, _, table, *_):
            return tables[str(table)].model_fields
        case _:  # pragma: no cover - the names of data sets are free
            return {}


_SOURCES: Mapping[str, type[BaseModel]] = {
    kind: source
    for source in get_args(get_args(Source)[0])
    for kind in get_args(source.model_fields["kind"].annotation)
}
