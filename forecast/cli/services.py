"""Commands that run the long-lived processes: service, scheduler, worker host, MLflow's UI, or all of them."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from forecast.cli.options import (
    AllowedHostOption,
    HomeOption,
    HostOption,
    PortOption,
    UiPortOption,
    end_on_sigterm,
    open_installation,
)
from forecast.cli.output import OUT
from forecast.errors import ConfigError
from forecast.home import Home
from forecast.installation import Installation
from forecast.scheduling.supervisor import Member, Supervisor, require_free_port

worker_app = typer.Typer(name="worker", help="Commands that a worker host starts.")


def serve(
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    allowed_host: AllowedHostOption = None,
    home: HomeOption = None,
) -> None:
    """Serve forecasts over REST, with the dashboard at / and the API documentation at /docs."""
    from api.server import serve as run_service

    run_service(open_installation(home), host, port, allowed_host or ())


def schedule(home: HomeOption = None) -> None:
    """Run the scheduler, which queues due runs. A second scheduler stands by and takes over if the first one dies."""
    from forecast.scheduling.scheduler import Scheduler

    _log_to_terminal()
    Scheduler(open_installation(home)).run()


def work(
    trainings: Annotated[int, typer.Option(min=0, help="Trainings at a time on this machine.")] = 1,
    others: Annotated[int, typer.Option(min=0, help="Other runs at a time on this machine.")] = 2,
    home: HomeOption = None,
) -> None:
    """Run a worker host: it executes queued runs, each in a process of its own."""
    from forecast.scheduling.worker_host import WorkerHost

    _log_to_terminal()
    WorkerHost(open_installation(home), trainings=trainings, others=others).run()


def ui(port: UiPortOption = 5000, home: HomeOption = None) -> None:
    """Start MLflow's UI for the trainings of this home."""
    installation = open_installation(home)
    members = _mlflow_members(installation.home, port)
    if not members:
        OUT.print(f"an MLflow server runs already: {_mlflow_address(installation.home, port)}", soft_wrap=True)
        return
    require_free_port(port, "--ui-port")
    with Supervisor(members, installation.home.logs) as supervisor:
        supervisor.wait_until_ready()
        OUT.print(f"MLflow UI at {_mlflow_address(installation.home, port)} (Ctrl-C stops it)", soft_wrap=True)
        supervisor.watch()


def up(
    host: HostOption = "127.0.0.1", port: PortOption = 8000, ui_port: UiPortOption = 5000, home: HomeOption = None
) -> None:
    """Run the service, scheduler, worker host and MLflow UI together until Ctrl-C."""
    installation = open_installation(home)
    with all_services(installation, host, port, ui_port) as supervisor:
        supervisor.wait_until_ready()
        if not supervisor.stopping:
            print_addresses(installation.home, host, port, ui_port)
            supervisor.watch()
        OUT.print("stopping")


@worker_app.command(name="run")
def run_worker(run_id: int, attempt: Annotated[int, typer.Option()], home: HomeOption = None) -> None:
    """Execute one attempt of a run."""
    from pipelines.worker import work as execute

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    end_on_sigterm()
    if not execute(open_installation(home), run_id, attempt, OUT):
        raise typer.Exit(1)


def all_services(installation: Installation, host: str, port: int, ui_port: int) -> Supervisor:
    """Return a supervisor of the service, the scheduler, a worker host and MLflow's UI; nothing is started yet.

    Raises ``port.twice`` if the service and MLflow's UI have the same port, ``port.taken`` if one is in use, and the
    service's own error if its address may not be served.
    """
    if port == ui_port:
        raise ConfigError(
            "port.twice", f"service and MLflow UI cannot both have port {port}", "choose another with --ui-port"
        )
    from api.server import exposure_of, listen

    # Checked here, so that the terminal shows the error and not the log of a member that died.
    exposure_of(host, [os.environ.get("FORECAST_ALLOWED_HOSTS", "")], installation.ledger)
    listen(host, port).close()
    require_free_port(ui_port, "--ui-port")
    program = [sys.executable, "-m", "forecast"]
    home = ["--home", str(installation.home.path)]
    service = [*program, "serve", "--host", host, "--port", str(port), *home]
    members = [
        Member("service", service, f"{_address(host, port)}/healthz", _mlflow_link(installation.home, ui_port)),
        Member("scheduler", [*program, "schedule", *home]),
        Member("workers", [*program, "work", *home]),
        *_mlflow_members(installation.home, ui_port),
    ]
    return Supervisor(members, installation.home.logs)


def print_addresses(home: Home, host: str, port: int, ui_port: int) -> None:
    """Print the addresses that a browser opens."""
    OUT.print(f"  forecasts   {_address(host, port)}/")
    OUT.print(f"  REST docs   {_address(host, port)}/docs")
    OUT.print(f"  MLflow UI   {_mlflow_address(home, ui_port)}", soft_wrap=True)
    OUT.print("  Ctrl-C stops all of them")


def _log_to_terminal() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)


def _mlflow_link(home: Home, port: int) -> dict[str, str]:
    """Return the environment variable by which the dashboard links to the MLflow UI that is started with it."""
    is_elsewhere = home.tracking_uri.startswith("http") or os.environ.get("FORECAST_MLFLOW_UI")
    return {} if is_elsewhere else {"FORECAST_MLFLOW_UI": f"http://127.0.0.1:{port}"}


def _mlflow_members(home: Home, port: int) -> list[Member]:
    """Return the MLflow server to start; an empty list if ``MLFLOW_TRACKING_URI`` names a running one."""
    if home.tracking_uri.startswith("http"):
        return []
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", home.tracking_uri,
        "--default-artifact-root", home.artifacts.as_uri(), "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1",
    ]  # fmt: skip
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a queue for language-model evaluations; 20 s of start-up
    }
    return [Member("mlflow", command, f"http://127.0.0.1:{port}/health", environment)]


def _mlflow_address(home: Home, port: int) -> str:
    base = home.tracking_uri if home.tracking_uri.startswith("http") else f"http://127.0.0.1:{port}"
    # The query opens MLflow's pages for model training; without it a new browser starts among those for agents.
    return f"{base.rstrip('/')}/#/experiments?workflowType=machine_learning"


def _address(host: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - loopback is among all addresses
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
