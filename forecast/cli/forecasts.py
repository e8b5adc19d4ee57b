"""Commands about issued forecasts: recompute one, make one for a past instant."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape

from forecast.cli.options import DatasetArgument, HomeOption, JsonOption, opened
from forecast.cli.output import OUT, print_json
from forecast.errors import ConflictError


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (replay, backfill):
        app.command()(command)


def replay(
    forecast_id: Annotated[str, typer.Argument(help="Id of an issued forecast.", show_default=False)],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute an issued forecast from the rows and the model that made it, and say how far it comes out otherwise."""
    from pipelines.forecasting.recompute import TOLERANCE, recompute

    installation = opened(home)
    found = recompute(forecast_id, installation)
    if as_json:
        print_json(dataclasses.asdict(found) | {"tolerance": TOLERANCE, "agrees": found.agrees})
    else:
        same = "exactly the same" if found.exact else "the same within the tolerance" if found.agrees else "otherwise"
        OUT.print(
            f"[bold]{escape(found.dataset)}[/]: forecast {found.forecast_id} comes out {same}\n"
            f"  from data version {found.data_version} with {escape(found.model_version)}; largest difference "
            f"{found.largest_difference:g}, {found.largest_relative:.1e} of its channel's largest value"
        )
        units = installation.config.datasets[found.dataset].channels
        for channel, difference in found.channels.items():
            OUT.print(f"  {channel}: {difference:g} {units[channel].unit}", markup=False)
        for name, (then, now) in found.otherwise.items():
            OUT.print(f"  {name} was {then}, is {now}", markup=False)
    if not found.agrees:
        raise ConflictError(
            "replay.differs",
            f"forecast {forecast_id} comes out otherwise: by {found.largest_relative:.1e} of a channel's largest "
            f"value, more than {TOLERANCE:g}",
            _remedy(found.otherwise),
        )


def backfill(
    as_of: Annotated[
        datetime,
        typer.Option(help="Instant of the past, UTC: rows and champion are those of then.", show_default=False),
    ],
    dataset: DatasetArgument = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a forecast as it would have been issued at a past instant; it is kept for scoring and never served."""
    from pipelines.forecasting.issue import issue

    installation = opened(home)
    name, _ = installation.config.dataset(dataset)
    issuance, is_new = issue(installation.dataset(name), as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC))
    if as_json:
        print_json({"issuance": issuance, "is_new": is_new})
        return
    message = "back-filled" if is_new else "was back-filled already"
    seen = issuance.provenance is not None and issuance.provenance.hindsight
    OUT.print(
        f"[bold]{escape(name)}[/]: forecast {issuance.forecast_id} {message}\n"
        f"  {issuance.horizon} steps from {issuance.origin:%Y-%m-%d %H:%M} UTC, data version {issuance.data_version}, "
        f"model {escape(issuance.model_version)}" + (", which became champion later" if seen else "")
    )


def _remedy(otherwise: object) -> str:
    if not otherwise:
        return "nothing that the issuance tells of is otherwise: look at the job file, libraries and processor"
    return "see what else is otherwise than it was"
