"""A kill at any moment of issuing leaves a complete forecast: the old one or the new one."""

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from api.state.issued import read_issued
from api.state.latest import LatestForecasts
from forecast.clock import SystemClock
from forecast.errors import StorageError
from forecast.installation import Installation
from forecast.ledger import Ledger
from forecast.ledger.champions import Champion
from forecast.ledger.issuance import Issuance
from forecast.monitoring.revision import Revision
from forecast.runtime.manifest import Manifest, manifest_digest
from pipelines.forecasting.issue import issue
from pipelines.maintenance.maintain import maintain, remove_unissued

KILLS = 30
DAY = timedelta(days=1)
BIASES = {"repeat_last-1": 0.0, "repeat_last-2": 2.0}  # in standard deviations of 10

# Imports once what takes seconds, and then, at each line of its input, forks a process that issues one forecast after
# the other, with the two champions in turn, and tells each that was issued; an empty line waits until that one is gone.
ISSUER = """
import os, sys
from pathlib import Path
from forecast.clock import SystemClock
from forecast.installation import Installation
from forecast.ledger.champions import Champion
from forecast.runtime.manifest import manifest_digest
from pipelines.forecasting.issue import issue

def issue_on(home):
    installation = Installation.open(Path(home))
    models = [(name, manifest_digest(installation.home.models / name)) for name in ("repeat_last-1", "repeat_last-2")]
    latest = installation.ledger.issuances.latest("tiny")
    first = latest.model_version == models[0][0]  # the dead process may have promoted before
    while True:
        name, digest = models[first]
        now = SystemClock().now()
        installation.ledger.champions.promote(Champion("tiny", "repeat_last", name, name, digest, now, "its turn"))
        issuance, _ = issue(installation.dataset("tiny"))
        print(issuance.forecast_id, flush=True)
        first = not first

for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        issue_on(sys.argv[1])
    print("pid", child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@pytest.fixture
def two_models(tiny_home: Installation, store_model: Callable[..., Manifest]) -> Installation:
    """A home with an issued forecast and a second model, whose forecasts lie 20 above the first one's."""
    config = tiny_home.config.datasets["tiny"]
    store_model(tiny_home.home.models / "repeat_last-2", config, bias=BIASES["repeat_last-2"])
    issue(tiny_home.dataset("tiny"))
    return tiny_home


@pytest.fixture
def issuer(two_models: Installation) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", ISSUER, str(two_models.home.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def promote(installation: Installation, version: str) -> None:
    digest = manifest_digest(installation.home.models / version)
    now = SystemClock().now()
    installation.ledger.champions.promote(Champion("tiny", "repeat_last", version, version, digest, now, "its turn"))


def whole(issuance: Issuance, installation: Installation) -> bool:
    """Read a forecast as the service does, which refuses a part of one, and compare all of it with its model's."""
    issued = read_issued(issuance, installation)
    last = (
        installation.dataset("tiny")
        .observations.read()
        .group_by("series")
        .last()
        .sort("series")
        .select("load", "price")
    )
    expected = last.to_numpy()[..., None] + 10 * BIASES[issuance.model_version]
    return issued.mean.shape == (2, 2, 24) and np.allclose(issued.mean, expected, atol=1e-3)


def unissued(installation: Installation) -> frozenset[str]:
    table = installation.dataset("tiny").forecasts
    return table.ids(table.version) - installation.ledger.issuances.ids("tiny")


def killed(issuer: subprocess.Popen[str], seconds: float) -> set[str]:
    """Start a process that issues forecasts, kill it some time after its first, and return those it reported."""
    assert issuer.stdin is not None
    assert issuer.stdout is not None
    print(file=issuer.stdin, flush=True)
    kind, _, pid = issuer.stdout.readline().strip().partition(" ")
    assert kind == "pid"
    message = {issuer.stdout.readline().strip()}
    time.sleep(seconds)  # the moment of the kill is what is drawn: there is no condition to wait for
    subprocess.run(["kill", "-9", pid], check=True)
    while (line := issuer.stdout.readline().strip()) != "gone":
        message.add(line)
    return message


def test_a_kill_at_a_random_moment_leaves_the_old_forecast_or_the_new_one(
    two_models: Installation, issuer: subprocess.Popen[str]
) -> None:
    moments = random.Random(7)  # noqa: S311
    latest = LatestForecasts(two_models, lambda _: None)
    acknowledged: set[str] = set()
    for _ in range(KILLS):
        before = two_models.ledger.issuances.latest("tiny")
        assert before is not None
        acknowledged |= killed(issuer, moments.uniform(0, 0.2))
        latest.refresh()
        served = latest.of("tiny").issuance
        assert latest.fault("tiny") is None
        assert served.sequence > before.sequence
        assert whole(served, two_models)
    issued = two_models.ledger.issuances.newest("tiny", limit=10**6)
    assert acknowledged <= {each.forecast_id for each in issued}
    assert all(whole(each, two_models) for each in issued)
    # Without the dead ones everything goes on, and what they left is gone two days later.
    left = unissued(two_models)
    assert remove_unissued(two_models.dataset("tiny"), SystemClock().now() + 2 * DAY) == left
    assert not unissued(two_models)
    assert whole(issued[0], two_models)
    promote(two_models, next(name for name in BIASES if name != issued[0].model_version))
    assert issue(two_models.dataset("tiny"))[1]


# --- what a dead process left -----------------------------------------------------------------------------------------


