"""The same tables in an object store, over a real socket."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import polars as pl
import pytest

from forecast.errors import StorageError
from forecast.installation import Installation
from forecast.lake.observations import Observations
from forecast.lake.quarantine import Quarantine
from forecast.lake.schemas import TIME
from forecast.vocabulary import Conflicts

START = datetime(2024, 1, 31, 12, tzinfo=UTC)
# Serves until its standard input is closed.
SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()
server.stop()
"""
FUTURE = datetime(2200, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    # In a process of its own: while Delta waits for an answer, no other thread of this one may get to run.
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


@pytest.fixture
def lake(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A bucket, and its access in the environment, as an operator would give it."""
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "tester",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "locks").mkdir()
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # it would go on talking to another test's server
    bucket = f"bucket{abs(hash(tmp_path))}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/lake"


def rows(first: int, last: int, load: float = 1.0, version: int | None = None) -> pl.DataFrame:
    times = [START + timedelta(hours=hour) for hour in range(first, last)]
    columns = {"series": ["east"] * len(times), "time": times, "version": version, "load": load}
    return pl.DataFrame(columns, schema={"series": pl.String, "time": TIME, "version": pl.Int64, "load": pl.Float64})


@pytest.mark.slow
def test_a_table_in_an_object_store_does_all_that_one_on_disk_does(
    lake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forecast.lake.acknowledgement._CHECKPOINT_EVERY", 2)
    observations = Observations(lake, tmp_path / "locks", "tiny", ("load",))
    assert not observations.exists
    for number in range(3):
        observations.merge(rows(10 * number, 10 * number + 15, load=float(number)))
    assert observations.merge(rows(20, 35, load=2.0)).unchanged == 15
    assert observations.merge(rows(0, 5, load=9.0, version=1)).changed == 5
    assert observations.merge(rows(0, 5, load=0.0), conflicts=Conflicts.DIGEST).outdated == 5
    assert len(observations.superseded()) == 5
    assert len(observations.read(version=0)) == 15
    observations.rename_channel("load", "demand")
    renamed = Observations(lake, tmp_path / "locks", "tiny", ("demand",))
    assert renamed.read(since=START + timedelta(hours=30))["demand"].to_list() == [2.0] * 5
    assert renamed.version_at(FUTURE) == renamed.version
    before = renamed.read()
    assert renamed.maintain(timedelta(0), FUTURE).files_after == 2
    assert renamed.read().equals(before)
    assert renamed.check().damages == ()


def test_damage_and_torn_tails_are_found_there_too(lake: str, tmp_path: Path) -> None:
    observations = Observations(lake, tmp_path / "locks", "tiny", ("load",))
    observations.merge(rows(0, 10))
    version = observations.merge(rows(10, 20)).version
    files = fsspec.filesystem("s3")
    root = f"{lake}/tiny/observations"
    files.rm_file(f"{root}/_digests/{version:020d}.sha256")
    files.pipe_file(f"{root}/_delta_log/{version:020d}.json", b"{")
    assert len(Observations(lake, tmp_path / "locks", "tiny", ("load",)).read()) == 10
    assert [damage.code for damage in observations.check().damages] == ["lake.torn_tail"]
    data = f"{root}/{observations._open(0).files['name'].item()}"
    files.pipe_file(data, files.cat_file(data)[:-1] + b"?")
    with pytest.raises(StorageError) as caught:
        observations.read()
    assert caught.value.code == "lake.corrupt"


def test_an_installation_keeps_its_tables_where_the_environment_says(
    lake: str, make_home: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECAST_LAKE_URL", lake)
    installation: Installation = make_home()  # type: ignore[operator]
    aside = {"source": "a.csv", "row": 1, "code": "spike", "reason": "r", "series": "s", "time": "t", "content": "{}"}
    assert installation.dataset("tiny").quarantine.append(pl.DataFrame([aside])) == 1
    assert Quarantine(lake, installation.home.locks, "tiny").read()["code"].to_list() == ["spike"]
    assert not list(installation.home.lake.iterdir())
