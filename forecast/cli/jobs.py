"""Commands about jobs: schedule them, change them, run one now, backfill missed dates."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from forecast.cli.options import HomeOption, JsonOption, open_installation
from forecast.cli.output import OUT, print_json, runs_table
from forecast.cli.runs import follow_log
from forecast.config.jobs import Job, JobStep, Trigger
from forecast.errors import ConfigError, nearest
from forecast.installation import Installation
from forecast.scheduling.job_book import JobBook, KnownJob

jobs_app = typer.Typer(help="Schedule jobs: list, add, change, pause, run now, backfill.", no_args_is_help=True)

JobArgument = Annotated[str, typer.Argument(help="Name of the job.")]
_ENDS = [f"%Y-%m-%d{time}" for time in ("", "T%H:%M", " %H:%M", "T%H:%M%z", "T%H:%M:%S", " %H:%M:%S", "T%H:%M:%S%z")]
StepsOption = Annotated[
    list[JobStep] | None,
    typer.Option("--step", help="Step of the job; repeat the option for each step, in order.", show_default=False),
]
CronOption = Annotated[
    str | None, typer.Option(help='Cron expression of five fields, such as "30 2 * * *".', show_default=False)
]
ZoneOption = Annotated[str | None, typer.Option(help="IANA time zone of --cron. Default: the data set's zone.")]
OnOption = Annotated[
    list[Trigger] | None,
    typer.Option("--on", help="Event that makes the job due, in addition to --cron.", show_default=False),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Another field of the job, as in the config file: --set time_limit=2h.", show_default=False
    ),
]


@jobs_app.command(name="list")
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List all jobs with their steps, schedule, next due date and last run."""
    installation = open_installation(home)
    book = JobBook(installation)
    jobs = book.jobs()
    last = {name: next(iter(installation.ledger.runs.find(job=name, limit=1)), None) for name in jobs}
    if as_json:
        print_json([document(known, book) | {"last_run": last[known.name]} for known in jobs.values()])
        return
    table = Table(title="jobs", title_justify="left")
    for column in ("job", "data set", "steps", "schedule", "next", "last run"):
        table.add_column(column, overflow="fold")
    for known in jobs.values():
        run = last[known.name]
        table.add_row(
            known.name, known.definition.dataset, known.definition.description, _when(known),
            "[yellow]paused[/]" if known.paused else _local(book.following(known), known, installation),
            f"{run.run_id} {run.state}" if run else "",
        )  # fmt: skip
    OUT.print(table)


