"""The command line as a user meets it: exit codes, one clear line on standard error, nothing half-written."""

import json
import re
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer.main
import typer.testing

from forecast.cli.app import DEPRECATED, PANELS, app
from forecast.installation import Installation
from pipelines.forecasting.issue import issue

MakeHome = Callable[..., Installation]
CommandLine = Callable[..., subprocess.CompletedProcess[str]]
Run = Callable[..., tuple[int, str, str]]
COMMANDS = [name for commands in PANELS.values() for name in commands]


def one_line(err: str) -> str:
    """Return the line on standard error, of which there must be one, without a traceback."""
    assert "Traceback" not in err
    (line,) = err.strip().splitlines()
    return line


# --- through real processes -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bad_input_ends_with_one_clear_line_and_its_own_exit_code(
    command_line: CommandLine,
    tiny_home: Installation,
    make_home: MakeHome,
    tmp_path: Path,
    tiny_document: dict[str, Any],
) -> None:
    """One after the other, because each is a process: what is asked for, the exit code, and what the line must tell."""
    home = tiny_home.home.path
    tiny_document["datasets"]["tiny"]["channels"]["lode"] = {"role": "past"}
    wrong_column = make_home(document=tiny_document, folder=tmp_path / "wrong column").home.path
    (wrong_column / "rows.csv").write_text("time,site,load,price,wind\n2024-01-01,east,1,2,3\n", encoding="utf-8")
    (tmp_path / "file").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        mistakes: list[tuple[tuple[str | Path, ...], int, tuple[str, ...]]] = [
            (("ingest", "tinny", "--home", home), 3, ('no data set "tinny"', 'did you mean "tiny"', "dataset.unknown")),
            (
                ("ingest", "--home", wrong_column),
                4,
                ('no column "lode"', 'did you mean "load"', "ingest.missing_column"),
            ),
            (("forecast", "--horizon", "0", "--home", home), 2, ("horizon 0 is not between", "horizon.out_of_range")),
            (("forecast", "--horizon", str(10**9), "--home", home), 2, ("horizon 1000000000 is not between",)),
            (("up", "--port", str(port), "--home", home), 6, (f"port {port}", "--port", "port.taken")),
            (("init", tmp_path / "file" / "home"), 5, ("cannot create the folder", "home.not_writable")),
        ]
        for arguments, code, message in mistakes:
            result = command_line(*arguments)
            line = one_line(result.stderr)
            assert result.returncode == code, (arguments, line)
            assert [part for part in message if part not in line] == []
            assert result.stdout == ""
    assert not (wrong_column / "lake" / "tiny").exists()
    assert tiny_home.ledger.issuances.latest("tiny") is None


def test_from_an_empty_folder_to_an_issued_forecast(
    command_line: CommandLine, tiny_home: Installation, tmp_path: Path
) -> None:
    made = command_line("init", "sample", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["job_file"] == str(tmp_path / "sample" / "forecast.toml")
    issued = command_line("forecast", "--json", FORECAST_HOME=str(tiny_home.home.path))
    assert issued.returncode == 0, issued.stderr
    document = json.loads(issued.stdout)
    assert document["is_new"] is True
    assert Path(document["report"]).is_file()


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_without_a_home_the_way_to_make_one_is_told(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("status")
    assert code == 3
    assert "forecast init" in one_line(err)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_source_is_told(run: Run, make_home: MakeHome) -> None:
    home = make_home().home.path
    code, _, err = run("ingest", "--home", home)
    assert code == 3
    assert f'the source "{home / "rows.csv"}" does not exist' in one_line(err)
    assert not (home / "lake" / "tiny").exists()


def test_a_home_in_a_read_only_place_is_told(run: Run) -> None:
    code, _, err = run("init", "/proc/forecast-home")
    assert code == 5
    assert "cannot create the folder" in one_line(err)


def test_a_home_is_not_made_over_another(run: Run, make_home: MakeHome) -> None:
    home = make_home().home
    before = home.config_file.read_bytes()
    code, _, err = run("init", home.path)
    assert code == 6
    assert "exists already" in one_line(err)
    assert home.config_file.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[datasets.tiny]\nfrequncy = "1h"\n', 'did you mean "frequency"'),
        ("not toml", "not valid TOML"),
        ("", "datasets"),
    ],
)
def test_a_mistake_in_the_job_file_is_told(run: Run, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "forecast.toml").write_text(text, encoding="utf-8")
    code, _, err = run("ingest", "--home", tmp_path)
    assert code == 2
    assert "Traceback" not in err
    assert message in err
    assert "forecast.toml" in err
    assert not (tmp_path / "ledger.db").exists()


