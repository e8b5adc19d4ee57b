import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from forecast import provenance
from forecast.ledger import Ledger
from forecast.ledger.issuance import Issuance
from forecast.provenance import Provenance, code

NOW = datetime(2024, 5, 1, 2, 30, tzinfo=UTC)
MADE = Provenance(
    model_digest="d" * 64, kernels={"prob_sparse_attention": "triton: a GPU"}, data_digest="e" * 64,
    data_recorded_at=NOW, covariates_version=3, covariates_recorded_at=NOW, covariates_until=NOW, code_version="0.1.0",
    code_commit="abc", code_changed=True, runtime="onnxruntime 1", provider="CPUExecutionProvider", threads=0,
    machine="Linux x86_64",
)  # fmt: skip
ISSUED = Issuance(
    forecast_id="id", dataset="tiny", issued_at=NOW, origin=NOW, horizon=24, quantiles=(0.5,), data_version=1,
    model_name="linear", model_version="v1", model_folder="v1", imputed_fraction=0.0, recorded_at=NOW, provenance=MADE,
)  # fmt: skip


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_issuance_comes_back_with_its_provenance(url: str) -> None:
    with Ledger.open(url) as ledger:
        ledger.issuances.add(ISSUED)
        assert ledger.issuances.latest("tiny") == replace(ISSUED, sequence=1)
        assert ledger.issuances.get("id") == replace(ISSUED, sequence=1)
        assert ledger.issuances.get("other") is None


def test_what_was_made_afterwards_is_found_only_by_who_asks_for_it(url: str) -> None:
    later = replace(ISSUED, forecast_id="made afterwards", backfilled=True)
    with Ledger.open(url) as ledger:
        ledger.issuances.add(ISSUED)
        ledger.issuances.add(later)
        assert [each.forecast_id for each in ledger.issuances.newest("tiny")] == ["id"]
        assert [each.forecast_id for each in ledger.issuances.newest("tiny", backfilled=True)] == ["made afterwards"]
        for found in (
            ledger.issuances.latest("tiny"),
            ledger.issuances.latest("tiny", as_of=NOW),
            ledger.issuances.first_by("tiny", "v1"),
        ):
            assert found is not None
            assert found.forecast_id == "id"
        assert ledger.issuances.get("made afterwards") == replace(later, sequence=2)
        assert ledger.issuances.ids("tiny") == {"id", "made afterwards"}
        assert ledger.issuances.ids("tiny", 1) == {"made afterwards"}


def test_the_code_version_names_the_commit_and_uncommitted_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "_CHECKOUT", tmp_path)
    looked_up = code.__wrapped__
    assert (looked_up().commit, looked_up().changed) == (None, False)
    git(tmp_path, "init", "-q")
    assert (looked_up().commit, looked_up().changed) == (None, False)
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-q", "-m", "one")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))
    assert (looked_up().commit, looked_up().changed) == (
        git(tmp_path, "--git-dir", ".git", "rev-parse", "HEAD"),
        False,
    )
    (tmp_path / "a.py").write_text("2")
    assert looked_up().changed
    monkeypatch.setenv("PATH", "")
    assert looked_up().commit is None
