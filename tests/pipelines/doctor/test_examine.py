"""The doctor: each test breaks a part of a real home, and the doctor reports it with a remedy."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from forecast.config.jobs import Job
from forecast.installation import Installation
from forecast.lake import checksums
from forecast.ledger.leases import Host
from forecast.scheduling import processes
from forecast.scheduling.job_book import JobBook
from pipelines.doctor import data, machine, work
from pipelines.doctor.examine import CHECKS, examine
from pipelines.doctor.finding import Diagnosis
from pipelines.doctor.subject import Subject
from pipelines.forecasting.issue import issue

Found = Callable[..., list[Diagnosis]]
NOW = datetime.now(UTC)


@pytest.fixture
def sick(tiny_home: Installation) -> Installation:
    """A home that is well until a test breaks something."""
    issue(tiny_home.dataset("tiny"))
    return tiny_home


@pytest.fixture
def found(sick: Installation) -> Found:
    """Run some checks; return all findings except those of level "well"."""

    def look(*names: str, deep: bool = False, port: int = 0, ui_port: int = 0) -> list[Diagnosis]:
        checksums._INTACT.clear()  # as a process that has just started
        with Subject(sick.home.path, deep=deep, port=port or 1, ui_port=ui_port or 1) as subject:
            findings = examine(subject, {name: CHECKS[name] for name in names})
        assert findings
        assert all(finding.remedy and finding.code for finding in findings if not finding.is_well)
        return [finding for finding in findings if not finding.is_well]

    return look


def codes(findings: list[Diagnosis]) -> list[str]:
    return [finding.code for finding in findings]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_sound_home_is_well(sick: Installation) -> None:
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    with Subject(sick.home.path, deep=True, port=ports[0], ui_port=ports[1]) as subject:
        findings = examine(subject, {name: check for name, check in CHECKS.items() if name != "kernels"})
    assert [finding for finding in findings if not finding.is_well and finding.about not in {"forecasts", "disk"}] == []
    assert {finding.about for finding in findings} == CHECKS.keys() - {"kernels"}


def test_kernels_are_reported_with_torch_and_a_remedy_without_it() -> None:
    # In a process of its own: nothing else here needs torch.
    look = "from pipelines.doctor.machine import kernels\nprint(*kernels(None), sep='\\n')"
    message = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout
    assert "prob_sparse_attention runs on the" in message
    assert "selective_scan runs on the" in message
    without = f"import sys\nsys.modules['torch'] = None\n{look}"
    message = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=True).stdout
    assert "packages.torch" in message


def test_a_package_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "torch-1.0.0.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with Subject(None) as subject:
        (finding,) = machine.packages(subject)
    assert finding.code == "packages.do_not_fit"
    assert "torch is 1.0.0" in finding.fact


def test_a_folder_that_is_not_a_home_is_reported_once(tmp_path: Path) -> None:
    checks = {name: check for name, check in CHECKS.items() if name not in {"kernels", "packages"}}
    with Subject(tmp_path) as subject:
        findings = examine(subject, checks)
    assert codes([finding for finding in findings if not finding.is_well]) == ["home.not_found"]


def test_an_error_in_the_config_file_hides_no_other_check(sick: Installation, found: Found) -> None:
    text = sick.home.config_file.read_text()
    sick.home.config_file.write_text(text.replace("horizons", "horizns"))
    findings = found("home", "config file", "ledger", "lake", "champions", "worker hosts")
    assert len(findings) == 1
    assert "horizns" in findings[0].fact


def test_a_folder_that_cannot_be_written_is_named(sick: Installation, found: Found) -> None:
    shutil.rmtree(sick.home.reports)
    sick.home.reports.write_text("a file in its place")
    assert codes(found("home")) == ["home.not_writable"]


def test_a_port_used_by_another_program_is_reported(sick: Installation, found: Found) -> None:
    del sick
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        taken.settimeout(0)
        assert "port.taken" in codes(found("ports", port=taken.getsockname()[1]))


def test_a_broken_ledger_is_reported(sick: Installation, found: Found) -> None:
    sick.ledger.close()
    for file in sick.home.path.glob("ledger.db*"):
        file.write_bytes(b"no database at all" * 1000)
    assert codes(found("ledger", "clock", "forecasts", "runs")) == ["ledger.failed"]


def test_a_ledger_of_a_later_release_is_reported(sick: Installation, found: Found) -> None:
    with sick.ledger._database._engine.begin() as connection:
        connection.execute(sa.text("update ledger_schema set version = 99"))
    assert codes(found("ledger")) == ["ledger.other_version"]


def test_a_clock_behind_recorded_times_is_reported(sick: Installation, found: Found) -> None:
    assert found("clock") == []
    later = NOW + timedelta(hours=3)
    sick.ledger.hosts.beat(Host("other:1", "other", 1, NOW, later, 1, 1))
    assert codes(found("clock")) == ["clock.behind"]


def test_flipped_bits_in_tables_and_models_are_reported(sick: Installation, found: Found) -> None:
    oldest = min((sick.home.lake / "tiny" / "observations").glob("month=*/*.parquet"))
    flip(oldest)
    assert found("lake") == []  # the quick look opens what is newest
    assert codes(found("lake", deep=True)) == ["lake.corrupt"]
    flip(next((sick.home.lake / "tiny" / "forecasts").glob("issued_month=*/*.parquet")))
    assert codes(found("forecasts")) == ["lake.corrupt"]
    flip(sick.home.models / "repeat_last-1" / "model.onnx")
    assert codes(found("champions")) == ["model.corrupt"]


def test_a_table_that_lost_versions_is_reported(sick: Installation, found: Found) -> None:
    shutil.rmtree(sick.home.lake / "tiny" / "observations")
    assert codes(found("lake")) == ["history.empty"]


def test_a_home_in_which_nothing_was_done_says_what_is_next(
    make_home: Callable[..., Installation], tmp_path: Path
) -> None:
    home = make_home(folder=tmp_path / "new").home
    with Subject(home.path) as subject:
        checks = {name: CHECKS[name] for name in ("lake", "champions", "forecasts", "MLflow")}
        findings = [finding for finding in examine(subject, checks) if not finding.is_well]
    assert codes(findings) == ["history.empty", "forecast.no_champion", "forecast.none_yet"]
    assert [finding.remedy.split('"')[1].split()[1] for finding in findings] == ["ingest", "train", "forecast"]


def test_a_stale_and_an_incomplete_forecast_are_reported(
    sick: Installation, found: Found, wait_until: Callable[..., None]
) -> None:
    assert found("forecasts") == []
    job_file = sick.home.config_file.read_text()
    sick.home.config_file.write_text(job_file.replace('["datasets"."tiny"]', '[datasets.tiny]\nstale_after = "1s"'))
    wait_until(lambda: codes(found("forecasts")) == ["forecast.stale"])
    earlier = (NOW - timedelta(days=40)).replace(tzinfo=None)  # rows are kept under the month of their issue
    with sick.ledger._database._engine.begin() as connection:
        connection.execute(sa.text("update issuances set issued_at = :then"), {"then": earlier})
    assert codes(found("forecasts")) == ["forecast.incomplete"]


def test_a_schedule_without_a_scheduler_is_reported(sick: Installation, found: Found) -> None:
    assert found("scheduler") == []
    job = {"dataset": "tiny", "steps": ["ingest"], "cron": "5 * * * *"}
    JobBook(sick).add("hourly", Job.model_validate(job))
    findings = found("scheduler")
    assert codes(findings) == ["scheduler.none"]
    assert "hourly" in findings[0].fact
    sick.ledger.leases.take("scheduler", "dead:1", None)
    assert "silent" in found("scheduler")[0].fact


def test_a_queue_without_worker_hosts_and_stuck_runs_are_reported(sick: Installation, found: Found) -> None:
    book = JobBook(sick)
    book.add("often", Job.model_validate({"dataset": "tiny", "steps": ["ingest"]}))
    book.run_now("often")
    assert codes(found("worker hosts", "runs")) == ["worker.none"]
    sick.ledger.hosts.beat(Host("other:1", "other", 1, NOW, NOW - timedelta(minutes=5), 1, 1))
    assert "worker.silent" in codes(found("worker hosts"))
    sick.ledger.runs.take(processes.machine(), NOW - timedelta(minutes=5), trainings=1, others=1)
    assert codes(found("runs")) == ["run.stuck"]


def test_a_broken_store_of_mlflow_is_reported(sick: Installation, found: Found) -> None:
    (sick.home.path / "mlflow.db").write_bytes(b"no database at all" * 1000)
    assert codes(found("MLflow")) == ["tracking.failed"]


def test_an_alias_of_mlflow_that_is_not_the_champion_is_reported(
    sick: Installation, found: Found, tracking_database: Path
) -> None:
    from forecast.tracking.registry import Registry

    shutil.copyfile(tracking_database, sick.home.path / "mlflow.db")
    client = Registry(sick.home)._client
    client.create_registered_model("tiny")
    version = client.create_model_version("tiny", "file:///nowhere", tags={"model_version": "another-1"}).version
    assert found("MLflow") == []
    client.set_registered_model_alias("tiny", "champion", version)
    findings = found("MLflow")
    assert codes(findings) == ["tracking.alias"]
    assert "another-1" in findings[0].fact


def test_every_check_has_a_place_in_the_table() -> None:
    ours = {
        value
        for module in (machine, data, work)
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }
    assert ours == set(CHECKS.values())
