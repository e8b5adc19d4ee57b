"""Commands about data: bring it in, check it, see what was wrong, change its channels, look after its tables."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from forecast.cli.options import DatasetArgument, DatasetOption, HomeOption, JsonOption, open_installation
from forecast.cli.output import OUT, print_json, print_receipt, quarantine_table, receipts_table
from forecast.errors import ConfigError, StorageError
from forecast.vocabulary import parse_duration

channel_app = typer.Typer(
    name="channel",
    help="Add, rename or retire a channel of the lake, after the job file names it.",
    no_args_is_help=True,
)
_NamedDataset = Annotated[str, typer.Argument(help="Name of the data set.", show_default=False)]
_Channel = Annotated[str, typer.Argument(help="Name of the channel.", show_default=False)]


def ingest(dataset: DatasetArgument = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Bring new rows of a data set in; rows that are there already change nothing."""
    from pipelines.ingestion.ingest import ingest as bring_in

    installation = open_installation(home)
    name, _ = installation.config.dataset(dataset)
    receipt = bring_in(installation.dataset(name))
    if as_json:
        print_json(receipt)
    else:
        print_receipt(receipt)


def check(
    file: Annotated[
        Path | None, typer.Argument(help="A file to check in place of the source.", show_default=False)
    ] = None,
    dataset: DatasetOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a source or a file as an ingestion would, and say what is wrong with it; nothing is written."""
    from pipelines.ingestion.ingest import read_source, validate

    installation = open_installation(home)
    name, _ = installation.config.dataset(dataset)
    receipt = validate(
        installation.dataset(name), None if file is None else read_source(installation.dataset(name), file)
    )
    if as_json:
        print_json(receipt)
    else:
        print_receipt(receipt)


def receipts(
    dataset: DatasetArgument = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 10,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what came in lately, and what was wrong with it."""
    installation = open_installation(home)
    name, _ = installation.config.dataset(dataset)
    found = installation.ledger.receipts.latest(name, limit)
    if as_json:
        print_json(found)
    else:
        OUT.print(receipts_table(found))


def quarantine(
    dataset: DatasetArgument = None,
    limit: Annotated[int, typer.Option(min=1, help="How many rows, newest first.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show rows that were put aside, with the reason."""
    installation = open_installation(home)
    name, _ = installation.config.dataset(dataset)
    rows = installation.dataset(name).quarantine.read(limit=limit).to_dicts()
    if as_json:
        print_json(rows)
    elif rows:
        OUT.print(quarantine_table(rows))
    else:
        OUT.print(f"{name} has no rows put aside")


def rows(
    file: Annotated[Path, typer.Argument(help="Where to write them: a file .csv or .parquet.", show_default=False)],
    dataset: DatasetOption = None,
    as_of: Annotated[
        datetime | None, typer.Option(help="As they were known at this time, UTC.", show_default=False)
    ] = None,
    version: Annotated[int | None, typer.Option(min=0, help="As of this data version.", show_default=False)] = None,
    since: Annotated[datetime | None, typer.Option(help="Rows from this time on, UTC.", show_default=False)] = None,
    until: Annotated[datetime | None, typer.Option(help="Rows before this time, UTC.", show_default=False)] = None,
    superseded: Annotated[bool, typer.Option(help="Instead the rows that lost to a stored one.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write observations to a file: the newest, or exactly what was known at a time."""
    if file.suffix not in {".csv", ".parquet"}:
        raise ConfigError("rows.unknown_format", f'"{file.name}" is neither .csv nor .parquet', "choose one of them")
    installation = open_installation(home)
    name, _ = installation.config.dataset(dataset)
    table = installation.dataset(name).observations
    if superseded:
        found = table.superseded()
    else:
        if as_of is not None:
            version = table.version_at(as_of.replace(tzinfo=UTC))
        begin, end = (None if time is None else time.replace(tzinfo=UTC) for time in (since, until))
        found = table.read(version=version, since=begin, until=end)
    try:
        found.write_csv(file) if file.suffix == ".csv" else found.write_parquet(file)
    except OSError as error:
        raise StorageError("rows.not_written", f'cannot write "{file}" ({error.strerror})', "choose another") from error
    if as_json:
        print_json({"rows": len(found), "data_version": version, "file": str(file)})
    else:
        OUT.print(f'{len(found):,} rows of {name} are in "{file}"', markup=False, soft_wrap=True)


def maintain(
    dataset: DatasetArgument = None,
    retention: Annotated[
        str | None, typer.Option(help="How far back as_of must reach, such as 30d; else as the job file says.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify every file of the tables, put small ones together, delete what no version inside the retention needs."""
    from pipelines.maintenance.maintain import maintain as look_after

    installation = open_installation(home)
    name, _ = installation.config.dataset(dataset)
    done = look_after(installation.dataset(name), None if retention is None else parse_duration(retention))
    if as_json:
        print_json(done)
        return
    for what, count in done.items():
        OUT.print(
            f"[bold]{escape(name)}[/] {what}: {count.files_before} -> {count.files_after} files, "
            f"{max(count.bytes_freed, 0) / 2**20:.1f} MiB freed"
        )


@channel_app.command()
def add(dataset: _NamedDataset, channel: _Channel, home: HomeOption = None) -> None:
    """Add a channel that the job file names; earlier rows have no value of it."""
    installation = open_installation(home)
    name, config = installation.config.dataset(dataset)
    if channel not in config.channels:
        raise _first_in_job_file(f'the job file has no channel "{channel}"', f"name it under datasets.{name}.channels")
    installation.dataset(name).observations.add_channel(channel)
    message = "earlier rows have the values it had before it was retired, if it ever was, and else none"
    OUT.print(f'"{channel}" is a channel of {name} now; {message}', markup=False)


@channel_app.command()
def rename(
    dataset: _NamedDataset,
    old: Annotated[str, typer.Argument(help="Its name in the lake.", show_default=False)],
    new: Annotated[str, typer.Argument(help="Its name in the job file.", show_default=False)],
    home: HomeOption = None,
) -> None:
    """Rename a channel; all versions of the data, the earlier ones too, have it under the new name."""
    installation = open_installation(home)
    name, config = installation.config.dataset(dataset)
    if new not in config.channels or old in config.channels:
        raise _first_in_job_file(f'the job file does not name "{new}" in place of "{old}"', "change the name there")
    installation.dataset(name).observations.rename_channel(old, new)
    OUT.print(f'"{old}" of {name} is called "{new}" now', markup=False)


@channel_app.command()
def retire(dataset: _NamedDataset, channel: _Channel, home: HomeOption = None) -> None:
    """Retire a channel that the job file does not name any more; its values stay in the history."""
    installation = open_installation(home)
    name, config = installation.config.dataset(dataset)
    if channel in config.channels:
        raise _first_in_job_file(f'the job file still names "{channel}"', "take it out there")
    installation.dataset(name).observations.retire_channel(channel)
    OUT.print(f'"{channel}" of {name} is retired; "forecast channel add" brings it back', markup=False)


def _first_in_job_file(fact: str, remedy: str) -> ConfigError:
    return ConfigError("channel.job_file_first", fact, f"{remedy} first")
