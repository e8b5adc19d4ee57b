"""Nixtla's request and response format: concatenated series without names, and bands by level."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from api.answers.on_demand import MOST_POINTS, Numbers
from api.schemas.models import CHAMPION
from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from forecast.panel import Array, Panel
from forecast.runtime.manifest import Manifest
from forecast.runtime.model import Prediction
from forecast.vocabulary import MAX_HORIZON
from pipelines.forecasting.on_demand import from_columns

_FREQUENCY = re.compile(r"(\d{0,4})([A-Za-z]+)(?:-[A-Z]{3})?")
_UNITS = {
    "s": timedelta(seconds=1), "min": timedelta(minutes=1), "t": timedelta(minutes=1), "h": timedelta(hours=1),
    "d": timedelta(days=1), "w": timedelta(weeks=1),
}  # fmt: skip
_MOST_SERIES = 1_000


class _Body(BaseModel):
    # The client sends options of Nixtla's service; refuse_unsupported() refuses those that would change the answer.
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class NixtlaSeries(_Body):
    """All series, concatenated."""

    y: Numbers
    sizes: list[Annotated[int, Field(ge=1)]] = Field(min_length=1, max_length=_MOST_SERIES)
    X: list[Numbers] | None = Field(default=None, description="Known-future covariates, then past covariates.")
    X_future: list[Numbers] | None = None
    start_datetime: list[str] | None = Field(
        default=None, description="Start of each series; default: the series end with the newest row."
    )
    categorical_exog: list[int] | None = None


class NixtlaParameters(_Body):
    """``model_parameters`` of the client's call."""

    series: list[str] | None = Field(
        default=None,
        description='Name of each series, sorted by its id: "east", or "east/load" if the model has several targets.',
    )


class NixtlaRequest(_Body):
    """A forecast request of Nixtla's client."""

    series: NixtlaSeries
    freq: str = Field(max_length=20)
    h: int = Field(ge=1, le=MAX_HORIZON)
    model: str = Field(default="timegpt", max_length=200, description="Data set, or data set/version; see /v2/models.")
    level: list[Annotated[float, Field(ge=0, lt=100)]] | None = Field(default=None, max_length=100)
    finetune_steps: int = 0
    finetuned_model_id: str | None = Field(default=None, max_length=200)
    feature_contributions: bool = False
    model_parameters: NixtlaParameters | None = None


class NixtlaAnswer(BaseModel):
    """The forecasts, concatenated."""

    mean: list[float]
    intervals: dict[str, list[float]] | None = Field(description="``lo-80``, ``hi-80`` and so on.")
    weights_x: None = None
    feature_contributions: None = None
    input_tokens: int = 0
    output_tokens: int = 0
    finetune_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """The targets of one series, as indices of the series that were sent."""

    name: str
    places: tuple[int, ...]


def model_of(model: str, tuned: str | None = None) -> tuple[str | None, str]:
    """Return data set and model version of a model name; the data set is ``None`` for the default one.

    >>> model_of("timegpt-2.1"), model_of("plant"), model_of("plant/linear-20131102T023000-00534b")
    ((None, 'champion'), ('plant', 'champion'), ('plant', 'linear-20131102T023000-00534b'))
    """
    dataset, _, version = model.partition("/")
    named = None if dataset.startswith("timegpt") else dataset
    return named, tuned or version or CHAMPION


def refuse_unsupported(sent: NixtlaRequest, config: DatasetConfig) -> None:
    """Raise ``nixtla.unsupported`` for unsupported options, ``freq.differs``, ``series.sizes`` and so on."""
    series = sent.series
    for is_wanted, option in (
        (sent.finetune_steps > 0, "finetune_steps"),
        (sent.feature_contributions, "feature_contributions"),
        (bool(series.categorical_exog), "categorical_exog"),
    ):
        if is_wanted:
            raise DataError("nixtla.unsupported", f"this service does not support {option}", "leave it out")
    if step_of(sent.freq) != config.step:
        raise DataError(
            "freq.differs", f"freq is not the data set's frequency, {config.frequency}", "send the data set's freq"
        )
    if sum(series.sizes) != len(series.y):
        raise DataError("series.sizes", "the sizes do not add up to the values of y", "send the length of each series")
    known, past, count = len(config.future_covariates), len(config.past_covariates), len(series.sizes)
    if len(series.X or ()) != known + past or len(series.X_future or ()) != known:
        raise DataError(
            "series.covariates",
            f"the model takes {known} known-future covariates (X_df) and {past} past covariates (hist_exog_list)",
            "send them in the order of the data set's channels",
        )
    if any(len(values) != len(series.y) for values in series.X or ()) or any(
        len(values) != count * sent.h for values in series.X_future or ()
    ):
        raise DataError("series.covariates", "X or X_future lacks a value for some steps", "send a value for each step")
    if series.start_datetime is not None and len(series.start_datetime) != count:
        raise DataError(
            "series.start_datetime", "start_datetime does not have one entry per series", "send one entry per series"
        )
    if count * sent.h > MOST_POINTS:
        raise DataError("forecast.too_long", f"the request exceeds {MOST_POINTS} values", "use num_partitions")


