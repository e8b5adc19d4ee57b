"""Goals of the service, and the measured values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figures:
    """All measured figures."""

    loads: Mapping[tuple[str, str], Mapping[str, Any]]
    """By case and side."""
    single: Mapping[str, float]

    def ratio(self, name: str, one: tuple[str, str], other: tuple[str, str]) -> float:
        """Return the ratio of a figure under two loads."""
        return float(self.loads[one][name]) / float(self.loads[other][name])


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound and the measured value."""

    goal: str
    reached: float
    bound: str
    met: bool


def goals(figures: Figures) -> list[Goal]:
    """Return the goals whose figures were measured."""
    reached = [
        _least(
            "cached reads: requests/s, share of a bare route", _of(figures, "requests_per_second", "cached read"), 0.7
        ),
        _most("cached reads: p99, times a bare route", _of(figures, "p99_ms", "cached read"), 2),
        _most("on demand alone, inside the service: ms", figures.single["whole"], 3),
        _most("on demand alone, over the socket: ms", float(figures.loads["on demand, alone", "service"]["p50_ms"]), 3),
        _most(
            "cached reads beside a training: p99, times the idle one",
            figures.ratio("p99_ms", ("cached read beside a training", "service"), ("cached read, idle", "service")), 3,
        ),
        _most("start until /readyz: s", figures.single["start_seconds"], 5),
        _most("resident memory with three data sets after the load: MB", figures.single["resident_mb"], 400),
    ]  # fmt: skip
    share = _of(figures, "requests_per_second", "on demand")
    if ("on demand", "mlflow models serve") in figures.loads:
        times = _of(figures, "requests_per_second", "on demand", "mlflow models serve")
        reached += [
            Goal(
                "on demand, 32 clients: requests/s, times mlflow models serve", round(times, 2),
                f">= 5, or 0.6 of a bare route that reads the body (reached {share:.2f})", times >= 5 or share >= 0.6,
            ),
            _most(
                "on demand, 32 clients: p99, times mlflow models serve",
                _of(figures, "p99_ms", "on demand", "mlflow models serve"), 0.25,
            ),
        ]  # fmt: skip
    if ("on demand", "darts") in figures.loads:
        times = _of(figures, "requests_per_second", "on demand", "darts")
        reached.append(_least("on demand, 32 clients: requests/s, times darts' predict per request", times, 20))
    return reached


def _of(figures: Figures, name: str, case: str, other: str = "bare route") -> float:
    return figures.ratio(name, (case, "service"), (case, other))


def _least(goal: str, reached: float, bound: float) -> Goal:
    return Goal(goal, round(reached, 2), f">= {bound:g}", reached >= bound)


def _most(goal: str, reached: float, bound: float) -> Goal:
    return Goal(goal, round(reached, 2), f"<= {bound:g}", reached <= bound)
