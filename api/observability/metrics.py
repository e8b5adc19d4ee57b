"""Metrics for Prometheus: requests are counted as they come, gauges are read with each scrape.

No label contains what a client sends: routes are labelled as declared, methods and codes come from fixed sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, slots=True)
class Gauge:
    """One value that is read with each scrape."""

    name: str
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


class _Gauges(Collector):
    """Collects the gauges of all sources with each scrape."""

    def __init__(self, sources: list[Callable[[], Iterable[Gauge]]]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Return the gauges, grouped by name."""
        families: dict[str, GaugeMetricFamily] = {}
        for source in self._sources:
            for gauge in source():
                family = families.setdefault(
                    gauge.name, GaugeMetricFamily(gauge.name, gauge.help, labels=[key for key, _ in gauge.labels])
                )
                family.add_metric([value for _, value in gauge.labels], gauge.value)
        yield from families.values()

    def describe(self) -> list[Metric]:
        """Return nothing: the registry asks before the service has started."""
        return []


class Metrics:
    """The metrics of one serving process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._sources: list[Callable[[], Iterable[Gauge]]] = []
        self.registry.register(_Gauges(self._sources))
        self.in_flight = 0
        self._seconds = Histogram(
            "forecast_request_seconds",
            "Time until an answer begins.",
            ("route", "method", "status"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._observers: dict[tuple[str, str, int], Callable[[float], None]] = {}
        self._refused = Counter(
            "forecast_refused",
            "Requests refused before their route was called, by code.",
            ("code",),
            registry=self.registry,
        )
        self._answers = Counter(
            "forecast_answers",
            "Forecasts answered: not modified, from memory, or computed.",
            ("source",),
            registry=self.registry,
        )
        self._answered = {name: self._answers.labels(name).inc for name in ("not_modified", "memory", "computed")}
        self.add(lambda: [Gauge("forecast_requests_in_flight", "Requests in progress.", self.in_flight)])

    def add(self, source: Callable[[], Iterable[Gauge]]) -> None:
        """Read a source's gauges with each scrape; it must answer from memory."""
        self._sources.append(source)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answer."""
        key = (route, method if method in _METHODS else "other", status)
        observe = self._observers.get(key)
        if observe is None:
            observe = self._observers[key] = self._seconds.labels(key[0], key[1], str(status)).observe
        observe(seconds)

    def refused(self, code: str) -> None:
        """Count a refusal by its stable code."""
        self._refused.labels(code).inc()

    def answered(self, source: str) -> None:
        """Count an answered forecast by its source: not_modified, memory or computed."""
        self._answered[source]()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
