"""Output of the command line: tables and sentences, or JSON with ``--json``."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from forecast.config.dataset import DatasetConfig
from forecast.errors import ForecastError
from forecast.evaluation.metrics import skill
from forecast.evaluation.night import NightRecord
from forecast.evaluation.promotion import Verdict
from forecast.evaluation.scores import Evidence
from forecast.ledger.champions import Champion
from forecast.ledger.issuance import Issuance
from forecast.ledger.receipts import IngestFinding, Receipt
from forecast.ledger.run import Run
from forecast.vocabulary import Action

OUT = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)
ERR = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

NAIVE, LINEAR = "seasonal_naive", "linear"


def print_json(value: object) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def print_error(error: ForecastError, *, as_json: bool) -> None:
    """Print an error as one line on standard error: fact, remedy, code."""
    if as_json:
        sys.stderr.write(json.dumps({"code": error.code, "message": error.fact, "remedy": error.remedy}) + "\n")
    else:
        ERR.print(f"[bold red]error[/]: {escape(str(error))} [dim]({error.code})[/]")


def print_receipt(receipt: Receipt) -> None:
    """Print the counts of an ingestion and its findings."""
    if receipt.data_version is None:
        done = "nothing was written"
    else:
        outdated = f", {receipt.outdated:,} outdated" if receipt.outdated else ""
        done = (
            f"[green]{receipt.new:,} new[/], {receipt.changed:,} changed, {receipt.unchanged:,} unchanged{outdated}; "
            f"data version {receipt.data_version}"
        )
    OUT.print(f"[bold]{receipt.dataset}[/]: {receipt.rows:,} rows of {len(receipt.series)} series ({done})")
    if receipt.first and receipt.last:
        OUT.print(f"  from {receipt.first:%Y-%m-%d %H:%M} to {receipt.last:%Y-%m-%d %H:%M} UTC")
    if receipt.quarantined:
        if receipt.data_version is None:
            OUT.print(f"  [red]{receipt.quarantined:,} rows would be quarantined[/]")
        else:
            remedy = f'run "forecast quarantine {receipt.dataset}" to see them'
            OUT.print(f"  [red]{receipt.quarantined:,} rows quarantined[/]; {remedy}")
    if receipt.findings:
        OUT.print(_findings_table(receipt.findings))


_ONE_PARAGRAPH = 150
_COLOURS = {Action.REJECT: "red", Action.QUARANTINE: "red", Action.REPAIR: "cyan", Action.WARN: "yellow"}


def _findings_table(findings: Sequence[IngestFinding]) -> Table:
    table = Table(box=None, pad_edge=True, padding=(0, 2, 0, 0))
    table.add_column("action")
    table.add_column("count", justify="right")
    table.add_column("finding", overflow="fold")
    table.add_column("examples", overflow="fold", style="dim")
    for item in findings:
        action = f"[{_COLOURS[item.action]}]{item.action}[/]"
        finding = f"{escape(item.message)} [dim]({item.code})[/]"
        separator = ", " if sum(map(len, item.first)) < _ONE_PARAGRAPH else "\n"
        table.add_row(action, f"{item.count:,}", finding, escape(separator.join(item.first)))
    return table


def receipts_table(receipts: Sequence[Receipt]) -> Table:
    """Return receipts as a table, newest first."""
    table = Table(title="receipts", title_justify="left")
    for name in ("time", "sources", "findings", "data version"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "new", "changed", "quarantined"):
        table.add_column(name, justify="right")
    for item in receipts:
        found = ", ".join(f"{one.code.removeprefix('ingest.')} {one.count:,}" for one in item.findings)
        counts = (item.rows, item.new, item.changed, item.quarantined)
        table.add_row(
            f"{item.recorded_at:%Y-%m-%d %H:%M}", escape(", ".join(item.sources[:3])), escape(found),
            str(item.data_version), *[f"{count:,}" for count in counts],
        )  # fmt: skip
    return table


def quarantine_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return quarantined rows as a table."""
    table = Table(title="quarantine", title_justify="left")
    for name in ("time", "source", "row", "reason", "original row"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(
            f"{row['recorded_at']:%Y-%m-%d %H:%M}", escape(row["source"]), str(row["row"]),
            f"{escape(row['reason'])} [dim]({escape(row['code'])})[/]", escape(row["content"]),
        )  # fmt: skip
    return table


def print_night(night: NightRecord, config: DatasetConfig) -> None:
    """Print the scores of a night's models, the models that a baseline beats, and the verdict with its reasons."""
    OUT.print(leaderboard(night, config))
    for sentence in beaten(night):
        OUT.print(sentence, style="red", markup=False)
    for item in night.leaderboard:
        if item.smoke_test.variants is not None:
            OUT.print(f"{item.model_version} {item.smoke_test.variants.summary}", markup=False)
    for model, reason in night.failures.items():
        OUT.print(f"{model} was left out: {reason}", style="red", markup=False)
    if night.verdict.comparisons and night.champion_evidence:
        OUT.print(_comparisons_table(night.verdict, config))
    for guard in night.verdict.guards:
        if not guard.passed:
            OUT.print(f"guard {guard.name}: {guard.message}", style="red", markup=False)
    OUT.print(night.verdict.sentence, markup=False, style="bold")


def night_document(night: NightRecord) -> dict[str, Any]:
    """Return the JSON document of a night: its models best first, without the losses of each origin."""
    return night.model_dump(mode="json", exclude={"candidates", "champion_evidence"}) | {
        "leaderboard": [
            one.model_dump(mode="json", exclude={"group_losses"})
            | {"pinball": one.pinball, "coverage": one.overall.coverage}
            for one in night.leaderboard
        ]
    }


def leaderboard(night: NightRecord, config: DatasetConfig) -> Table:
    """Return the scores of a night as a table, best first; negative skill against a baseline is red."""
    rows = night.leaderboard
    naive, linear = _pinball(rows, NAIVE), _pinball(rows, LINEAR)
    table = Table(
        title=f"{night.dataset}: {rows[0].windows} held-out windows of {night.origins} origins, "
        f"{night.holdout_from:%Y-%m-%d} to {night.holdout_until:%Y-%m-%d}, "
        "in standard deviations of each channel; ★ is champion",
        title_justify="left",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("model", no_wrap=True)
    table.add_column("pinball", justify="right")
    for horizon in config.horizons:
        table.add_column(f"MAE {horizon}", justify="right")
    table.add_column("MASE", justify="right")
    table.add_column(f"covers\n{rows[0].promised_coverage:.0%}", justify="right")
    table.add_column("skill vs\nseasonal\nnaive", justify="right")
    table.add_column("skill vs\nlinear", justify="right")
    for item in rows:
        is_champion = item.model_version == night.champion
        table.add_row(
            f"[bold green]★ {escape(item.model_version)}[/]" if is_champion else f"  {escape(item.model_version)}",
            f"{item.pinball:.4f}",
            *[f"{item.by_horizon[horizon].mae:.3f}" for horizon in config.horizons],
            f"{item.overall.mase:.3f}",
            f"{item.overall.coverage:.1%}",
            _skill(item.pinball, naive),
            _skill(item.pinball, linear),
        )
    return table


def beaten(night: NightRecord) -> list[str]:
    """Return a sentence for each model that a baseline beats, with the difference of their losses."""
    bar = night.best_baseline
    if bar is None:
        return []
    more = [one.pinball / bar.pinball - 1 if bar.pinball else math.inf for one in night.beaten]
    return [
        f"{night.display_name(one)} does not beat {night.display_name(bar)}: its loss is "
        + (f"{share:+.1%}" if math.isfinite(share) else f"{one.pinball:g}")
        for one, share in zip(night.beaten, more, strict=True)
    ]


def _comparisons_table(verdict: Verdict, config: DatasetConfig) -> Table:
    table = Table(title=f"{verdict.challenger} against {verdict.champion}", title_justify="left")
    table.add_column(f"lead times ({config.frequency} steps)")
    for name in ("gain", "p-value of the gain", "p-value of the loss"):
        table.add_column(name, justify="right")
    for item in verdict.comparisons:
        chances = ["too few origins" if p is None else f"{p:.3f}" for p in (item.p_better, item.p_worse)]
        colour = "green" if item.gain >= 0 else "red"
        table.add_row(f"{item.first} to {item.last}", f"[{colour}]{item.gain:+.1%}[/]", *chances)
    return table


def champions_table(champions: Sequence[Champion]) -> Table:
    """Return the present and past champions as a table, newest first."""
    table = Table(title="champions", title_justify="left")
    for name in ("since", "model version", "verdict"):
        table.add_column(name, overflow="fold")
    for number, champion in enumerate(champions):
        version = escape(champion.model_version)
        table.add_row(
            f"{champion.promoted_at:%Y-%m-%d %H:%M} UTC",
            f"[bold green]★ {version}[/]" if number == 0 else f"  {version}",
            escape(champion.verdict),
        )
    return table


def print_issuance(issuance: Issuance, config: DatasetConfig, *, is_new: bool) -> None:
    """Print an issued forecast: its id, steps, origin, model and data version."""
    OUT.print(
        f"[bold]{issuance.dataset}[/]: forecast {issuance.forecast_id} "
        f"{'[green]issued[/]' if is_new else 'issued already, still valid'}\n"
        f"  {issuance.horizon} steps of {config.frequency} "
        f"from {issuance.origin.astimezone(config.tz):%Y-%m-%d %H:%M %Z}, "
        f"model {escape(issuance.model_version)}, data version {issuance.data_version}, "
        f"{issuance.imputed_fraction:.1%} of the look-back imputed"
    )


def runs_table(runs: Sequence[Run]) -> Table:
    """Return runs of jobs as a table, newest first."""
    table = Table(title="runs", title_justify="left")
    for name in ("run", "job", "logical date", "state", "reason"):
        table.add_column(name, overflow="fold")
    colours = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "coalesced": "dim"}
    for run in runs:
        colour = colours.get(run.state, "white")
        table.add_row(
            str(run.run_id), escape(run.job), run.logical_date, f"[{colour}]{run.state}[/]", escape(run.reason or "")
        )
    return table


def _pinball(rows: Sequence[Evidence], name: str) -> float | None:
    found = [item.pinball for item in rows if item.model_name == name]
    return min(found) if found else None


def _skill(loss: float, reference: float | None) -> str:
    if reference is None:
        return "-"
    value = skill(loss, reference)
    return f"[red]{value:+.1%}[/]" if value < 0 else f"{value:+.1%}"


def _plain(value: Any) -> Any:  # noqa: PLR0911  # one line per kind of value
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):  # JSON has neither NaN nor infinity
        return None
    return value
