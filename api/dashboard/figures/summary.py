"""What a forecast says in a few numbers: the next step, the peak, how sure it is, what has changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from api.dashboard.figures.forecast import Line
from api.dashboard.formats import number, percent, short
from api.service import Service
from forecast.installation import Dataset
from forecast.monitoring.revision import Revision

_LATELY = timedelta(days=30)
_CAUSES = {"data": "new rows", "model": "another champion", "covariates": "other known-future covariates"}


@dataclass(frozen=True, slots=True)
class Tile:
    """One number and what it means."""

    name: str
    value: str
    unit: str
    about: str


def tiles(line: Line, dataset: Dataset, service: Service, span: str) -> list[Tile]:
    """Return the numbers above the figure."""
    config, channel = dataset.config, line.forecast.channels[line.channel]
    unit, times = config.channels[channel].unit, line.times(config)
    lower, upper, width = line.band
    peak = int(line.median.argmax())
    band = f"{percent(width)} band"
    return [
        Tile(
            f"Next step, {short(times[0], config.tz)}", number(float(line.median[0])), unit,
            f"{number(float(lower[0]))} to {number(float(upper[0]))} in the {band}",
        ),
        Tile(
            f"Highest median in {span}", number(float(line.median[peak])), unit,
            f"{short(times[peak], config.tz)}, up to {number(float(upper[peak]))}",
        ),
        Tile(
            "How sure: half the band", f"± {number(float((upper - lower).mean() / 2))}", unit,
            _held(dataset, service, channel) or f"on average of the {band}; not yet compared with what came true",
        ),
        _changed(line, dataset, service, unit),
    ]  # fmt: skip


def _held(dataset: Dataset, service: Service, channel: str) -> str:
    since = service.latest.now(dataset.name) - _LATELY
    found = service.installation.ledger.scores.accuracy(dataset.name, "all", since, channel=channel)
    if not found:
        return ""
    one = found[0]
    return f"lately the {percent(one.promised_coverage)} band held {percent(one.coverage)} of {one.count:,} values"


def _changed(line: Line, dataset: Dataset, service: Service, unit: str) -> Tile:
    name, channel = "Since the forecast before", line.forecast.channels[line.channel]
    revision = _revision(line, dataset, service)
    if revision is None or channel not in revision.by_channel:
        return Tile(name, "-", "", "there is none that it could be compared with")
    moved = revision.by_channel[channel]
    why = max(revision.causes, key=lambda cause: revision.causes[cause], default=None)
    cause = f"; mostly by {_CAUSES.get(why, why)}" if why and revision.causes[why] > 0 else ""
    return Tile(name, number(moved.mean), unit, f"mean change of the medians, {number(moved.largest)} at most{cause}")


def _revision(line: Line, dataset: Dataset, service: Service) -> Revision | None:
    return service.installation.ledger.revisions.latest(dataset.name, 60).get(line.forecast.issuance.forecast_id)
