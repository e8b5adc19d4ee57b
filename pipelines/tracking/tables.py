"""Scores as tables: Markdown for notes, columns for a JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forecast.config.dataset import DatasetConfig
from forecast.evaluation.promotion import Verdict
from forecast.evaluation.scores import ChannelScores, Evidence, Scores


def leaderboard_table(leaderboard: Sequence[Evidence], names: Mapping[str, str], config: DatasetConfig) -> str:
    """Return the main scores of all models; ``names`` has the label of each model version."""
    head = ("model", "pinball", *(f"MAE {horizon}" for horizon in config.horizons), "MASE", "coverage", "latency")
    rows = [
        (
            names[one.model_version],
            f"{one.pinball:.4f}",
            *(f"{one.by_horizon[horizon].mae:.3f}" for horizon in config.horizons),
            f"{one.overall.mase:.3f}",
            f"{one.overall.coverage:.1%}",
            f"{one.smoke_test.latency_ms:.1f} ms",
        )
        for one in leaderboard
    ]
    return _markdown(head, rows)


def guards_table(verdict: Verdict) -> str:
    """Return the guards and their results for the challenger."""
    rows = [(one.name, "yes" if one.passed else "**no**", one.message) for one in verdict.guards]
    return _markdown(("guard", "met", "seen"), rows)


def scores_table(evidence: Evidence) -> str:
    """Return all scores of one model by horizon."""
    rows = [(str(horizon), *(f"{value:.4f}" for _, value in of)) for horizon, of in evidence.by_horizon.items()]
    return _markdown(("up to step", *Scores.model_fields), rows)


def all_scores(evidence: Evidence) -> dict[str, list[object]]:
    """Return all scores by horizon, channel and series as columns; only channels have scores in their units."""
    parts: list[tuple[str, str, Scores]] = [
        *(("horizon", str(horizon), of) for horizon, of in evidence.by_horizon.items()),
        *(("channel", channel, of) for channel, of in evidence.by_channel.items()),
        *(("series", series, of) for series, of in evidence.by_series.items()),
    ]
    columns: dict[str, list[object]] = {
        "of": [kind for kind, _, _ in parts],
        "which": [name for _, name, _ in parts],
    }
    return columns | {field: [getattr(of, field, None) for _, _, of in parts] for field in ChannelScores.model_fields}


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # MLflow renders tables without padding between columns.
    spaced = [[f"{cell}&nbsp;&nbsp;&nbsp;" for cell in cells] for cells in (head, *rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (spaced[0], ["---"] * len(head), *spaced[1:]))
