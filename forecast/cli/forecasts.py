"""Commands about forecasts: issue one, plot the latest, recompute one, or reissue one as of a past instant."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape

from forecast.cli.options import DatasetArgument, HomeOption, HorizonOption, JsonOption, open_installation
from forecast.cli.output import OUT, print_issuance, print_json
from forecast.errors import ConflictError, UnavailableError
from forecast.installation import Dataset
from forecast.vocabulary import Horizon


def issue(
    name: DatasetArgument = None,
    horizon: HorizonOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue a forecast from the newest rows with the champion, and write it as an HTML report."""
    if horizon is not None:
        Horizon(horizon)
    dataset = open_installation(home).dataset(name)
    issue_and_report(dataset, horizon, as_json=as_json)


def issue_and_report(dataset: Dataset, horizon: int | None, *, as_json: bool) -> None:
    """Issue a forecast, write its HTML report with ``horizon`` steps (the trained horizon if None), and print both."""
    from pipelines.forecasting.issue import issue as run_issue
    from pipelines.forecasting.report import write_report

    issuance, is_new = run_issue(dataset)
    report = write_report(dataset, issuance, horizon)
    if as_json:
        print_json({"issuance": issuance, "is_new": is_new, "report": str(report)})
    else:
        print_issuance(issuance, dataset.config, is_new=is_new)
        OUT.print(f"  plot: {report}", markup=False, soft_wrap=True)


def plot(
    name: DatasetArgument = None,
    horizon: HorizonOption = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the latest forecast as an HTML report, without issuing a new one."""
    from pipelines.forecasting.report import write_report

    if horizon is not None:
        Horizon(horizon)
    dataset = open_installation(home).dataset(name)
    issuance = dataset.ledger.issuances.latest(dataset.name)
    if issuance is None:
        raise UnavailableError(
            "forecast.none_yet", f"{dataset.name} has no issued forecast yet", f'run "forecast forecast {dataset.name}"'
        )
    report = write_report(dataset, issuance, horizon)
    if as_json:
        print_json({"forecast_id": issuance.forecast_id, "report": str(report)})
    else:
        OUT.print(f"plot: {report}", markup=False, soft_wrap=True)
    if show:
        typer.launch(report.as_uri())


def recompute(
    forecast_id: Annotated[str, typer.Argument(help="Id of an issued forecast.", show_default=False)],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute an issued forecast from its original data and model, and report the difference.

    Exit code 6 if the difference exceeds the tolerance.
    """
    from pipelines.forecasting.recompute import TOLERANCE
    from pipelines.forecasting.recompute import recompute as run_recompute

    installation = open_installation(home)
    found = run_recompute(forecast_id, installation)
    if as_json:
        print_json(dataclasses.asdict(found) | {"tolerance": TOLERANCE, "agrees": found.agrees})
    else:
        result = (
            "exactly reproduced" if found.exact else "reproduced within the tolerance" if found.agrees else "different"
        )
        OUT.print(
            f"[bold]{escape(found.dataset)}[/]: forecast {found.forecast_id} is {result}\n"
            f"  from data version {found.data_version} with {escape(found.model_version)}; largest difference "
            f"{found.largest_difference:g}, {found.largest_relative:.1e} of its channel's largest value"
        )
        units = installation.dataset(found.dataset).config.channels
        for channel, difference in found.channels.items():
            OUT.print(f"  {channel}: {difference:g} {units[channel].unit}", markup=False)
        for name, (then, now) in found.otherwise.items():
            OUT.print(f"  {name} was {then}, is {now}", markup=False)
    if not found.agrees:
        raise ConflictError(
            "replay.differs",
            f"forecast {forecast_id} differs by {found.largest_relative:.1e} of a channel's largest value, "
            f"more than {TOLERANCE:g}",
            "look at the recorded values that changed since then"
            if found.otherwise
            else "no recorded value changed: look at the config file, the libraries and the processor",
        )


def reissue(
    as_of: Annotated[
        datetime,
        typer.Option(help="Past instant, UTC: its rows and its champion are used.", show_default=False),
    ],
    name: DatasetArgument = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue the forecast that would have been issued at a past instant. It is kept, but neither served nor scored."""
    from pipelines.forecasting.issue import issue as run_issue

    dataset = open_installation(home).dataset(name)
    issuance, is_new = run_issue(dataset, as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC))
    if as_json:
        print_json({"issuance": issuance, "is_new": is_new})
        return
    result = "reissued" if is_new else "was reissued already"
    hindsight = issuance.provenance is not None and issuance.provenance.hindsight
    OUT.print(
        f"[bold]{escape(dataset.name)}[/]: forecast {issuance.forecast_id} {result}\n"
        f"  {issuance.horizon} steps from {issuance.origin:%Y-%m-%d %H:%M} UTC, data version {issuance.data_version}, "
        f"model {escape(issuance.model_version)}" + (", which became champion later" if hindsight else "")
    )
