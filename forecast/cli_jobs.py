"""Commands about jobs and their runs: what is done when, what is done now, and what came of it."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from forecast.clock import SystemClock
from forecast.console import OUT, print_json, runs_table
from forecast.errors import ConfigError, NotFoundError
from forecast.installation import Installation
from forecast.job_book import JobBook, KnownJob
from forecast.options import HomeOption, JsonOption, opened
from forecast.run_ledger import SHOWN, Run
from forecast.scheduled_job import ScheduledJob, Trigger, Work

jobs_app = typer.Typer(help="Say what is done when: list, add, pause, run now, back-fill.", no_args_is_help=True)
runs_app = typer.Typer(help="See what was done: runs, their logs, the queue; cancel one.", no_args_is_help=True)

JobArgument = Annotated[str, typer.Argument(help="Name of the job.")]
RunArgument = Annotated[int, typer.Argument(help="Number of the run.")]
StepsOption = Annotated[
    list[Work] | None, typer.Option("--step", help="What is done; once per step, in their order.", show_default=False)
]
CronOption = Annotated[str | None, typer.Option(help='Five fields of cron, such as "30 2 * * *".', show_default=False)]
ZoneOption = Annotated[str | None, typer.Option(help="IANA zone of --cron; the data set's if not given.")]
OnOption = Annotated[
    list[Trigger] | None, typer.Option("--on", help="What makes it due beside the clock.", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Another field of the job, as in the job file: --set time_limit=2h.", show_default=False
    ),
]
_WATCH_SECONDS = 0.3


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(jobs_app, name="jobs")
    app.add_typer(runs_app, name="runs")


@jobs_app.command(name="list")
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show every job: what it does, when it is due next, and how its last run ended."""
    installation = opened(home)
    book = JobBook(installation)
    jobs = book.jobs()
    last = {name: next(iter(installation.ledger.runs(job=name, limit=1)), None) for name in jobs}
    if as_json:
        print_json([document(known, book) | {"last_run": last[known.name]} for known in jobs.values()])
        return
    table = Table(title="jobs", title_justify="left")
    for column in ("job", "data set", "does", "when", "next", "last run"):
        table.add_column(column, overflow="fold")
    for known in jobs.values():
        run = last[known.name]
        table.add_row(
            known.name, known.definition.dataset, known.definition.told, _when(known),
            "[yellow]paused[/]" if known.paused else _local(book.following(known), known, installation),
            f"{run.run_id} {run.state}" if run else "",
        )  # fmt: skip
    OUT.print(table)


