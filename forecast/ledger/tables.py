"""The ledger's tables as they are now; :mod:`forecast.ledger.migrations` changes those of an earlier release."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

METADATA = sa.MetaData()
BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only an INTEGER key


class UtcTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC time, stored without its zone because SQLite has none."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Convert to UTC and drop the zone."""
        del dialect
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Add the zone UTC."""
        del dialect
        return None if value is None else value.replace(tzinfo=UTC)


RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("run_id", BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("job", sa.String(160), nullable=False),
    sa.Column("dataset", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("logical_date", sa.String(40), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("claimed_at", UtcTime, nullable=False),
    sa.Column("ended_at", UtcTime),
    sa.Column("pid", sa.Integer),
    sa.Column("reason", sa.Text),
    sa.Column("cause", sa.String(16)),
    sa.Column("due_at", UtcTime),
    sa.Column("document", sa.Text),
    sa.Column("host", sa.String(128)),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("not_before", UtcTime),
    sa.Column("started_at", UtcTime),
    sa.Column("heartbeat_at", UtcTime),
    sa.Column("cancel_asked_at", UtcTime),
    sa.Column("coalesced_into", sa.Integer),
    sa.Column("progress", sa.Float),
    sa.Column("doing", sa.Text),
    sa.Column("peak_memory_mb", sa.Float),
    sa.Column("tracking_run", sa.String(64)),
    sa.Column("forecast_id", sa.String(40)),
    sa.Column("log", sa.Text),
    sa.UniqueConstraint("job", "logical_date"),
)
"""One row per job and logical date; ``kind`` is its weight (:class:`forecast.config.jobs.Weight`), ``document`` the
job as it was when the date was claimed. ``attempt`` counts the workers that took the run: a late worker sees from it
that it is no longer the owner."""

ONE_RUNNING = sa.Index(
    "runs_one_running",
    RUNS.c.job,
    unique=True,
    sqlite_where=sa.text("state = 'running'"),
    postgresql_where=sa.text("state = 'running'"),
)
"""At most one run of a job is running; the database enforces it."""
WAITING = sa.Index("runs_state", RUNS.c.state)
LATEST_DUE = sa.Index("runs_due", RUNS.c.job, RUNS.c.due_at)

ATTEMPTS = sa.Table(
    "attempts",
    METADATA,
    sa.Column("run_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("host", sa.String(128), nullable=False),
    sa.Column("pid", sa.Integer),
    sa.Column("started_at", UtcTime, nullable=False),
    sa.Column("ended_at", UtcTime),
    sa.Column("outcome", sa.String(16)),
    sa.Column("reason", sa.Text),
    sa.Column("peak_memory_mb", sa.Float),
)
"""One row per worker that took a run, with its outcome."""

EVENTS = sa.Table(
    "events",
    METADATA,
    sa.Column("sequence", BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("dataset", sa.String(64), nullable=False),
    sa.Column("run_id", sa.BigInteger, index=True),
    sa.Column("document", sa.Text, nullable=False),
)
"""The event feed in order: states and progress of runs, forecasts, promotions, alerts."""

JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("name", sa.String(160), primary_key=True),
    sa.Column("document", sa.Text),
    sa.Column("paused", sa.Boolean, nullable=False, default=False),
    sa.Column("since", UtcTime, nullable=False),
    sa.Column("timing", sa.Text, nullable=False, default=""),
)
"""One row per job: its definition unless the config file has it, whether it is paused, and the time (on its data set's
clock) after which its dates count."""

LEASES = sa.Table(
    "leases",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(160), nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
)
"""Tasks that only one process may do. The holder counts ``beat`` up; another takes over once it stands still."""

HOSTS = sa.Table(
    "hosts",
    METADATA,
    sa.Column("name", sa.String(160), primary_key=True),
    sa.Column("machine", sa.String(128), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", UtcTime, nullable=False),
    sa.Column("heartbeat_at", UtcTime, nullable=False),
    sa.Column("trainings", sa.Integer, nullable=False),
    sa.Column("others", sa.Integer, nullable=False),
)
"""The processes that execute runs."""

CHAMPIONS = sa.Table(
    "champions",
    METADATA,
    sa.Column("sequence", BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("dataset", sa.String(64), nullable=False, index=True),
    sa.Column("model_name", sa.String(64), nullable=False),
    sa.Column("model_version", sa.String(64), nullable=False),
    sa.Column("folder", sa.String(256), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("promoted_at", UtcTime, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
)

RECEIPTS = sa.Table(
    "receipts",
    METADATA,
    sa.Column("sequence", BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("dataset", sa.String(64), nullable=False, index=True),
    sa.Column("recorded_at", UtcTime, nullable=False),
    sa.Column("data_version", sa.Integer),
    sa.Column("document", sa.Text, nullable=False),
)
"""One row per ingestion; the document is a :class:`forecast.ledger.receipts.Receipt` as JSON."""

NIGHTS = sa.Table(
    "nights",
    METADATA,
    sa.Column("sequence", BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("dataset", sa.String(64), nullable=False, index=True),
    sa.Column("recorded_at", UtcTime, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
"""One row per night that compared models; the document is a :class:`forecast.evaluation.night.NightRecord` as JSON."""

SCORED_DAYS = sa.Table(
    "scored_days",
    METADATA,
    sa.Column("dataset", sa.String(64), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("model_version", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("levels", sa.Text, nullable=False),
    sa.Column("ends", sa.Text, nullable=False),
)
"""The observations that one model's forecasts of one UTC day of origins were scored against; the day is scored again
once their digest differs."""

LEAD_SCORES = sa.Table(
    "lead_scores",
    METADATA,
    sa.Column("dataset", sa.String(64), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("model_version", sa.String(64), primary_key=True),
    sa.Column("channel", sa.String(64), primary_key=True),
    sa.Column("sums", sa.LargeBinary, nullable=False),
)
"""Sums over all series of one day's origins, per lead time: see :mod:`forecast.monitoring.live_scores`."""

