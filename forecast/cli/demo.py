"""The demo: every step of the service on the sample data set, from ingestion to the first nightly retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forecast.cli.forecasts import issue_and_report
from forecast.cli.home import init
from forecast.cli.models import run_night
from forecast.cli.options import PortOption, UiPortOption, open_installation
from forecast.cli.output import OUT, print_issuance, print_receipt, runs_table
from forecast.cli.services import all_services, print_addresses
from forecast.config.jobs import Weight
from forecast.errors import UnavailableError
from forecast.home import home_at
from forecast.installation import Dataset
from forecast.ledger.run import ENDED, SHOWN
from forecast.scheduling.supervisor import Supervisor, require_free_port

_HOST = "127.0.0.1"
_FORECASTS = 3
_TIMEOUT_SECONDS = 600


def demo(
    folder: Annotated[Path, typer.Argument(help="Home of the demo; created if missing, else reused.")] = Path("demo"),
    port: PortOption = 8000,
    ui_port: UiPortOption = 5000,
    serving: Annotated[bool, typer.Option("--serve/--no-serve", help="Keep serving until Ctrl-C.")] = True,
) -> None:
    """Show the whole service on the sample: ingest, train, forecast, serve, and a first accelerated night."""
    from pipelines.ingestion.ingest import ingest as run_ingest

    for number, option in ((port, "--port"), (ui_port, "--ui-port")):
        require_free_port(number, option)
    if not home_at(folder).is_made:
        init(folder)
    installation = open_installation(folder)
    dataset = installation.dataset()
    OUT.rule("1. ingest")
    print_receipt(run_ingest(dataset))
    OUT.rule("2. train, compare, promote")
    champion = dataset.champion
    if champion is None:
        run_night(dataset)
    else:
        OUT.print(f"reusing the champion of an earlier demo: {champion.verdict}", markup=False)
    OUT.rule("3. forecast")
    issue_and_report(dataset, None, as_json=False)
    OUT.rule("4. service, scheduler, MLflow UI")
    with all_services(installation, _HOST, port, ui_port) as supervisor:
        supervisor.wait_until_ready()
        print_addresses(installation.home, _HOST, port, ui_port)
        _wait_for_first_night(dataset, supervisor)
        if serving and not supervisor.stopping:
            OUT.print("the service runs until Ctrl-C")
            supervisor.watch()
        OUT.print("stopping service, scheduler and MLflow UI")


def _wait_for_first_night(dataset: Dataset, supervisor: Supervisor) -> None:
    """Wait until the scheduler has issued three forecasts and retrained once by the clock of the replay source.

    Returns at once if the home has runs already, which an earlier demo made, or if its source is not replayed.
    Raises ``demo.run_failed`` if a run failed.
    """
    ledger, name, config = dataset.ledger, dataset.name, dataset.config
    earlier = ledger.runs.find(dataset=name, limit=1)
    if earlier or config.replay is None:
        return
    speed = config.replay.speed
    OUT.print(
        f"the replay runs {speed:g} times as fast as the clock: "
        "waiting for three forecasts and the first nightly retrain"
    )

    def has_happened() -> bool:
        nights = [run for run in ledger.runs.find(dataset=name, states=ENDED) if run.kind == Weight.TRAINING]
        return bool(nights) and len(ledger.issuances.newest(name)) >= _FORECASTS

    supervisor.wait_for(has_happened, "three forecasts and a retrain", _TIMEOUT_SECONDS)
    for issuance in reversed(ledger.issuances.newest(name)):
        print_issuance(issuance, config, is_new=True)
    OUT.print(runs_table(ledger.runs.find(dataset=name, states=SHOWN)))
    failed = [run for run in ledger.runs.find(dataset=name) if run.state == "failed"]
    if failed:
        raise UnavailableError(
            "demo.run_failed",
            f"run {failed[0].run_id} {failed[0].state}: {failed[0].reason}",
            f'see "{dataset.home.logs}"',
        )