@jobs_app.command()
def show(job: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one job with all its fields, and its latest runs."""
    installation = opened(home)
    book = JobBook(installation)
    known = book.job(job)
    runs = installation.ledger.runs(job=job, limit=10)
    if as_json:
        print_json(document(known, book) | {"runs": runs})
        return
    for name, value in document(known, book).items():
        OUT.print(f"[bold]{name}[/] {escape(str(value))}", soft_wrap=True)
    OUT.print(runs_table(runs))


@jobs_app.command()
def add(
    job: JobArgument,
    dataset: Annotated[str | None, typer.Option(help="Data set; may be left out if there is only one.")] = None,
    steps: StepsOption = None,
    cron: CronOption = None,
    zone: ZoneOption = None,
    on: OnOption = None,
    fields: SetOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a job. It is kept in the ledger; those of the job file are changed there."""
    installation = opened(home)
    name, _ = installation.jobs.dataset(dataset)
    definition = _checked({"dataset": name} | _given(steps, cron, zone, on, fields))
    _print_job(JobBook(installation).add(job, definition), installation, as_json=as_json)


@jobs_app.command()
def change(
    job: JobArgument,
    steps: StepsOption = None,
    cron: CronOption = None,
    zone: ZoneOption = None,
    on: OnOption = None,
    fields: SetOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a job that is not in the job file; what is not given stays."""
    installation = opened(home)
    book = JobBook(installation)
    present = book.job(job).definition.model_dump(mode="json", exclude_defaults=True)
    definition = _checked(present | _given(steps, cron, zone, on, fields))
    _print_job(book.change(job, definition), installation, as_json=as_json)


@jobs_app.command()
def remove(job: JobArgument, home: HomeOption = None) -> None:
    """Forget a job that is not in the job file; its runs stay."""
    JobBook(opened(home)).remove(job)
    OUT.print(f"{job} is no more")


@jobs_app.command()
def pause(job: JobArgument, home: HomeOption = None) -> None:
    """Let a job rest, one of the job file too, until it is resumed."""
    JobBook(opened(home)).pause(job, paused=True)
    OUT.print(f"{job} is paused")


@jobs_app.command()
def resume(job: JobArgument, home: HomeOption = None) -> None:
    """Let a paused job go on; what was due meanwhile is not caught up."""
    JobBook(opened(home)).pause(job, paused=False)
    OUT.print(f"{job} goes on")


@jobs_app.command()
def run(
    job: JobArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended, and show its log.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue a run of a job now, whatever its schedule says; a worker host executes it."""
    installation = opened(home)
    run_id = JobBook(installation).run_now(job)
    if wait:
        _follow(installation, run_id, as_json=as_json)
    elif as_json:
        print_json(installation.ledger.run(run_id))
    else:
        OUT.print(f'run {run_id} of {job} is queued; "forecast runs log {run_id} --follow" shows it')


@jobs_app.command()
def backfill(
    job: JobArgument,
    first: Annotated[datetime, typer.Argument(help="Begin of the range, in the job's zone.")],
    last: Annotated[datetime, typer.Argument(help="End of the range, in the job's zone.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue a run for each date of a range that never had one. A forecast step then forecasts as of that date."""
    installation = opened(home)
    book = JobBook(installation)
    zone = _zone(book.job(job), installation)
    ends = [end if end.tzinfo else end.replace(tzinfo=zone) for end in (first, last)]
    queued = book.backfill(job, ends[0], ends[1])
    if as_json:
        print_json(queued)
    else:
        OUT.print(f"{len(queued)} runs of {job} are queued" if queued else "every date of that range had its run")


@runs_app.command(name="list")
def list_runs(
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    whole: Annotated[bool, typer.Option("--all", help="Those too that were coalesced into a later one.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the latest runs."""
    found = opened(home).ledger.runs(job=job, limit=limit, states=() if whole else SHOWN)
    if as_json:
        print_json(found)
    else:
        OUT.print(runs_table(found))


@runs_app.command()
def queue(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the runs that wait, the next one first, and the worker hosts that take them."""
    ledger = opened(home).ledger
    waiting, hosts = ledger.queue(), ledger.hosts()
    if as_json:
        print_json({"queue": waiting, "hosts": hosts})
        return
    table = Table(title="queue", title_justify="left")
    for column in ("position", "run", "job", "logical date", "not before", "why"):
        table.add_column(column, overflow="fold")
    for position, one in enumerate(waiting, 1):
        not_before = f"{one.not_before:%H:%M:%S} UTC" if one.not_before else ""
        table.add_row(
            str(position), str(one.run_id), one.job, one.logical_date, not_before, escape(one.reason or one.cause or "")
        )
    OUT.print(table)
    for host in hosts:
        OUT.print(f"worker host {host.name}: {host.trainings} trainings, {host.others} other runs at a time")
    if not hosts:
        OUT.print("[yellow]no worker host is running[/]: start forecast up, or forecast work")


@runs_app.command(name="show")
def show_run(run_id: RunArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one run with its attempts."""
    ledger = opened(home).ledger
    found = ledger.run(run_id)
    attempts = ledger.attempts(run_id)
    if as_json:
        print_json({"run": found, "attempts": attempts})
        return
    OUT.print(runs_table([found]))
    for one in attempts:
        span = f"{one.started_at:%Y-%m-%d %H:%M:%S}" + (f" to {one.ended_at:%H:%M:%S} UTC" if one.ended_at else " UTC")
        OUT.print(
            f"attempt {one.number} on {escape(one.host)}, process {one.pid}, {span}: "
            f"{one.outcome or 'running'} {escape(one.reason or '')}",
            soft_wrap=True,
        )


@runs_app.command()
def cancel(run_id: RunArgument, home: HomeOption = None) -> None:
    """Cancel a run that waits, or ask a running one to stop."""
    found = opened(home).ledger.cancel(run_id, SystemClock().now())
    OUT.print(f"run {run_id} is {found.state}" + ("; its worker is asked to stop" if found.state == "running" else ""))


@runs_app.command()
def log(
    run_id: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    home: HomeOption = None,
) -> None:
    """Show what a run wrote."""
    installation = opened(home)
    if follow:
        _follow(installation, run_id, as_json=False)
        return
    path = _log_of(installation.ledger.run(run_id))
    if path is None or not path.is_file():
        raise NotFoundError("run.no_log", f"run {run_id} has written nothing on this machine", "see forecast runs show")
    OUT.out(path.read_text(encoding="utf-8", errors="replace"), end="")


def document(known: KnownJob, book: JobBook) -> dict[str, Any]:
    """Return a job for machines."""
    return {
        "name": known.name,
        **known.definition.model_dump(mode="json"),
        "origin": known.origin,
        "paused": known.paused,
        "next": book.following(known),
    }


def _follow(installation: Installation, run_id: int, *, as_json: bool) -> None:
    ledger = installation.ledger
    shown = 0
    while True:
        found = ledger.run(run_id)
        path = _log_of(found)
        if path is not None and path.is_file() and not as_json:
            with path.open("rb") as stream:
                stream.seek(shown)
                text = stream.read()
            shown += len(text)
            OUT.out(text.decode("utf-8", errors="replace"), end="")
        if found.has_ended:
            break
        time.sleep(_WATCH_SECONDS)
    if as_json:
        print_json(found)
    if found.state != "succeeded":
        raise typer.Exit(1)


def _given(
    steps: list[Work] | None, cron: str | None, zone: str | None, on: list[Trigger] | None, fields: list[str] | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"steps": steps or None, "cron": cron, "zone": zone, "on": on or None}
    found = {name: value for name, value in found.items() if value is not None}
    for text in fields or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError("job.field", f'"{text}" is not a field with a value', "write it as --set retries=2")
        kind = ScheduledJob.model_fields.get(name)
        numbers = kind is not None and kind.annotation is not str
        found[name] = float(value) if numbers and value.replace(".", "", 1).isdecimal() else value
        if numbers and value.isdecimal():
            found[name] = int(value)
    return found


def _checked(fields: dict[str, Any]) -> ScheduledJob:
    try:
        return ScheduledJob.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "job"
        told = "is not a field" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise ConfigError("job.invalid", f"{place}: {told}", "see docs/operating.md, Jobs") from error


def _print_job(known: KnownJob, installation: Installation, *, as_json: bool) -> None:
    book = JobBook(installation)
    if as_json:
        print_json(document(known, book))
    else:
        OUT.print(f"{known.name}: {known.definition.told}, {_when(known) or 'when it is asked for'}", soft_wrap=True)


def _when(known: KnownJob) -> str:
    definition = known.definition
    cron = f"{definition.cron} {definition.zone}".strip()
    return ", ".join(filter(None, (cron, *(f"on {trigger}" for trigger in definition.on))))


def _local(time_: datetime | None, known: KnownJob, installation: Installation) -> str:
    return "" if time_ is None else f"{time_.astimezone(_zone(known, installation)):%Y-%m-%d %H:%M %Z}"


def _zone(known: KnownJob, installation: Installation) -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo(known.definition.zone or installation.jobs.datasets[known.definition.dataset].zone)


def _log_of(run: Run) -> Path | None:
    return None if run.log is None else Path(run.log)
