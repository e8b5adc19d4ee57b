"""Commands about data: ingest it, check it, show its problems, change its channels, maintain its tables."""

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
    help="Add, rename or retire a channel of the stored data, after you changed it in the config file.",
    no_args_is_help=True,
)
_NamedDataset = Annotated[str, typer.Argument(metavar="dataset", help="Name of the data set.", show_default=False)]
_Channel = Annotated[str, typer.Argument(help="Name of the channel.", show_default=False)]


def ingest(name: DatasetArgument = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Ingest new rows. Idempotent: rows already stored are left unchanged."""
    from pipelines.ingestion.ingest import ingest as run_ingest

    dataset = open_installation(home).dataset(name)
    receipt = run_ingest(dataset)
    if as_json:
        print_json(receipt)
    else:
        print_receipt(receipt)


def check(
    file: Annotated[
        Path | None, typer.Argument(help="File to check instead of the source.", show_default=False)
    ] = None,
    name: DatasetOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Validate a source or a file as an ingestion would, and list its problems. Writes nothing."""
    from pipelines.ingestion.ingest import read_source, validate

    dataset = open_installation(home).dataset(name)
    receipt = validate(dataset, None if file is None else read_source(dataset, file))
    if as_json:
        print_json(receipt)
    else:
        print_receipt(receipt)


def receipts(
    name: DatasetArgument = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number, newest first.")] = 10,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the latest ingestions and the problems that each one found."""
    dataset = open_installation(home).dataset(name)
    found = dataset.ledger.receipts.latest(dataset.name, limit)
    if as_json:
        print_json(found)
    else:
        OUT.print(receipts_table(found))


def quarantine(
    name: DatasetArgument = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows, newest first.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show quarantined rows, each with its reason."""
    dataset = open_installation(home).dataset(name)
    rows = dataset.quarantine.read(limit=limit).to_dicts()
    if as_json:
        print_json(rows)
    elif rows:
        OUT.print(quarantine_table(rows))
    else:
        OUT.print(f"{dataset.name} has no quarantined rows")


def rows(
    file: Annotated[Path, typer.Argument(help="File to write: .csv or .parquet.", show_default=False)],
    name: DatasetOption = None,
    as_of: Annotated[
        datetime | None, typer.Option(help="Rows as they were known at this time, UTC.", show_default=False)
    ] = None,
    version: Annotated[int | None, typer.Option(min=0, help="Rows of this data version.", show_default=False)] = None,
    since: Annotated[datetime | None, typer.Option(help="Rows from this time on, UTC.", show_default=False)] = None,
    until: Annotated[datetime | None, typer.Option(help="Rows before this time, UTC.", show_default=False)] = None,
    superseded: Annotated[
        bool, typer.Option(help="Write the rows that lost a conflict with a stored row instead.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write observations to a file: the newest rows, or exactly the rows known at a past time."""
    if file.suffix not in {".csv", ".parquet"}:
        raise ConfigError("rows.unknown_format", f'"{file.name}" is neither .csv nor .parquet', "choose one of them")
    dataset = open_installation(home).dataset(name)
    table = dataset.observations
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
        raise StorageError(
            "rows.not_written", f'cannot write "{file}" ({error.strerror})', "choose another file"
        ) from error
    if as_json:
        print_json({"rows": len(found), "data_version": version, "file": str(file)})
    else:
        OUT.print(f'wrote {len(found):,} rows of {dataset.name} to "{file}"', markup=False, soft_wrap=True)


def maintain(
    name: DatasetArgument = None,
    retention: Annotated[
        str | None,
        typer.Option(help="How far back as_of must reach, such as 30d. Default: the config file's retention."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify every file of the tables, compact small files, and delete files that no retained version needs."""
    from pipelines.maintenance.maintain import maintain as run_maintain

    dataset = open_installation(home).dataset(name)
    done = run_maintain(dataset, None if retention is None else parse_duration(retention))
    if as_json:
        print_json(done)
        return
    for table, count in done.items():
        OUT.print(
            f"[bold]{escape(dataset.name)}[/] {table}: {count.files_before} -> {count.files_after} files, "
            f"{max(count.bytes_freed, 0) / 2**20:.1f} MiB freed"
        )


@channel_app.command()
def add(name: _NamedDataset, channel: _Channel, home: HomeOption = None) -> None:
    """Add a channel that the config file lists. Earlier rows have no values for it."""
    dataset = open_installation(home).dataset(name)
    if channel not in dataset.config.channels:
        raise _config_file_first(
            f'the config file has no channel "{channel}"', f"add it under datasets.{dataset.name}.channels"
        )
    dataset.observations.add_channel(channel)
    message = "earlier rows have no values for it, unless it was retired before: then its old values are back"
    OUT.print(f'added channel "{channel}" to {dataset.name}; {message}', markup=False)


@channel_app.command()
def rename(
    name: _NamedDataset,
    old: Annotated[str, typer.Argument(help="Name of the channel in the stored data.", show_default=False)],
    new: Annotated[str, typer.Argument(help="Name of the channel in the config file.", show_default=False)],
    home: HomeOption = None,
) -> None:
    """Rename a channel in all data versions, earlier ones included."""
    dataset = open_installation(home).dataset(name)
    if new not in dataset.config.channels or old in dataset.config.channels:
        raise _config_file_first(
            f'the config file does not have "{new}" in place of "{old}"', "change the name in the config file"
        )
    dataset.observations.rename_channel(old, new)
    OUT.print(f'renamed channel "{old}" of {dataset.name} to "{new}"', markup=False)


@channel_app.command()
def retire(name: _NamedDataset, channel: _Channel, home: HomeOption = None) -> None:
    """Retire a channel that the config file no longer lists. Its values stay in the history."""
    dataset = open_installation(home).dataset(name)
    if channel in dataset.config.channels:
        raise _config_file_first(f'the config file still has channel "{channel}"', "remove it from the config file")
    dataset.observations.retire_channel(channel)
    OUT.print(f'retired channel "{channel}" of {dataset.name}; "forecast channel add" restores it', markup=False)


def _config_file_first(fact: str, remedy: str) -> ConfigError:
    return ConfigError("channel.job_file_first", fact, f"{remedy} first")
