"""Where rows come from, as the job file tells it: one class per kind of source."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from forecast.config.benchmarks import BenchmarkName
from forecast.strict import StrictModel
from forecast.vocabulary import Conflicts, Layout, parse_duration


class _Source(StrictModel):
    layout: Layout = Layout.WIDE
    """``wide``: a column per channel; ``long``: a row per value, whose channel a column names."""
    channel: str = "channel"
    """long: the column that names the channel."""
    value: str = "value"
    """long: the column of values."""
    partial: bool = Field(default=False, strict=True)
    """Whether rows may tell only some channels: an empty cell, or a column that is not there, then says nothing. Long
    rows always tell only one."""
    version: str = ""
    """A column that grows with each correction of a row, a time or a whole number: the newest version wins."""
    conflicts: Conflicts | None = None
    """Which of two rows with the same key and version stays; see :attr:`settles`."""

    @property
    def settles(self) -> Conflicts:
        """How conflicts are settled: a source read whole tells what is true now, among batches no order is known."""
        return self.conflicts or (Conflicts.LATEST if self.is_snapshot else Conflicts.DIGEST)

    @property
    def is_partial(self) -> bool:
        """Whether a missing value says nothing, instead of that there is none."""
        return self.partial or self.layout is Layout.LONG

    @property
    def is_snapshot(self) -> bool:
        """Whether a read tells what is true now, and is no batch among others."""
        return False

    @property
    def reads_all(self) -> bool:
        """Whether every read tells everything anew, not only what has come since the last one."""
        return self.is_snapshot


class FilesSource(_Source):
    """Files: one, a folder, a glob, or an address ``http(s)://``, ``s3://``, ``gs://``, ``az://``."""

    path: str
    """Relative to the job file; a folder ends in a slash; ``sample:nyc-airports`` is the sample of the package."""
    max_bytes: int = Field(default=4 * 2**30, ge=1, strict=True)
    """The largest file that is fetched from an address or unpacked."""
    timeout: str = "10m"
    """How long fetching one file from an address may take."""

    _timeout = field_validator("timeout")(lambda text: (parse_duration(text), text)[1])

    @property
    def is_address(self) -> bool:
        """Whether the files lie elsewhere."""
        return "://" in self.path

    @property
    def is_many(self) -> bool:
        """Whether the path tells of a folder or a glob."""
        if self.path.startswith(("http://", "https://")):
            return False  # nothing can be listed there, and "?" begins a query
        return self.path.endswith("/") or any(sign in self.path for sign in "*?[")

    @property
    def is_snapshot(self) -> bool:
        """A single file is; a folder or glob is a set of batches."""
        return not self.is_many

    @property
    def reads_all(self) -> bool:
        """All files are read each time."""
        return True


class FileSource(FilesSource):
    """Files of one format."""

    kind: Literal["csv", "parquet", "jsonl", "arrow"]
    separator: str = Field(default="", pattern=r"^[,;|:\t ]?$")
    """csv: what stands between cells; a tab in files called .tsv, a comma in others, if empty."""
    decimal_comma: bool = Field(default=False, strict=True)
    """csv: whether numbers are written as 3,14."""

    @model_validator(mode="after")
    def _commas_mean_one_thing(self) -> Self:
        if self.decimal_comma and self.separator in {"", ","} and not self.path.endswith(".tsv"):
            message = 'decimal_comma = true needs a separator that is no comma, such as ";"'
            raise ValueError(message)
        return self


class SqlSource(_Source):
    """A table or query of a database that SQLAlchemy knows."""

    kind: Literal["sql"]
    url: str = ""
    """Such as ``postgresql+psycopg://host/db`` or ``sqlite:///readings.db``; without a password."""
    url_from: str = ""
    """Name of the environment variable that holds the URL, so that no password stands in the job file."""
    table: str = ""
    """Its name, or ``schema.name``."""
    query: str = ""
    """A SELECT in place of ``table``."""
    cursor: str = ""
    """A column that grows with every new or changed row: only rows from the last seen value on are read.

    A row that is committed after others with larger values have been read is never read: use a column that is set on
    commit, or none, which reads everything each time.
    """

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if bool(self.url) == bool(self.url_from):
            message = "give either url or url_from"
            raise ValueError(message)
        if bool(self.table) == bool(self.query):
            message = "give either table or query"
            raise ValueError(message)
        return self

    @property
    def is_snapshot(self) -> bool:
        """Rows of a table are its present state."""
        return True

    @property
    def reads_all(self) -> bool:
        """With a cursor only new rows are read."""
        return not self.cursor


class BenchmarkSource(_Source):
    """A named public benchmark: a file on disk, or fetched once by darts, checked by its hash either way."""

    kind: Literal["benchmark"]
    name: BenchmarkName
    path: str = ""
    """A file on disk; else that of the environment variable ``FORECAST_<NAME>``; else darts fetches it."""

    @property
    def is_snapshot(self) -> bool:
        """One file, whole."""
        return True


class PushSource(_Source):
    """Nothing is read: rows come through REST or from Python."""

    kind: Literal["push"]


class ReplaySource(FilesSource):
    """A Parquet file whose rows are released by an accelerated clock, as if they were measured now."""

    kind: Literal["replay"]
    start: datetime
    """The local wall time at which the replay begins."""
    speed: float = Field(default=720.0, gt=0, le=1e6)
    """Seconds of the data's time that pass in one real second."""


Source = Annotated[FileSource | SqlSource | BenchmarkSource | PushSource | ReplaySource, Field(discriminator="kind")]
