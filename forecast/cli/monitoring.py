"""Commands about served forecasts: their accuracy and the alerts about them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from forecast.cli.options import DatasetArgument, HomeOption, JsonOption, open_installation
from forecast.cli.output import OUT, print_json
from forecast.ledger.alerts import Alert
from forecast.monitoring.live_scores import Accuracy
from forecast.monitoring.revision import Revision
from forecast.vocabulary import before


class AccuracyBy(StrEnum):
    """Grouping of the accuracy table: it has one row per member of the group."""

    ALL = "all"
    LEAD_TIME = "lead_time"
    LEAD_GROUP = "lead_group"
    CHANNEL = "channel"
    MODEL = "model"
    SERIES = "series"


def score(name: DatasetArgument = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Score issued forecasts against newer observations, correct quantiles, raise and resolve alerts."""
    from pipelines.monitoring.score import score as run_score

    dataset = open_installation(home).dataset(name)
    scored = run_score(dataset)
    if as_json:
        print_json(scored)
        return
    OUT.print(f"{dataset.name}: {scored.message}", markup=False)
    for message in scored.raised:
        OUT.print(f"  raised: {message}", markup=False, style="red")
    for message in scored.resolved:
        OUT.print(f"  resolved: {message}", markup=False, style="green")


def accuracy(
    name: DatasetArgument = None,
    by: Annotated[AccuracyBy, typer.Option(help="Grouping of the rows.")] = AccuracyBy.LEAD_GROUP,
    window: Annotated[
        str | None,
        typer.Option(
            help="Period of forecast origins up to now, such as 30d. Default: all forecasts.", show_default=False
        ),
    ] = None,
    channel: Annotated[str | None, typer.Option(help="Only this channel.", show_default=False)] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the accuracy of served forecasts, and the change of the latest forecast since the previous one."""
    dataset = open_installation(home).dataset(name)
    since = None if window is None else before(dataset.clock.now(), window)
    ledger = dataset.ledger
    rows = ledger.scores.accuracy(dataset.name, by.value, since, channel=channel)
    latest = next(iter(ledger.revisions.latest(dataset.name, 1).items()), None)
    open_alerts = ledger.alerts.find(dataset.name, open_only=True)
    if as_json:
        revision = None if latest is None else {"forecast_id": latest[0], **latest[1].model_dump(mode="json")}
        print_json(
            {
                "dataset": dataset.name, "by": by.value, "since": since, "rows": rows, "revision": revision,
                "alerts": open_alerts,
            }
        )  # fmt: skip
        return
    if not rows:
        OUT.print(
            f'{dataset.name}: no scores yet; "forecast score {dataset.name}" scores forecasts against observations'
        )
    else:
        OUT.print(_accuracy_table(rows, dataset.name, by, since))
    if latest is not None:
        OUT.print(revision_summary(latest[1]), markup=False)
    for alert in open_alerts:
        OUT.print(f"open since {alert.raised_at:%Y-%m-%d %H:%M} UTC: {alert.message}", markup=False, style="red")


def alerts(
    name: DatasetArgument = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only open alerts.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number, newest first.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show alerts: open ones and recently resolved ones."""
    dataset = open_installation(home).dataset(name)
    found = dataset.ledger.alerts.find(dataset.name, open_only=only_open, limit=limit)
    if as_json:
        print_json(found)
    else:
        OUT.print(_alerts_table(found))


def revision_summary(revision: Revision) -> str:
    """Return a sentence on the latest forecast's change since the previous one, and its causes."""
    causes = ", ".join(f"{cause} {change:.3f}" for cause, change in revision.causes.items())
    return (
        f"the latest forecast changed by {revision.change.mean:.3f} standard deviations over {revision.steps} steps "
        f"(at most {revision.change.largest:.3f}); by cause: {causes}"
    )


def _accuracy_table(rows: list[Accuracy], name: str, by: AccuracyBy, since: datetime | None) -> Table:
    window = "" if since is None else f", origins since {since:%Y-%m-%d}"
    table = Table(
        title=f"{name}: served forecasts{window}, in standard deviations of each channel",
        title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column(by.value.replace("_", " "), no_wrap=True)
    headings = (
        "values", "MAE", "RMSE", "MASE", "pinball", "coverage", "nominal", "width", "skill vs naive", "MAE in units",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            escape(row.part), f"{row.count:,}", f"{row.mae:.3f}", f"{row.rmse:.3f}", _number(row.mase),
            f"{row.pinball:.4f}", f"{row.coverage:.1%}", f"{row.promised_coverage:.0%}", f"{row.width:.3f}",
            "-" if row.skill is None else f"{row.skill:+.1%}", _number(row.mae_in_units),
        )  # fmt: skip
    return table


def _alerts_table(found: list[Alert]) -> Table:
    table = Table(title="alerts", title_justify="left")
    for heading in ("alert", "kind", "raised", "resolved", "message"):
        table.add_column(heading, overflow="fold")
    for alert in found:
        resolved = "[red]open[/]" if alert.resolved_at is None else f"{alert.resolved_at:%Y-%m-%d %H:%M}"
        table.add_row(
            str(alert.sequence), alert.kind, f"{alert.raised_at:%Y-%m-%d %H:%M}", resolved, escape(alert.message)
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
