from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import forecast
from forecast.config.file import ConfigFile, load_config_file
from forecast.errors import ConfigError, NotFoundError, StorageError

NAN = float("nan")
Document = dict[str, Any]

# Where, what is written there, and what the error must name: the field as it stands in the file, and the way out.
MISTAKES: list[tuple[str, object, tuple[str, ...]]] = [
    ("horizns", [24], ("datasets.tiny.horizns", 'did you mean "horizons"?')),
    ("source.pth", "x.csv", ("datasets.tiny.source.pth", 'did you mean "path"?')),
    ("source.kind", "excel", ("datasets.tiny.source", "'csv', 'parquet', 'jsonl'")),
    ("source.kind", "replay", ("datasets.tiny.source.start", "is missing")),
    ("source", {"kind": "replay", "path": "x", "start": "soon"}, ("datasets.tiny.source.start", "datetime")),
    ("source.speed", 0, ("datasets.tiny.source.speed", "is not a field")),
    ("source", {"kind": "sql", "table": "x"}, ("datasets.tiny.source", "either url or url_from")),
    ("source", {"kind": "sql", "url": "sqlite://"}, ("datasets.tiny.source", "either table or query")),
    ("source", {"kind": "benchmark", "name": "etth9"}, ("datasets.tiny.source.name", "'etth1', 'etth2'")),
    ("source.layout", "tall", ("datasets.tiny.source.layout", "'wide' or 'long'")),
    ("checks", {"spikes": "warn"}, ("datasets.tiny.checks", 'did you mean "spike"?')),
    ("channels.load.source_unit", "degC", ("datasets.tiny.channels.load", "cannot be converted")),
    ("channels.wind.source_unit", "furlong per", ("datasets.tiny.channels.wind", "cannot be converted")),
    ("channels.wind.column", "price", ("datasets.tiny.channels", 'two channels read the column "price"')),
    ("channels.load.clip", "yes", ("datasets.tiny.channels.load.clip", "boolean")),
    ("source.decimal_comma", True, ("datasets.tiny.source", "needs a separator")),
    ("statics", {"east": {"area": 1.0}, "west": {"height": 1.0}}, ("datasets.tiny", "same names")),
    ("retention", "long", ("datasets.tiny.retention", "is not a duration")),
    ("quarantine_limit", 2, ("datasets.tiny.quarantine_limit", "less than or equal to 1")),
    ("doubled_hour", "both", ("datasets.tiny.doubled_hour", "'in_order', 'earlier' or 'later'")),
    ("source.path", None, ("datasets.tiny.source.path", "missing")),
    ("channels.load.rolle", "target", ("datasets.tiny.channels.load.rolle", 'did you mean "role"?')),
    ("channels.load.role", "tarjet", ("datasets.tiny.channels.load.role", "'target', 'past' or 'future'")),
    (
        "channels.load.fill",
        "spline",
        ("datasets.tiny.channels.load.fill", "'none', 'linear', 'forward', 'seasonal' or 'zero'"),
    ),
    ("channels.load.fill_limit", -1, ("datasets.tiny.channels.load.fill_limit", "greater than or equal to 0")),
    ("channels.load.upper", 0, ("datasets.tiny.channels.load", "must be less than upper")),
    ("channels.load.lower", NAN, ("datasets.tiny.channels.load",)),
    ("channels.1st", {"role": "past"}, ("datasets.tiny.channels.1st",)),
    ("channels.time", {"role": "past"}, ("channels", "time")),
    ("channels.month", {"role": "past"}, ("channels", "month")),
    ("channels", {"wind": {"role": "past"}}, ("datasets.tiny", 'role = "target"')),
    ("frequency", "1 hour", ("datasets.tiny.frequency", "is not a duration")),
    ("stale_after", "soon", ("datasets.tiny.stale_after", "is not a duration")),
    ("zone", "Europe/Berlinn", ("datasets.tiny.zone", 'did you mean "Europe/Berlin"?')),
    ("holidays", "US-XX", ("holidays", "US-XX")),
    ("horizons", [], ("datasets.tiny.horizons", "at least 1")),
    ("horizons", [0], ("datasets.tiny.horizons", "between 1 and")),
    ("horizons", [10**9], ("datasets.tiny.horizons", "between 1 and")),
    ("horizons", [24, 6], ("datasets.tiny.horizons", "ascend")),
    ("quantiles", [0.1, 0.5, 1.0], ("datasets.tiny.quantiles", "between 0 and 1")),
    ("quantiles", [0.1, 0.9], ("datasets.tiny.quantiles", "contain 0.5")),
    ("quantiles", [0.1, 0.5, 0.8], ("datasets.tiny.quantiles", "symmetric")),
    ("lookback", 0, ("datasets.tiny.lookback", "greater than or equal to 1")),
    ("lookback", "long", ("datasets.tiny.lookback", "integer")),
    ("season", 49, ("datasets.tiny", "lookback (48) must not be shorter than season (49)")),
    ("models", [], ("datasets.tiny.models", "at least 1")),
    ("models", ["linear", "linear"], ("datasets.tiny.models", "linear")),
    ("options", {"itransformer": {"width": 8}}, ("datasets.tiny", "itransformer", "not among models")),
    ("splits.holdot", "3d", ("datasets.tiny.splits.holdot", 'did you mean "holdout"?')),
    ("splits.holdout", "three days", ("datasets.tiny.splits.holdout", "is not a duration")),
    ("splits.holdout", "23h", ("datasets.tiny", "splits.holdout", "shorter than the longest horizon")),
    ("training.budgt", "3s", ("datasets.tiny.training.budgt", 'did you mean "budget"?')),
    ("training.budget", "0s", ("datasets.tiny.training.budget", "is not a duration")),
    ("promotion.min_gain", 1, ("datasets.tiny.promotion.min_gain", "less than 1")),
    ("schedule.refresh", "0 2 * * *", ("datasets.tiny.schedule", "is no longer a field", "[jobs.<name>]")),
]


