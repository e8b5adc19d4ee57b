"""Summary tiles of a forecast: next step, peak, uncertainty, and the change since the previous forecast."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from api.dashboard.figures.forecast import Line
from api.dashboard.formats import number, percent, short
from api.service import Service
from forecast.installation import Dataset
from forecast.monitoring.revision import Revision

_LATELY = timedelta(days=30)
_CAUSES = {"data": "new rows", "model": "a new champion", "covariates": "changed known-future covariates"}


@dataclass(frozen=True, slots=True)
class Tile:
    """One number with its meaning."""

    name: str
    value: str
    unit: str
    about: str


def tiles(line: Line, dataset: Dataset, service: Service, span: str) -> list[Tile]:
    """Return the tiles above the figure; ``span`` is the formatted horizon."""
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
            f"Peak of the median in {span}", number(float(line.median[peak])), unit,
            f"{short(times[peak], config.tz)}, up to {number(float(upper[peak]))}",
        ),
        Tile(
            "Uncertainty: half the band", f"± {number(float((upper - lower).mean() / 2))}", unit,
            _recent_coverage(dataset, service, channel) or f"half the mean width of the {band}; not scored yet",
        ),
        _changed(line, dataset, service, unit),
    ]  # fmt: skip


def _recent_coverage(dataset: Dataset, service: Service, channel: str) -> str:
    since = service.latest.now(dataset.name) - _LATELY
    found = service.installation.ledger.scores.accuracy(dataset.name, "all", since, channel=channel)
    if not found:
        return ""
    one = found[0]
    return f"the {percent(one.promised_coverage)} band held {percent(one.coverage)} of {one.count:,} recent values"


def _changed(line: Line, dataset: Dataset, service: Service, unit: str) -> Tile:
    name, channel = "Change since the previous forecast", line.forecast.channels[line.channel]
    revision = _revision(line, dataset, service)
    if revision is None or channel not in revision.by_channel:
        return Tile(name, "-", "", "no comparable previous forecast")
    moved = revision.by_channel[channel]
    why = max(revision.causes, key=lambda cause: revision.causes[cause], default=None)
    cause = f"; mainly due to {_CAUSES.get(why, why)}" if why and revision.causes[why] > 0 else ""
    return Tile(name, number(moved.mean), unit, f"mean change of the medians, largest {number(moved.largest)}{cause}")


def _revision(line: Line, dataset: Dataset, service: Service) -> Revision | None:
    return service.installation.ledger.revisions.latest(dataset.name, 60).get(line.forecast.issuance.forecast_id)
