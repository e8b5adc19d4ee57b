"""The command line: every step of the service, for people and (with ``--json``) for machines.

Exit codes: 0 done, 1 internal error, 2 wrong usage or job file, 3 not found, 4 bad data, 5 storage, 6 conflict (a port
or a lock is taken), 7 training failed, 8 something needed first is not there yet, 9 the doctor found something, 130
interrupted by Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from forecast.cli import data, forecasts, jobs, keys, maintenance, models, monitoring, search
from forecast.cli.options import (
    AT_END,
    AllowedHostOption,
    DatasetArgument,
    HomeOption,
    HorizonOption,
    HostOption,
    JsonOption,
    PortOption,
    UiPortOption,
    end_on_sigterm,
    opened,
)
from forecast.cli.output import OUT, print_error, print_issuance, print_json, print_receipt, runs_table
from forecast.config.jobs import Weight
from forecast.errors import ConfigError, ConflictError, ForecastError, StorageError, UnavailableError
from forecast.home import Home, home_at
from forecast.installation import Installation
from forecast.ledger.runs import ENDED, SHOWN
from forecast.scheduling.supervisor import Member, Supervisor, require_free_port
from forecast.vocabulary import Horizon

app = typer.Typer(
    name="forecast",
    help="Long-horizon forecasting as a service: ingest series, train models nightly, serve rolling forecasts.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    epilog="Start with: forecast init my-home && cd my-home && forecast ingest && forecast train && forecast up",
)
worker_app = typer.Typer(help="What a worker host starts.")
app.add_typer(worker_app, name="worker", hidden=True)
data.add_to(app)
forecasts.add_to(app)
models.add_to(app)
keys.add_to(app)
search.add_to(app)
jobs.add_to(app)
monitoring.add_to(app)
maintenance.add_to(app)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make; it becomes the home.")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Make a home: a folder with a job file for the sample data set, ready to be changed to your own data."""
    home = home_at(folder)
    if home.is_made:
        raise ConflictError("home.exists", f'"{home.config_file}" exists already', "change it, or choose another folder")
    home.prepare()
    _write_sample_job(home)
    if as_json:
        print_json({"home": str(home.path), "job_file": str(home.config_file)})
    else:
        command = f"forecast ingest --home {shlex.quote(str(home.path))}"
        OUT.print(
            f'made "{escape(str(home.config_file))}" for the sample data set; next: [bold]{escape(command)}[/]',
            soft_wrap=True,  # a path that is broken over lines cannot be copied
        )


