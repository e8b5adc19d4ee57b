"""Commands that keep an installation well, as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forecast.installation import Installation
from pipelines.forecasting.issue import issue

Run = Callable[..., tuple[int, str, str]]


def test_a_home_is_backed_up_and_restored_by_two_commands(tiny_home: Installation, run: Run, tmp_path: Path) -> None:
    home, again = tiny_home.home.path, tmp_path / "again"
    code, out, _ = run("backup", tmp_path / "one.tar", "--home", home)
    assert code == 0
    assert "backup.tracking_elsewhere" in out
    assert str(tmp_path / "one.tar") in out
    code, out, _ = run("restore", tmp_path / "one.tar", again)
    assert code == 0
    assert "1 champions loaded" in out
    code, out, _ = run("backup", tmp_path, "--home", again, "--json")
    message = json.loads(out)
    assert Path(message["file"]).parent == tmp_path
    assert message["tables"] == {"tiny/observations": 0}
    code, _, err = run("restore", tmp_path / "one.tar", again)
    assert code == 6
    assert "restore.not_empty" in err


def test_the_doctor_tells_by_its_exit_code_whether_anything_is_to_be_done(
    tiny_home: Installation, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.doctor import examine

    few = {name: check for name, check in examine.CHECKS.items() if name in {"config file", "ledger", "forecasts"}}
    monkeypatch.setattr(examine.examine, "__defaults__", (few,))
    home = tiny_home.home.path
    code, out, _ = run("doctor", "--home", home)
    assert code == 9
    assert "forecast.none_yet" in out
    assert 'run "forecast forecast tiny"' in " ".join(out.split())
    issue(tiny_home.dataset("tiny"))
    code, out, _ = run("doctor", "--home", home, "--json")
    message = json.loads(out)
    assert (code, message["well"]) == (0, True)
    assert {finding["about"] for finding in message["findings"]} == set(few)


def test_shells_complete_commands_and_data_sets(tiny_home: Installation) -> None:
    # What the script "forecast" does; "python -m forecast" is no command that a shell completes.
    script = "import sys; sys.argv[0] = 'forecast'; from forecast.cli import main; main()"

    def call(*arguments: str, **environment: str) -> str:
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
        return done.stdout

    shown = call("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_FORECAST_COMPLETE=complete_bash" in shown
    done = call(_FORECAST_COMPLETE="complete_bash", COMP_WORDS="forecast backu", COMP_CWORD="1")
    assert done.split() == ["backup"]
    home, words = str(tiny_home.home.path), "forecast plot t"
    done = call(_FORECAST_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD="2", FORECAST_HOME=home)
    assert done.split() == ["tiny"]
    assert "--install-completion" in call("--help")