SERIES_SCORES = sa.Table(
    "series_scores",
    METADATA,
    sa.Column("dataset", sa.String(64), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("model_version", sa.String(64), primary_key=True),
    sa.Column("series", sa.String(255), primary_key=True),
    sa.Column("channel", sa.String(64), primary_key=True),
    sa.Column("sums", sa.LargeBinary, nullable=False),
)
"""The same per series, over all lead times."""

FORECAST_SCORES = sa.Table(
    "forecast_scores",
    METADATA,
    sa.Column("forecast_id", sa.String(40), primary_key=True),
    sa.Column("channel", sa.String(64), primary_key=True),
    sa.Column("last", sa.Integer, primary_key=True),
    sa.Column("first", sa.Integer, nullable=False),
    sa.Column("dataset", sa.String(64), nullable=False),
    sa.Column("day", sa.String(10), nullable=False),
    sa.Column("model_version", sa.String(64), nullable=False),
    sa.Column("origin", UtcTime, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("absolute", sa.Float, nullable=False),
    sa.Column("squared", sa.Float, nullable=False),
    sa.Column("pinball", sa.Float, nullable=False),
    sa.Column("inside", sa.Float, nullable=False),
    sa.Column("width", sa.Float, nullable=False),
    sa.Column("compared", sa.Float, nullable=False),
    sa.Column("naive", sa.Float, nullable=False),
    sa.Index("forecast_scores_day", "dataset", "day", "model_version"),
    sa.Index("forecast_scores_origin", "dataset", "model_version", "origin"),
)
"""Sums over all series of one forecast, per channel and group of lead times ``first`` to ``last``."""

YARDSTICKS = sa.Table(
    "yardsticks",
    METADATA,
    sa.Column("dataset", sa.String(64), primary_key=True),
    sa.Column("model_version", sa.String(64), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)
"""The training data's statistics, the unit of a model's live scores; a ``forecast.monitoring.reference.Reference`` as
JSON."""

CORRECTIONS = sa.Table(
    "corrections",
    METADATA,
    sa.Column("sequence", BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("dataset", sa.String(64), nullable=False),
    sa.Column("model_version", sa.String(64), nullable=False),
    sa.Column("made_at", UtcTime, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Index("corrections_model", "dataset", "model_version"),
)
"""Corrections of quantiles between two trainings; a :class:`forecast.monitoring.correction.Correction` as JSON."""

REVISIONS = sa.Table(
    "revisions",
    METADATA,
    sa.Column("forecast_id", sa.String(40), primary_key=True),
    sa.Column("dataset", sa.String(64), nullable=False, index=True),
    sa.Column("recorded_at", UtcTime, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
"""How a forecast differs from the one before it; a :class:`forecast.monitoring.revision.Revision` as JSON."""

ALERTS = sa.Table(
    "alerts",
    METADATA,
    sa.Column("sequence", BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("dataset", sa.String(64), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("subject", sa.String(160), nullable=False),
    sa.Column("raised_at", UtcTime, nullable=False),
    sa.Column("resolved_at", UtcTime),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("limit", sa.Float),
    sa.Column("raise_sent_at", UtcTime),
    sa.Column("resolve_sent_at", UtcTime),
)
"""One row per alert, with the times between which it was open; ``*_sent_at`` is when the webhook was called."""

ONE_OPEN = sa.Index(
    "alerts_one_open",
    ALERTS.c.dataset,
    ALERTS.c.kind,
    ALERTS.c.subject,
    unique=True,
    sqlite_where=sa.text("resolved_at IS NULL"),
    postgresql_where=sa.text("resolved_at IS NULL"),
)
"""At most one alert of a kind and subject is open."""

KEYS = sa.Table(
    "keys",
    METADATA,
    sa.Column("key_id", sa.String(12), primary_key=True),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("scope", sa.String(16), nullable=False),
    sa.Column("datasets", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime),
    sa.Column("revoked_at", UtcTime),
)
"""Keys of the REST interface; ``datasets`` is a JSON list, empty for all. Revoked keys stay: once a key existed, the
service never again accepts requests without one."""

SCHEMA = sa.Table("ledger_schema", METADATA, sa.Column("version", sa.Integer, primary_key=True))
"""The schema number of releases before alembic; :data:`forecast.ledger.migrations.LAST_NUMBER` stays in it."""

CLOCKS = sa.Table(
    "clocks",
    METADATA,
    sa.Column("dataset", sa.String(64), primary_key=True),
    sa.Column("position", UtcTime, nullable=False),
    sa.Column("stopped", sa.Boolean, nullable=False, default=False),
)