@jobs_app.command()
def show(job: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show all fields of a job and its latest runs."""
    installation = open_installation(home)
    book = JobBook(installation)
    known = book.job(job)
    runs = installation.ledger.runs.find(job=job, limit=10)
    if as_json:
        print_json(document(known, book) | {"runs": runs})
        return
    for name, value in document(known, book).items():
        text = ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)
        OUT.print(f"[bold]{name}[/] {escape(text)}".rstrip(), soft_wrap=True)
    OUT.print(runs_table(runs))


@jobs_app.command()
def add(
    job: JobArgument,
    dataset: Annotated[str | None, typer.Option(help="Data set. Optional if there is only one.")] = None,
    steps: StepsOption = None,
    cron: CronOption = None,
    zone: ZoneOption = None,
    on: OnOption = None,
    fields: SetOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a job to the ledger. Jobs of the config file are changed in the config file."""
    installation = open_installation(home)
    definition = _checked({"dataset": installation.dataset(dataset).name} | _given(steps, cron, zone, on, fields))
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
    """Change a job (only jobs not defined in the config file). Options you omit keep their value."""
    installation = open_installation(home)
    book = JobBook(installation)
    present = book.job(job).definition.model_dump(mode="json", exclude_defaults=True)
    definition = _checked(present | _given(steps, cron, zone, on, fields))
    _print_job(book.change(job, definition), installation, as_json=as_json)


@jobs_app.command()
def remove(job: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Remove a job (only jobs not defined in the config file). Its queued runs are cancelled; other runs stay."""
    JobBook(open_installation(home)).remove(job)
    if as_json:
        print_json({"removed": job})
    else:
        OUT.print(f"removed {job}")


@jobs_app.command()
def pause(job: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Pause a job until it is resumed. Also works for jobs of the config file."""
    _pause(job, home, paused=True, as_json=as_json)


@jobs_app.command()
def resume(job: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Resume a paused job. Dates missed while paused are not caught up."""
    _pause(job, home, paused=False, as_json=as_json)


@jobs_app.command()
def run(
    job: JobArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run has ended, and show its log.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue a run of a job now, regardless of its schedule. A worker host executes it."""
    installation = open_installation(home)
    run_id = JobBook(installation).run_now(job)
    if wait:
        follow_log(installation, run_id, as_json=as_json)
    elif as_json:
        print_json(installation.ledger.runs.get(run_id))
    else:
        OUT.print(f'run {run_id} of {job} is queued; "forecast runs log {run_id} --follow" shows it')


@jobs_app.command()
def backfill(
    job: JobArgument,
    first: Annotated[datetime, typer.Argument(formats=_ENDS, help="Start of the range, in the job's time zone.")],
    last: Annotated[datetime, typer.Argument(formats=_ENDS, help="End of the range, in the job's time zone.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue a run for each scheduled date of a range that had no run. Its forecast step forecasts as of that date."""
    installation = open_installation(home)
    book = JobBook(installation)
    zone = _zone(book.job(job), installation)
    ends = [end if end.tzinfo else end.replace(tzinfo=zone) for end in (first, last)]
    queued = book.backfill(job, ends[0], ends[1])
    if as_json:
        print_json(queued)
    else:
        OUT.print(f"queued {len(queued)} runs of {job}" if queued else "every date of this range already had a run")


def document(known: KnownJob, book: JobBook) -> dict[str, Any]:
    """Return the JSON document of a job: its definition, origin, pause and next due date."""
    return {
        "name": known.name,
        **known.definition.model_dump(mode="json"),
        "origin": known.origin,
        "paused": known.paused,
        "next": book.following(known),
    }


def _pause(job: str, home: Path | None, *, paused: bool, as_json: bool) -> None:
    book = JobBook(open_installation(home))
    known = book.pause(job, paused=paused)
    if as_json:
        print_json(document(known, book))
    else:
        OUT.print(f"paused {job}" if paused else f"resumed {job}")


def _given(
    steps: list[JobStep] | None, cron: str | None, zone: str | None, on: list[Trigger] | None, fields: list[str] | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"steps": steps or None, "cron": cron, "zone": zone, "on": on or None}
    found = {name: value for name, value in found.items() if value is not None}
    for text in fields or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError("job.field", f'"{text}" has no "="', "write FIELD=VALUE, such as --set retries=2")
        kind = Job.model_fields.get(name)
        found[name] = value if kind is None or kind.annotation is str else _number(value)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _checked(fields: dict[str, Any]) -> Job:
    try:
        return Job.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "job"
        message = {"extra_forbidden": "is not a field", "missing": "is missing"}.get(
            first["type"], first["msg"].removeprefix("Value error, ")
        )
        remedy = "see docs/operating.md, Jobs"
        if first["type"] == "extra_forbidden":
            remedy = nearest(place, Job.model_fields)
        elif place.startswith("steps"):
            remedy = "give the steps with --step, such as --step ingest --step forecast"
        raise ConfigError("job.invalid", f"{place}: {message}", remedy) from error


def _print_job(known: KnownJob, installation: Installation, *, as_json: bool) -> None:
    book = JobBook(installation)
    if as_json:
        print_json(document(known, book))
    else:
        OUT.print(f"{known.name}: {known.definition.description}, {_when(known) or 'on request'}", soft_wrap=True)


def _when(known: KnownJob) -> str:
    definition = known.definition
    cron = f"{definition.cron} {definition.zone}".strip()
    return ", ".join(filter(None, (cron, *(f"on {trigger}" for trigger in definition.on))))


def _local(time_: datetime | None, known: KnownJob, installation: Installation) -> str:
    return "" if time_ is None else f"{time_.astimezone(_zone(known, installation)):%Y-%m-%d %H:%M %Z}"


def _zone(known: KnownJob, installation: Installation) -> ZoneInfo:
    return ZoneInfo(known.definition.zone or installation.dataset(known.definition.dataset).config.zone)