@app.command(name="forecast")
def forecast_(
    dataset: DatasetArgument = None,
    horizon: HorizonOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue a forecast with the champion from the newest rows, and write it as an HTML report."""
    if horizon is not None:
        Horizon(horizon)
    installation = opened(home)
    name, _ = installation.config.dataset(dataset)
    _forecast(installation, name, horizon, as_json=as_json)


@app.command()
def serve(
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    allowed_host: AllowedHostOption = None,
    home: HomeOption = None,
) -> None:
    """Serve forecasts over REST, with a page at / and the interface's documentation at /docs."""
    from api.server import serve as run_service

    run_service(opened(home), host, port, allowed_host or ())


@app.command()
def schedule(home: HomeOption = None) -> None:
    """Run a scheduler: it puts what is due into the queue. A second one waits, and takes over if the first one dies."""
    from forecast.scheduling.scheduler import Scheduler

    _log_lines()
    Scheduler(opened(home)).run()


@app.command(name="work")
def work_(
    trainings: Annotated[int, typer.Option(min=0, help="Trainings at a time on this machine.")] = 1,
    others: Annotated[int, typer.Option(min=0, help="Other runs at a time on this machine.")] = 2,
    home: HomeOption = None,
) -> None:
    """Run a worker host: it executes what is in the queue, each run in a process of its own."""
    from forecast.scheduling.worker_host import WorkerHost

    _log_lines()
    WorkerHost(opened(home), trainings=trainings, others=others).run()


@app.command()
def ui(port: UiPortOption = 5000, home: HomeOption = None) -> None:
    """Open MLflow's UI on the runs of this home."""
    installation = opened(home)
    members = _mlflow(installation.home, port)
    if not members:
        OUT.print(f"MLflow's server is elsewhere: {_mlflow_address(installation.home, port)}", soft_wrap=True)
        return
    require_free_port(port, "--ui-port")
    with Supervisor(members, installation.home.logs) as supervisor:
        supervisor.wait_until_ready()
        OUT.print(f"MLflow UI at {_mlflow_address(installation.home, port)} (Ctrl-C stops it)", soft_wrap=True)
        supervisor.watch()


@app.command()
def up(
    host: HostOption = "127.0.0.1", port: PortOption = 8000, ui_port: UiPortOption = 5000, home: HomeOption = None
) -> None:
    """Run service, scheduler, worker host and MLflow UI together until Ctrl-C, then stop all of them."""
    installation = opened(home)
    with _everything(installation, host, port, ui_port) as supervisor:
        supervisor.wait_until_ready()
        if not supervisor.stopping:
            _print_addresses(installation.home, host, port, ui_port)
            supervisor.watch()
        OUT.print("stopping")


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show each data set's champion and latest forecast, and the latest runs of jobs."""
    installation = opened(home)
    ledger = installation.ledger
    datasets = {
        name: {
            "champion": ledger.champions.current(name),
            "forecast": ledger.issuances.latest(name),
            "now": installation.dataset(name).clock.now(),
            "revision": next(iter(ledger.revisions.latest(name, 1).values()), None),
            "alerts": ledger.alerts.find(name, open_only=True),
        }
        for name in installation.config.datasets
    }
    runs = ledger.runs.find(limit=20, states=SHOWN)
    if as_json:
        print_json({"datasets": datasets, "runs": runs})
        return
    for name, config in installation.config.datasets.items():
        champion, issuance = ledger.champions.current(name), ledger.issuances.latest(name)
        OUT.print(f"[bold]{name}[/]: {escape(champion.verdict) if champion else 'no champion yet'}")
        if issuance:
            print_issuance(issuance, config, is_new=False)
    OUT.print(runs_table(runs))


@worker_app.command(name="run")
def run_worker(run_id: int, attempt: Annotated[int, typer.Option()], home: HomeOption = None) -> None:
    """Execute an attempt at a run."""
    from pipelines.worker import work

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    end_on_sigterm()
    if not work(opened(home), run_id, attempt, OUT):
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Home of the demo; made if it is not there, reused if it is.")] = Path(
        "demo"
    ),
    port: PortOption = 8000,
    ui_port: UiPortOption = 5000,
    serving: Annotated[bool, typer.Option("--serve/--no-serve", help="Keep serving until Ctrl-C.")] = True,
) -> None:
    """Show the whole service on the sample: ingest, train, forecast, serve, and a first accelerated night."""
    from pipelines.ingestion.ingest import ingest as bring_in

    for number, option in ((port, "--port"), (ui_port, "--ui-port")):
        require_free_port(number, option)
    if not home_at(folder).is_made:
        init(folder)
    installation = opened(folder)
    name, _ = installation.config.dataset(None)
    OUT.rule("1. ingest")
    print_receipt(bring_in(installation.dataset(name)))
    OUT.rule("2. train, compare, promote")
    champion = installation.ledger.champions.current(name)
    if champion is None:
        models.run_night(installation, name)
    else:
        OUT.print(f"reusing the champion of an earlier demo: {champion.verdict}", markup=False)
    OUT.rule("3. forecast")
    _forecast(installation, name, None, as_json=False)
    OUT.rule("4. service, scheduler, MLflow UI")
    with _everything(installation, "127.0.0.1", port, ui_port) as supervisor:
        supervisor.wait_until_ready()
        _print_addresses(installation.home, "127.0.0.1", port, ui_port)
        _first_night(installation, name, supervisor)
        if serving and not supervisor.stopping:
            OUT.print("the service goes on until Ctrl-C")
            supervisor.watch()
        OUT.print("stopping service, scheduler and MLflow UI")


def main() -> None:
    """Run the command line; a user's mistake is one line and an exit code, never a traceback."""
    # OpenMP threads that spin while they wait slow a training tenfold as soon as anything runs beside it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with AT_END:
            app()
    except ForecastError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)


def _log_lines() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)