@pytest.fixture
def left(two_models: Installation, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a forecast whose issuer died between its rows and its issuance."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    promote(two_models, "repeat_last-2")
    with monkeypatch.context() as dying:
        dying.setattr("forecast.ledger.issuances.Issuances.add", die)
        with pytest.raises(KeyboardInterrupt):
            issue(two_models.dataset("tiny"))
    (found,) = unissued(two_models)
    return found


def test_what_was_never_issued_is_removed_after_a_day_and_nothing_else(two_models: Installation, left: str) -> None:
    now = SystemClock().now()
    issuance = two_models.ledger.issuances.latest("tiny")
    assert issuance is not None
    assert whole(issuance, two_models)
    assert remove_unissued(two_models.dataset("tiny"), now) == frozenset()
    assert remove_unissued(two_models.dataset("tiny"), now + 2 * DAY) == {left}
    table = two_models.dataset("tiny").forecasts
    assert table.read(left, issuance.issued_at).is_empty()
    assert whole(issuance, two_models)
    assert table.check().damages == ()
    version = table.version
    assert remove_unissued(two_models.dataset("tiny"), now + 3 * DAY) == frozenset()
    assert table.version == version


def test_rows_that_were_put_together_with_others_are_removed_too(two_models: Installation, left: str) -> None:
    maintain(two_models.dataset("tiny"))  # one file now
    assert unissued(two_models) == {left}
    assert remove_unissued(two_models.dataset("tiny"), SystemClock().now() + 2 * DAY) == {left}
    issuance = two_models.ledger.issuances.latest("tiny")
    assert issuance is not None
    assert whole(issuance, two_models)


def test_what_was_made_afterwards_is_not_taken_for_what_was_never_issued(two_models: Installation) -> None:
    made, _ = issue(two_models.dataset("tiny"), SystemClock().now())
    assert remove_unissued(two_models.dataset("tiny"), SystemClock().now() + 2 * DAY) == frozenset()
    assert len(two_models.dataset("tiny").forecasts.read(made.forecast_id, made.issued_at)) == 96


def test_while_a_forecast_is_issued_nothing_is_removed(
    two_models: Installation, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = []
    keep = type(two_models.ledger.issuances).add

    def frozen_for_two_days(ledger: Ledger, issuance: Issuance, revision: Revision | None = None) -> None:
        removed.append(remove_unissued(two_models.dataset("tiny"), SystemClock().now() + 2 * DAY))
        keep(ledger, issuance, revision)

    with monkeypatch.context() as slow:
        slow.setattr("forecast.ledger.issuances.Issuances.add", frozen_for_two_days)
        issuance, _ = issue(two_models.dataset("tiny"))
    assert removed == [frozenset()]
    assert whole(issuance, two_models)
    assert unissued(two_models) == {left}


# --- other faults -----------------------------------------------------------------------------------------------------

# In a namespace of its own: a home on a disk of 4 MiB, which is filled before the next forecast.
FULL = """
import json, sys
from pathlib import Path
from forecast.clock import SystemClock
from forecast.errors import ForecastError
from forecast.installation import Installation
from forecast.ledger.champions import Champion
from forecast.runtime.manifest import manifest_digest
from api.state.issued import read_issued
from pipelines.forecasting.issue import issue

home = Path(sys.argv[1])
installation = Installation.open(home)
before = installation.ledger.issuances.latest("tiny")
name = "repeat_last-2"
digest = manifest_digest(installation.home.models / name)
champion = Champion("tiny", "repeat_last", name, name, digest, SystemClock().now(), "its turn")
installation.ledger.champions.promote(champion)
filler = home / "filler"
with filler.open("wb", buffering=0) as stream:
    try:
        while True:
            stream.write(bytes(1024))
    except OSError:
        pass
try:
    issue(installation.dataset("tiny"))
    code = None
except ForecastError as error:
    code = error.code
after = installation.ledger.issuances.latest("tiny")
steps = read_issued(after, installation).horizon
filler.unlink()
issuance, is_new = issue(installation.dataset("tiny"))
read_issued(installation.ledger.issuances.latest("tiny"), installation)
print(json.dumps([code, after.forecast_id == before.forecast_id, steps, is_new, issuance.model_version]))
"""


def test_on_a_full_disk_the_old_forecast_stays(two_models: Installation, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    place = 'mount -t tmpfs -o size=4m full $1 && cp -r $2 $1/home && exec $3 -c "$4" $1/home'
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", place, "sh"]
    if subprocess.run([*inside[:4], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system of his own")
    message = subprocess.run(
        [*inside, str(disk), str(two_models.home.path), sys.executable, FULL],
        capture_output=True,
        text=True,
        check=False,
    )
    assert message.returncode == 0, message.stderr
    assert message.stdout.strip() == '["lake.disk_full", true, 24, true, "repeat_last-2"]'


def test_without_mlflow_forecasts_are_issued_as_ever(two_models: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    promote(two_models, "repeat_last-2")
    issuance, is_new = issue(two_models.dataset("tiny"))
    assert is_new
    assert whole(issuance, two_models)


def test_while_the_ledger_cannot_be_written_the_old_forecast_stays(two_models: Installation) -> None:
    before = two_models.ledger.issuances.latest("tiny")
    promote(two_models, "repeat_last-2")
    with closing(sqlite3.connect(two_models.home.path / "ledger.db")) as other:
        other.execute("ALTER TABLE events RENAME TO gone")
        with pytest.raises(StorageError) as caught:
            issue(two_models.dataset("tiny"))
        assert caught.value.code == "ledger.failed"
        assert two_models.ledger.issuances.latest("tiny") == before
        other.execute("ALTER TABLE gone RENAME TO events")
    assert issue(two_models.dataset("tiny"))[1]
    assert len(unissued(two_models)) == 1