def test_without_a_champion_the_way_to_get_one_is_told(
    run: Run, make_home: MakeHome, tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    home = make_home(tiny_rows(100)).home.path
    assert run("ingest", "--home", home)[0] == 0
    code, _, err = run("forecast", "--home", home)
    assert code == 8
    assert 'run "forecast train tiny"' in one_line(err)


@pytest.mark.parametrize("damage", ["log", "manifest", "ledger", "tracking of a ledger elsewhere"])
def test_damage_is_told_in_one_line(
    run: Run, tiny_home: Installation, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    home = tiny_home.home
    if damage == "log":
        (home.lake / "tiny" / "observations" / "_delta_log" / f"{0:020d}.json").write_text("{", encoding="utf-8")
    elif damage == "manifest":
        (home.models / "repeat_last-1" / "manifest.json").write_text("{", encoding="utf-8")
    elif damage == "ledger":
        tiny_home.ledger._database._engine.dispose()
        for file in home.path.glob("ledger.db*"):
            file.unlink()
        (home.path / "ledger.db").write_bytes(b"no database" * 1000)
    else:
        monkeypatch.setenv("FORECAST_LEDGER_URL", "nonsense")
    code, _, err = run("forecast", "--home", home.path)
    assert code == 5
    one_line(err)


@pytest.mark.parametrize(
    "arguments",
    [("forecast", "--horizon", "many"), ("serve", "--port", "0"), ("serve", "--port", "70000"), ("froecast",)],
)
def test_what_the_command_line_does_not_know_is_a_usage_error(run: Run, arguments: tuple[str, ...]) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert "Usage" in err
    assert "Traceback" not in err


def test_service_and_tracking_cannot_share_a_port(run: Run, make_home: MakeHome) -> None:
    code, _, err = run("up", "--port", "8123", "--ui-port", "8123", "--home", make_home().home.path)
    assert code == 2
    assert "--ui-port" in one_line(err)


def test_machines_get_errors_as_json(run: Run, make_home: MakeHome) -> None:
    code, out, err = run("ingest", "--json", "--home", make_home().home.path)
    document = json.loads(err)
    assert code == 3
    assert out == ""
    assert document["code"] == "source.not_found"
    assert set(document) == {"code", "message", "remedy"}


# --- what is printed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_each_of_its_options(command: str) -> None:
    result = typer.testing.CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    assert "Usage" in text
    assert "--help" in text


def shown_by_the_help() -> dict[str, list[str]]:
    """Return the commands that ``forecast --help`` prints, by panel, in its order."""
    text = typer.testing.CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    panels: dict[str, list[str]] = {}
    for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines():
        if heading := re.match(r"^\W*─ (\w+) ─", line):
            panels[heading[1]] = []
        elif panels and (command := re.match(r"^│ (\w+) ", line)):
            panels[list(panels)[-1]].append(command[1])
    return {panel: commands for panel, commands in panels.items() if panel != "Options"}


def test_the_help_shows_each_command_in_its_panel_and_begins_with_those_of_the_readme() -> None:
    shown = shown_by_the_help()
    assert shown == {panel: list(commands) for panel, commands in PANELS.items()}
    assert next(iter(shown)) == "Start"
    assert shown["Start"] == ["init", "ingest", "train", "forecast", "up", "demo", "status", "check"]


def test_every_command_has_a_panel_and_those_that_are_not_for_people_are_hidden() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert [name for name, command in commands.items() if command.rich_help_panel not in PANELS] == []
    assert {name for name, command in commands.items() if command.hidden} == {"worker", *DEPRECATED}


def test_a_receipt_can_be_read_by_machines(
    run: Run, make_home: MakeHome, tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    rows = tiny_rows(100).with_columns(load=pl.when(pl.int_range(pl.len()) == 3).then(-5.0).otherwise("load"))
    code, out, _ = run("ingest", "--json", "--home", make_home(rows).home.path)
    receipt = json.loads(out)
    assert code == 0
    assert (receipt["dataset"], receipt["new"], receipt["series"]) == ("tiny", 200, ["east", "west"])
    assert receipt["findings"][0]["code"] == "ingest.out_of_range"


def test_the_status_can_be_read_by_machines_and_people(run: Run, tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    code, out, _ = run("status", "--json", "--home", tiny_home.home.path)
    document: Mapping[str, Any] = json.loads(out)
    assert code == 0
    assert document["datasets"]["tiny"]["champion"]["model_version"] == "repeat_last-1"
    assert document["datasets"]["tiny"]["forecast"]["forecast_id"] == issuance.forecast_id
    assert document["runs"] == []
    code, out, _ = run("status", "--home", tiny_home.home.path)
    assert code == 0
    assert issuance.forecast_id in out


def test_the_status_of_a_new_home_says_that_there_is_nothing_yet(run: Run, make_home: MakeHome) -> None:
    code, out, _ = run("status", "--home", make_home().home.path)
    assert code == 0
    assert "no champion yet" in out


@pytest.mark.parametrize(
    "name",
    ["plain", "[bold]", "[/x]", "a-folder-whose-name-alone-is-longer-than-any-line-of-a-terminal-of-eighty-columns"],
)
def test_a_path_is_printed_as_it_is_and_in_one_piece(run: Run, tmp_path: Path, name: str) -> None:
    code, out, _ = run("init", tmp_path / name)
    assert code == 0
    assert str(tmp_path / name / "forecast.toml") in out