def _write_sample_job(home: Home) -> None:
    text = files("forecast.config").joinpath("sample.toml").read_text(encoding="utf-8")
    try:
        with home.config_file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise StorageError(
            "home.not_writable", f'cannot write "{home.config_file}" ({error.strerror})', "choose another folder"
        ) from error


def _forecast(installation: Installation, name: str, horizon: int | None, *, as_json: bool) -> None:
    from pipelines.forecasting.issue import issue
    from pipelines.forecasting.report import write_report

    issuance, is_new = issue(installation.dataset(name))
    report = write_report(installation.dataset(name), issuance, horizon)
    if as_json:
        print_json({"issuance": issuance, "is_new": is_new, "report": str(report)})
    else:
        print_issuance(issuance, installation.config.datasets[name], is_new=is_new)
        OUT.print(f"  plot: {report}", markup=False, soft_wrap=True)


def _everything(installation: Installation, host: str, port: int, ui_port: int) -> Supervisor:
    if port == ui_port:
        raise ConfigError(
            "port.twice", f"service and MLflow UI cannot both have port {port}", "choose another with --ui-port"
        )
    from api.server import exposure_of, listen

    # What would stop a member is refused here, in words, and not in a log.
    exposure_of(host, [os.environ.get("FORECAST_ALLOWED_HOSTS", "")], installation.ledger)
    listen(host, port).close()
    require_free_port(ui_port, "--ui-port")
    ours = [sys.executable, "-m", "forecast"]
    home = ["--home", str(installation.home.path)]
    service = [*ours, "serve", "--host", host, "--port", str(port), *home]
    members = [
        Member("service", service, f"{_address(host, port)}/healthz", _links_to_mlflow(installation.home, ui_port)),
        Member("scheduler", [*ours, "schedule", *home]),
        Member("workers", [*ours, "work", *home]),
        *_mlflow(installation.home, ui_port),
    ]
    return Supervisor(members, installation.home.logs)


def _links_to_mlflow(home: Home, port: int) -> dict[str, str]:
    """Return where the service's pages find the MLflow UI that is started beside it."""
    is_elsewhere = home.tracking_uri.startswith("http") or os.environ.get("FORECAST_MLFLOW_UI")
    return {} if is_elsewhere else {"FORECAST_MLFLOW_UI": f"http://127.0.0.1:{port}"}


def _mlflow(home: Home, port: int) -> list[Member]:
    """Return the MLflow server to start; none if ``MLFLOW_TRACKING_URI`` names one that runs elsewhere."""
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
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - every address has this one among it
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _print_addresses(home: Home, host: str, port: int, ui_port: int) -> None:
    OUT.print(f"  forecasts   {_address(host, port)}/")
    OUT.print(f"  REST docs   {_address(host, port)}/docs")
    OUT.print(f"  MLflow UI   {_mlflow_address(home, ui_port)}", soft_wrap=True)
    OUT.print("  Ctrl-C stops all of them")


def _first_night(installation: Installation, name: str, supervisor: Supervisor) -> None:
    """Wait until the scheduler has issued forecasts and retrained once by the replay's clock."""
    ledger = installation.ledger
    config = installation.config.datasets[name]
    earlier = ledger.runs.find(dataset=name, limit=1)
    if earlier or config.replay is None:  # an earlier demo went that far
        return
    speed = config.replay.speed
    OUT.print(
        f"the replay runs {speed:g} times as fast as the clock: "
        "waiting for three forecasts and the first nightly retrain"
    )

    def has_happened() -> bool:
        nights = [run for run in ledger.runs.find(dataset=name, states=ENDED) if run.kind == Weight.TRAINING]
        return bool(nights) and len(ledger.issuances.newest(name)) >= 3

    supervisor.wait_for(has_happened, "three forecasts and a retrain", 600)
    for issuance in reversed(ledger.issuances.newest(name)):
        print_issuance(issuance, config, is_new=True)
    OUT.print(runs_table(ledger.runs.find(dataset=name, states=SHOWN)))
    failed = [run for run in ledger.runs.find(dataset=name) if run.state == "failed"]
    if failed:
        raise UnavailableError(
            "demo.run_failed",
            f"run {failed[0].run_id} {failed[0].state}: {failed[0].reason}",
            f'see "{installation.home.logs}"',
        )