def changed(document: Document, place: str, value: object) -> Document:
    *parents, last = place.split(".")
    table = document["datasets"]["tiny"]
    for parent in parents:
        table = table.setdefault(parent, {})
    if value is None:
        del table[last]
    else:
        table[last] = value
    return document


@pytest.fixture
def load(tmp_path: Path, to_toml: Callable[[Mapping[str, Any]], str]) -> Callable[[Document], ConfigFile]:
    def write_and_load(document: Document) -> ConfigFile:
        path = tmp_path / "forecast.toml"
        path.write_text(to_toml(document), encoding="utf-8")
        return load_config_file(path)

    return write_and_load


def test_the_sample_config_is_valid_and_says_what_the_readme_says() -> None:
    path = Path(forecast.__file__).parent / "config" / "sample.toml"
    name, config = load_config_file(path).dataset(None)
    assert name == "nyc-airports"
    assert config.horizons == (24, 168, 336)
    assert config.horizon == 336
    assert config.targets == ("departures", "mean_delay", "cancellations")
    assert len(config.past_covariates) == 7
    assert config.step.total_seconds() == 3600
    assert [(one.description, one.cron) for one in load_config_file(path).jobs.values()] == [
        ("ingest -> score -> forecast", "0 */6 * * *"),
        ("ingest -> retrain -> forecast", "30 2 * * *"),
    ]


def test_the_tiny_config_is_valid(load: Callable[[Document], ConfigFile], tiny_document: Document) -> None:
    config = load(tiny_document).datasets["tiny"]
    assert (config.targets, config.past_covariates, config.horizon) == (("load", "price"), ("wind",), 24)