def step_of(freq: str) -> timedelta | None:
    """Return the step of a pandas frequency; ``None`` if it has no fixed length.

    >>> step_of("15min"), step_of("h"), step_of("MS")
    (datetime.timedelta(seconds=900), datetime.timedelta(seconds=3600), None)
    """
    found = _FREQUENCY.fullmatch(freq)
    unit = _UNITS.get(found[2].lower()) if found and found[2] not in {"M", "MS"} else None
    return None if found is None or unit is None else int(found[1] or 1) * unit


def grouped(sent: NixtlaRequest, manifest: Manifest) -> list[Group]:
    """Assign the sent series, which have no names, to the model's series and targets.

    By ``model_parameters`` if given; otherwise in the order of the model's names, if their number is the model's;
    otherwise, for a model with one target, as unknown series. Raises ``series.unnamed``.
    """
    targets, count = manifest.targets, len(sent.series.sizes)
    trained = list(manifest.scaler.targets)
    names = [name if len(targets) == 1 else f"{name}/{target}" for name in trained for target in targets]
    given = sent.model_parameters.series if sent.model_parameters else None
    if given is None and len(targets) == 1 and count != len(names):
        return [Group(f"series {place}", (place,)) for place in range(count)]
    if given is None and count == len(names):
        given = sorted(names)
    if given is None or len(given) != count or not set(given) <= set(names) or len(set(given)) != count:
        raise _unnamed(names)
    found = {name: place for place, name in enumerate(given)}
    groups = []
    for name in trained:
        own = [name if len(targets) == 1 else f"{name}/{target}" for target in targets]
        if not found.keys() & set(own):
            continue
        if not set(own) <= found.keys():
            raise _unnamed(names)
        groups.append(Group(name, tuple(found[one] for one in own)))
    return groups


def _unnamed(names: Sequence[str]) -> DataError:
    shown = ", ".join(f'"{name}"' for name in names[:6]) + (", ..." if len(names) > 6 else "")
    return DataError(
        "series.unnamed",
        "the series have no names, and their number does not identify them",
        f"name each of them in model_parameters={{'series': [{shown}]}}, in the order of their ids",
    )


def panel_of(group: Group, sent: NixtlaRequest, config: DatasetConfig, end: datetime) -> Panel:
    """Return the panel of one series; without ``start_datetime`` it ends before ``end``.

    Raises ``start_datetime.malformed`` and what ``pipelines.forecasting.on_demand.from_columns`` does.
    """
    series, begins = sent.series, [0]
    for size in sent.series.sizes:
        begins.append(begins[-1] + size)
    first = group.places[0]
    steps = series.sizes[first]
    inside, ahead = slice(begins[first], begins[first] + steps), slice(first * sent.h, (first + 1) * sent.h)
    columns: dict[str, Sequence[float | None]] = {
        target: series.y[begins[place] : begins[place + 1]]
        for target, place in zip(config.targets, group.places, strict=True)
    }
    covariates = (*config.future_covariates, *config.past_covariates)
    columns |= {name: values[inside] for name, values in zip(covariates, series.X or (), strict=True)}
    future = {name: values[ahead] for name, values in zip(config.future_covariates, series.X_future or (), strict=True)}
    start = end - config.step * steps if series.start_datetime is None else _start(series.start_datetime[first], config)
    return from_columns(start, {group.name: columns}, {group.name: future}, config, (group.name,))


def _start(text: str, config: DatasetConfig) -> datetime:
    try:
        read = datetime.fromisoformat(text)
        return read if read.tzinfo else read.replace(tzinfo=config.tz)  # wall times of the data set
    except ValueError:
        raise DataError(
            "start_datetime.malformed", "a start_datetime is not ISO 8601", "write it like 2024-01-31T17:00:00"
        ) from None


def bands(level: Sequence[float], trained: Sequence[float]) -> dict[str, int]:
    """Return the names of the bands' edges, and the index of each among the trained quantile levels.

    Raises ``quantiles.not_trained``.

    >>> bands([80], (0.1, 0.5, 0.9))
    {'lo-80': 0, 'hi-80': 2}
    """
    found = {}
    for width in level:
        for side, wanted in (("lo", (100 - width) / 200), ("hi", (100 + width) / 200)):
            near = [place for place, known in enumerate(trained) if abs(known - wanted) < 1e-9]
            if not near:
                known = ", ".join(f"{100 * (2 * one - 1):g}" for one in trained if one >= 0.5)
                raise DataError("quantiles.not_trained", "a level was not trained", f"available are {known}")
            found[f"{side}-{width:g}"] = near[0]
    return found


def answered(groups: Mapping[Group, Prediction], count: int, edges: Mapping[str, int] | None) -> dict[str, Any]:
    """Return the response, with forecasts in the order in which the series were sent."""
    means: list[Array | None] = [None] * count
    quantiles: list[Array | None] = [None] * count
    for group, made in groups.items():
        for channel, place in enumerate(group.places):
            means[place], quantiles[place] = made.mean[0, :, channel], made.quantiles[0, :, channel]
    answer = NixtlaAnswer(
        mean=[value for one in means if one is not None for value in one.tolist()],
        intervals=None
        if edges is None
        else {
            name: [value for one in quantiles if one is not None for value in one[:, at].tolist()]
            for name, at in edges.items()
        },
    )
    return answer.model_dump()
