"""Sources of rows, ``[datasets.<name>.source]``: one class per kind."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from forecast.config.benchmarks import BenchmarkName
from forecast.strict import StrictModel
from forecast.vocabulary import Conflicts, Layout, parse_duration


class _Source(StrictModel):
    layout: Layout = Layout.WIDE
    """``wide``: one column per channel; ``long``: one row per value, with a column that names the channel."""
    channel: str = "channel"
    """long: the column that names the channel."""
    value: str = "value"
    """long: the column of values."""
    partial: bool = Field(default=False, strict=True)
    """Whether rows may cover only some channels: an empty cell or an absent column then leaves the stored value as it
    is. Long rows always cover a single channel."""
    version: str = ""
    """A column (timestamps or integers) that grows with each correction of a row; the newest version wins."""
    conflicts: Conflicts | None = None
    """Which of two rows with the same key and version stays; default: see :attr:`conflict_rule`."""

    @property
    def conflict_rule(self) -> Conflicts:
        """The configured rule for conflicting rows, or the default: latest row for snapshots, digest for batches.

        Batches have no known order, so that the result must not depend on it.
        """
        return self.conflicts or (Conflicts.LATEST if self.is_snapshot else Conflicts.DIGEST)

    @property
    def is_partial(self) -> bool:
        """Whether a missing value leaves the stored one as it is, instead of replacing it by a missing one."""
        return self.partial or self.layout is Layout.LONG

    @property
    def is_snapshot(self) -> bool:
        """Whether each read returns the complete present state, instead of one batch among others."""
        return False

    @property
    def reads_all(self) -> bool:
        """Whether each read returns all rows again, instead of those since the last read."""
        return self.is_snapshot


class FilesSource(_Source):
    """Files: one, a folder, a glob, or an address ``http(s)://``, ``s3://``, ``gs://``, ``az://``."""

    path: str
    """Relative to the config file; a folder ends in a slash; ``sample:nyc-airports`` is the packaged sample."""
    max_bytes: int = Field(default=4 * 2**30, ge=1, strict=True)
    """Maximum size of a downloaded or unpacked file."""
    timeout: str = "10m"
    """Time limit for downloading one file."""

    _timeout = field_validator("timeout")(lambda text: (parse_duration(text), text)[1])

    @property
    def is_address(self) -> bool:
        """Whether ``path`` is a URL."""
        return "://" in self.path

    @property
    def is_many(self) -> bool:
        """Whether ``path`` is a folder or a glob."""
        if self.path.startswith(("http://", "https://")):
            return False  # HTTP servers list no files, and "?" begins a query
        return self.path.endswith("/") or any(sign in self.path for sign in "*?[")

    @property
    def is_snapshot(self) -> bool:
        """True for a single file; a folder or glob is a set of batches."""
        return not self.is_many

    @property
    def reads_all(self) -> bool:
        """True: each read covers all files."""
        return True


class FileSource(FilesSource):
    """Files of one format."""

    kind: Literal["csv", "parquet", "jsonl", "arrow"]
    separator: str = Field(default="", pattern=r"^[,;|:\t ]?$")
    """csv: the delimiter; empty: a tab in ``.tsv`` files, a comma in all others."""
    decimal_comma: bool = Field(default=False, strict=True)
    """csv: whether numbers are written as 3,14."""

    @model_validator(mode="after")
    def _separator_is_not_the_decimal_comma(self) -> Self:
        if self.decimal_comma and self.separator in {"", ","} and not self.path.endswith(".tsv"):
            message = 'decimal_comma = true needs a separator other than a comma, such as ";"'
            raise ValueError(message)
        return self


class SqlSource(_Source):
    """A table or query of a database that SQLAlchemy supports."""

    kind: Literal["sql"]
    url: str = ""
    """Such as ``postgresql+psycopg://host/db`` or ``sqlite:///readings.db``; without a password."""
    url_from: str = ""
    """Environment variable that holds the URL, so that the config file contains no password."""
    table: str = ""
    """Its name, or ``schema.name``."""
    query: str = ""
    """A SELECT in place of ``table``."""
    cursor: str = ""
    """A column that grows with each new or changed row: a read starts at the last value seen.

    A row that is committed after rows with larger values have been read is never read. Use a column that is set on
    commit, or no cursor: then each read returns all rows.
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
        """True: the rows of a table are its present state."""
        return True

    @property
    def reads_all(self) -> bool:
        """False with a cursor: then a read returns only new rows."""
        return not self.cursor


class BenchmarkSource(_Source):
    """A named public benchmark: a file on disk or downloaded once by darts; its MD5 is checked either way."""

    kind: Literal["benchmark"]
    name: BenchmarkName
    path: str = ""
    """A file on disk; else the file that ``FORECAST_<NAME>`` names; else darts downloads it."""

    @property
    def is_snapshot(self) -> bool:
        """True: the source is one whole file."""
        return True


class PushSource(_Source):
    """No source to read: clients push rows through REST or from Python."""

    kind: Literal["push"]


class ReplaySource(FilesSource):
    """A Parquet file whose rows an accelerated clock releases, as if they were measured now."""

    kind: Literal["replay"]
    start: datetime
    """The local wall time at which the replay begins."""
    speed: float = Field(default=720.0, gt=0, le=1e6)
    """Seconds of data time per real second."""


Source = Annotated[FileSource | SqlSource | BenchmarkSource | PushSource | ReplaySource, Field(discriminator="kind")]