@pytest.mark.parametrize(
    ("place", "value", "expected"), MISTAKES, ids=[f"{place}={value}" for place, value, _ in MISTAKES]
)
def test_a_mistake_in_the_config_file_is_named_with_its_place(
    load: Callable[[Document], ConfigFile],
    tiny_document: Document,
    place: str,
    value: object,
    expected: tuple[str, ...],
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(changed(tiny_document, place, value))
    message = str(caught.value)
    assert "forecast.toml" in message
    assert [part for part in expected if part not in message] == []


JOB_MISTAKES = [
    ("cron", "every day", ("jobs.nightly.cron", "fields")),
    ("cron", "0 25 * * *", ("jobs.nightly.cron", "hour")),
    ("zone", "Europe/Berlinn", ("jobs.nightly.zone", 'did you mean "Europe/Berlin"?')),
    ("crom", "0 0 * * *", ("jobs.nightly.crom", 'did you mean "cron"?')),
    ("dataset", "tinny", ("tinny", 'did you mean "tiny"?')),
    ("steps", [], ("jobs.nightly.steps", "at least 1")),
    ("steps", ["retrian"], ("jobs.nightly.steps", "'retrain'")),
    ("steps", ["ingest", "ingest"], ("jobs.nightly", "must not repeat")),
    ("steps", ["tune"], ("jobs.nightly", "needs a model")),
    ("model", "linear", ("jobs.nightly", "needs a model")),
    ("on", ["weather"], ("jobs.nightly.on", "'watermark'")),
    ("on", ["data", "data"], ("jobs.nightly", "must not repeat")),
    ("on", ["data"], ("jobs.nightly", "trigger itself")),
    ("catch_up", "all", ("jobs.nightly.catch_up", "'latest' or 'each'")),
    ("time_limit", "long", ("jobs.nightly.time_limit", "is not a duration")),
    ("memory_limit", "lots", ("jobs.nightly.memory_limit", "8GB")),
    ("retries", -1, ("jobs.nightly.retries", "greater than or equal to 0")),
    ("cores", 0, ("jobs.nightly.cores", "greater than or equal to 1")),
]


@pytest.mark.parametrize(("name", "value", "expected"), JOB_MISTAKES)
def test_a_mistake_in_a_job_is_named_with_its_place(
    load: Callable[[Document], ConfigFile], tiny_document: Document, name: str, value: object, expected: tuple[str, ...]
) -> None:
    tiny_document["jobs"] = {"nightly": {"dataset": "tiny", "steps": ["ingest"], "cron": "0 2 * * *"} | {name: value}}
    with pytest.raises(ConfigError) as caught:
        load(tiny_document)
    assert [part for part in expected if part not in str(caught.value)] == []


@pytest.mark.parametrize("missing", ["source", "frequency", "channels", "horizons", "lookback", "season", "models"])
def test_a_missing_field_is_named(
    load: Callable[[Document], ConfigFile], tiny_document: Document, missing: str
) -> None:
    del tiny_document["datasets"]["tiny"][missing]
    with pytest.raises(ConfigError, match=f'"datasets.tiny.{missing}" is missing'):
        load(tiny_document)


def test_a_misspelt_table_is_named_with_the_right_one(
    load: Callable[[Document], ConfigFile], tiny_document: Document
) -> None:
    with pytest.raises(ConfigError, match='"dataset" is not a field; did you mean "datasets"'):
        load({"dataset": tiny_document["datasets"]})


@pytest.mark.parametrize("name", ["source", "training", "channels", "tiny"])
def test_a_typo_is_corrected_whatever_the_data_set_is_called(
    load: Callable[[Document], ConfigFile], tiny_document: Document, name: str
) -> None:
    tiny_document["datasets"]["tiny"]["horizns"] = [24]
    with pytest.raises(ConfigError, match='did you mean "horizons"'):
        load({"datasets": {name: tiny_document["datasets"]["tiny"]}})


def test_all_mistakes_are_listed_at_once(load: Callable[[Document], ConfigFile], tiny_document: Document) -> None:
    changed(changed(changed(tiny_document, "horizns", [24]), "frequency", "1 hour"), "training.patience", 0)
    with pytest.raises(ConfigError) as caught:
        load(tiny_document)
    assert all(field in str(caught.value) for field in ("horizns", "frequency", "patience"))


@pytest.mark.parametrize("name", ["Tiny", "ti ny", "", "../up", "-x", "x" * 64])
def test_a_data_set_must_have_a_name_that_can_be_a_folder_and_an_address(
    load: Callable[[Document], ConfigFile], tiny_document: Document, name: str
) -> None:
    with pytest.raises(ConfigError, match="pattern"):
        load({"datasets": {name: tiny_document["datasets"]["tiny"]}})


def test_malformed_toml_is_rejected_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "forecast.toml"
    path.write_text("[datasets.tiny]\nfrequency = 1h\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2") as caught:
        load_config_file(path)
    assert caught.value.code == "job_file.malformed"


def test_a_config_file_that_is_not_text_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "forecast.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config_file(path)


def test_a_config_file_that_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        load_config_file(tmp_path / "forecast.toml")


def test_an_empty_config_file_is_rejected(load: Callable[[Document], ConfigFile]) -> None:
    with pytest.raises(ConfigError, match='"datasets" is missing'):
        load({})


def test_an_unknown_data_set_is_rejected_with_the_nearest_name(
    load: Callable[[Document], ConfigFile], tiny_document: Document
) -> None:
    with pytest.raises(NotFoundError, match='no data set "tinny"; did you mean "tiny"') as caught:
        load(tiny_document).dataset("tinny")
    assert caught.value.code == "dataset.unknown"


def test_among_several_data_sets_one_must_be_named(
    load: Callable[[Document], ConfigFile], tiny_document: Document
) -> None:
    tiny_document["datasets"]["small"] = tiny_document["datasets"]["tiny"]
    with pytest.raises(ConfigError, match="name one of: tiny, small"):
        load(tiny_document).dataset(None)


def test_targets_and_covariates_keep_the_order_of_the_file(
    load: Callable[[Document], ConfigFile], tiny_document: Document
) -> None:
    channels = tiny_document["datasets"]["tiny"]["channels"]
    tiny_document["datasets"]["tiny"]["channels"] = dict(reversed(channels.items()))
    assert load(tiny_document).datasets["tiny"].targets == ("price", "load")
