"""Run every command of README, CONTRIBUTING and docs: in one home of the sample, beside one running service.

In a block of kind ``console`` a line that begins with ``$ ``, or with ``# `` for root, is a command, continued after a
backslash; other lines are output. A block of kind ``python`` is a program. The commands of a document become one bash
script in which each keeps its line number of the document: bash itself reports where a command failed.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import httpx
import polars as pl
import pytest
import typer.main
import yaml

from benchmarks.reliability.fleet import free_ports
from forecast.cli.app import app

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CLIENTS, SECURITY = ROOT / "docs" / "clients.md", ROOT / "docs" / "security.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {document: document.read_text(encoding="utf-8") for document in DOCUMENTS}
KINDS = {"console", "python", "toml", "json", "text", ""}
DEPLOY = ROOT / "deploy"
pytestmark = pytest.mark.timeout(600)  # the first test waits for the README's training as well

RUN = {"cd", "curl", "export", "forecast", "mlflow", "printf", "sed"}
"""Programs that run unchanged. ``check`` inspects others; an unknown kind of command fails the test."""

INSTEAD = [  # pattern of a command, its replacement, and the reason
    (r"\. \.venv/bin/activate", "true", "the tests' own Python is active"),
    (r"make (\w+)", r'make --directory "$ROOT" --dry-run \1', "installs, or takes hours; its parts have tests"),
    (r"(python -m benchmarks\..+)", r'(cd "$ROOT" && \1 --help)', "takes hours, or writes docs; options are parsed"),
    (r"(forecast tune .*--minutes) \d+", r"\1 0.05", "takes an hour; its time ends it within the first trial"),
    (r"(forecast study .*)", r"\1 --help", "takes hours; test_study.py runs one, the options are parsed"),
    (r"(curl -N .*/v1/events\?.*)", r"timeout 2 \1 || test $? = 124", "events never end"),
    (r"(curl .*series=JFX.*)", r"\1 && false || test $? = 22", "the document shows how it is refused"),
    (r"(curl .*\$KEY.*)", r"\1 --retry 9 --retry-delay 1 --retry-all-errors", "new keys apply within two seconds"),
]  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command of a document, and its first line."""

    document: Path
    line: int
    text: str
    kind: str
    """``$``, ``#`` or ``python``."""

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}: {self.text.splitlines()[0]}"


def commands(document: Path) -> Iterator[Command]:
    """List the commands of a document, in order."""
    kind, begun, text = None, 0, ""
    for number, line in enumerate(TEXTS[document].splitlines(), 1):
        if line.startswith("```"):
            if kind == "python":
                yield Command(document, begun, text, kind)
            kind, begun, text = (line[3:], number + 1, "") if kind is None else (None, 0, "")
            assert kind is None or kind in KINDS, f"{document}:{number}: a block is one of {sorted(KINDS)}"
        elif kind == "python":
            text += f"{line}\n"
        elif kind == "console" and (text or line.startswith(("$ ", "# "))):
            begun, text = (begun, f"{text}\n{line}") if text else (number, line)
            if not line.endswith("\\"):
                yield Command(document, begun, text[2:], text[0])
                text = ""


def is_run(command: Command) -> bool:
    """Return whether a command is run, unchanged or replaced; others are only inspected."""
    if command.kind != "$":
        return command.kind == "python"
    program = re.sub(r"^\w+=\$\(", "", command.text).split()[0]
    return program in RUN or any(re.fullmatch(pattern, command.text, re.DOTALL) for pattern, _, _ in INSTEAD)


def check(words: list[str]) -> None:
    """Inspect a command that needs root, containers or a network, without running it."""
    match words:
        case ["docker", "compose", "--file", "deploy/compose.yaml", *rest]:
            check_compose(rest)
        case ["useradd", "--system", "--home-dir", home, user]:
            assert units("Environment=FORECAST_HOME") == {home}
            assert units("User") == {user}
        case ["python3", "-m", "venv", folder]:
            assert {str(Path(command.split()[0]).parent) for command in units("ExecStart")} == {f"{folder}/bin"}
        case [pip, "install", "--constraint", pins, package] if Path(pip).name == "pip":
            assert {Path(command.split()[0]).parent for command in units("ExecStart")} == {Path(pip).parent}
            assert (ROOT / pins).is_file()
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(re.findall(r"\w+", package.partition("[")[2])) <= set(extras)
        case ["install", "--directory", "--owner", user, "--group", user_group, *folders]:
            assert units("User") == {user} == {user_group}
            assert units("Environment=FORECAST_HOME") | units("ReadWritePaths") == set(folders)
        case ["sudo", "-u", user, program, *ours]:
            assert units("User") == {user}
            assert any(command.startswith(f"{program} ") for command in units("ExecStart"))
            parse(ours)
        case ["cp", source, _]:
            assert list(ROOT.glob(source))
        case ["systemctl", "enable", "--now", *names]:
            for name in names:
                assert "[Install]" in (DEPLOY / "systemd" / (name if "." in name else f"{name}.service")).read_text()
        case _:
            raise LookupError("the command is neither run nor inspected: add it to RUN, INSTEAD or check")


def check_compose(words: list[str]) -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    match words:
        case ["build"] | ["up", "--detach"]:
            pass
        case ["run", "--rm", service, "forecast", *ours]:
            assert service in services
            parse(ours)
        case ["cp", source, target]:
            service, _, path = (source if ":" in source else target).partition(":")
            assert path.startswith(services[service]["environment"]["FORECAST_HOME"])
        case _:
            raise LookupError("this form of docker compose is not inspected: add it to check_compose")


def units(name: str) -> set[str]:
    """Return the values of a setting in our systemd units."""
    texts = [path.read_text() for path in (DEPLOY / "systemd").glob("*.service")]
    return {value for text in texts for value in re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)}


def parse(words: Sequence[str]) -> None:
    """Parse a command line of ``forecast`` without running it: a mistyped name or option is an error."""
    command: Any = typer.main.get_command(app)
    name = "forecast"
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    with command.make_context(name, list(words)):
        pass


@dataclass
class Reader:
    """A terminal that types the commands of a document."""

    folder: Path
    environment: dict[str, str]
    ports: dict[str, str]
    """Free ports of this machine by the ports in the documents."""
    client_python: Callable[[str], Path]

    def read(self, document: Path) -> str:
        """Type all commands, inspect those that cannot run here, and return the output."""
        found = list(commands(document))
        for command in found:
            if not is_run(command):
                try:
                    check(shlex.split(command.text))
                except (AssertionError, LookupError, OSError, click.UsageError) as error:
                    raise AssertionError(str(command)) from error
        return self.type(command for command in found if is_run(command))

    def type(self, given: Iterable[Command]) -> str:
        """Type commands of one document and return the output; the first failure is reported with its line."""
        lines, name = ["set -eEo pipefail"], "nothing"
        for command in given:
            assert is_run(command), command
            name = str(command.document.relative_to(ROOT))
            text = self._program(command) if command.kind == "python" else self._here(command.text)
            lines += [""] * (command.line - 1 - len(lines)) + text.splitlines()
        lines[0] += f"; trap 'echo \"{name}:$LINENO: ended with $?\" >&2' ERR"
        script, log = self.folder / name, self.folder / "typed.log"
        script.parent.mkdir(exist_ok=True)
        script.write_text("\n".join(lines), encoding="utf-8")
        with (
            log.open("w") as output,  # no pipe: background processes would keep it open
            subprocess.Popen(
                ["bash", name],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ) as shell,
        ):
            try:
                shell.wait(timeout=280)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(shell.pid, signal.SIGKILL)  # its background processes
        printed = log.read_text(encoding="utf-8")
        assert shell.returncode == 0, "\n".join(printed.splitlines()[-40:])
        return printed

    def _here(self, text: str) -> str:
        for pattern, other, _ in INSTEAD:
            text = re.sub(rf"\A{pattern}\Z", other, text, flags=re.DOTALL)
        return re.sub(r"\b(8000|5000|5001)\b", lambda found: self.ports[found[1]], text)

    def _program(self, command: Command) -> str:
        """Write a program with the line numbers of its document; return the command that runs it."""
        # In its own folder: Python imports from a program's folder first, and a home has a folder named models.
        file = self.folder / "programs" / f"{command.document.stem}-{command.line}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n" * (command.line - 1) + self._here(command.text), encoding="utf-8")
        client = re.match(r"# client: (nixtla|tritonclient)", command.text)
        return f"{self.client_python(client[1]) if client else 'python'} programs/{file.name}"


def shrink(config: Path) -> None:
    """Make the sample train in seconds and slow its clock down, so that no night begins during the tests."""
    text = config.read_text(encoding="utf-8")
    for old, new in (
        ('models = ["itransformer", "patch_tsmixer"]', 'models = ["linear"]'),
        ("max_epochs = 20", 'max_epochs = 1\nbaselines = ["seasonal_naive"]'),
        ("speed = 720", "speed = 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    text = re.sub(r"^(itransformer|patch_tsmixer) = .*$", "", text, flags=re.MULTILINE)  # options of models left out
    config.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, client_python: Callable[[str], Path]) -> Iterator[Reader]:
    """Follow the README step by step until Ctrl-C; other documents run in its home."""
    folder = tmp_path_factory.mktemp("reader")
    programs = {"python": "", "forecast": "-m forecast", "mlflow": "-m mlflow"}
    for name, words in programs.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (folder / name).chmod(0o755)
    (folder / ".curlrc").write_text("fail\nsilent\nshow-error\n")  # a refusal is a failure
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FORECAST_", "MLFLOW_"))}
    environment |= {
        "PATH": f"{folder}:{Path(sys.executable).parent}:{environment['PATH']}", "CURL_HOME": str(folder),
        "ROOT": str(ROOT), "TERM": "dumb",
    }  # fmt: skip
    ports = dict(zip(("8000", "5000", "5001"), map(str, free_ports(3)), strict=True))
    one = Reader(folder, environment, ports, client_python)
    steps = list(commands(README))
    home, up = ([command.text for command in steps].index(text) for text in ("cd my-home", "forecast up"))
    one.type(steps[:home])
    one.folder /= "my-home"
    shrink(one.folder / "forecast.toml")
    one.type(steps[home + 1 : up])
    words = [sys.executable, "-m", "forecast", "up", "--port", ports["8000"], "--ui-port", ports["5000"]]
    with subprocess.Popen(words, cwd=one.folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            printed = ""
            while "Ctrl-C" not in printed:
                line = process.stdout.readline()
                assert line, f"forecast up ended early: {printed}"
                printed += line
            one.type(steps[up + 1 :])
            yield one
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
    deadline = time.monotonic() + 10
    while any(is_open(port) for port in ports.values()):
        assert time.monotonic() < deadline, "a process outlived forecast up"
        time.sleep(0.02)


def is_open(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


@pytest.mark.slow
def test_the_steps_of_the_readme_end_in_a_forecast_over_rest(reader: Reader) -> None:
    requests = [command for command in commands(README) if command.text.startswith("curl ")]
    assert '"series":"JFK"' in reader.type(requests)
    assert "MLflow" in httpx.get(f"http://127.0.0.1:{reader.ports['5000']}/", timeout=10).text


@pytest.mark.slow
def test_the_fifteen_lines_of_the_readme_forecast_a_csv(reader: Reader, tmp_path: Path) -> None:
    lines = re.findall(r"^```toml\n(.*?)^```", TEXTS[README], re.DOTALL | re.MULTILINE)[0]
    assert len(lines.splitlines()) == 15
    old = 'models = ["patch_tsmixer"]'
    assert old in lines
    fast = lines.replace(old, 'models = ["linear"]\ntraining = { baselines = ["seasonal_naive"] }')
    (tmp_path / "forecast.toml").write_text(fast, encoding="utf-8")
    hours = pl.datetime_range(datetime(2024, 1, 1), datetime(2024, 12, 1), "1h", eager=True)  # noqa: DTZ001
    hour = pl.Series(range(len(hours)))
    load = 50 + 10 * (hour * (2 * math.pi / 24)).sin() + hour % 7
    rows = pl.DataFrame({"time": hours.dt.strftime("%Y-%m-%d %H:%M"), "load": load, "temperature": hour % 24})
    rows.write_csv(tmp_path / "power.csv")
    for command in ("ingest", "train", "forecast"):
        words = [sys.executable, "-m", "forecast", command]
        subprocess.run(words, cwd=tmp_path, env=reader.environment, check=True, capture_output=True)
    status = [sys.executable, "-m", "forecast", "status", "--json"]
    printed = subprocess.run(status, cwd=tmp_path, env=reader.environment, check=True, capture_output=True)
    assert "linear-" in printed.stdout.decode()


@pytest.mark.slow
def test_clients_get_the_forecasts_that_they_ask_for(reader: Reader) -> None:
    assert "TimeGPT" in reader.read(CLIENTS)
    assert json.loads((reader.folder / "forecast.json").read_text())["horizon"] == 24
    assert len(pl.read_parquet(reader.folder / "forecast.parquet")) == 336 * 3
    assert len(json.loads((reader.folder / "predictions.json").read_text())["predictions"]) == 336 * 3


@pytest.mark.slow
def test_a_command_that_fails_is_named_with_its_document_and_line(reader: Reader) -> None:
    wrong = Command(README, 7, "curl http://127.0.0.1:8000/v1/nothing", "$")
    with pytest.raises(AssertionError, match=r"README\.md:7: ended with 22"):
        reader.type([wrong])
    assert not is_run(Command(README, 7, "rm --recursive /", "$"))
    with pytest.raises(LookupError, match="neither run nor inspected"):
        check(["rm", "--recursive", "/"])


# The first key closes the service to requests without one, so this page comes last.
OTHERS = sorted(set(DOCUMENTS) - {README, CLIENTS}, key=lambda document: (document == SECURITY, document))


@pytest.mark.slow
@pytest.mark.parametrize("document", OTHERS, ids=lambda document: document.name)
def test_every_command_of_a_document_works(document: Path, reader: Reader) -> None:
    reader.read(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_local_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXTS[document]):
        path, _, heading = target.partition("#")
        found = document.parent / path if path else document
        assert found.exists(), target
        titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not heading or heading in anchors, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_command_that_is_named_in_a_sentence_exists(document: Path) -> None:
    for text in re.findall(r"`forecast ([a-z][^`]*)`", TEXTS[document]):
        command: Any = typer.main.get_command(app)
        words = text.split()
        while hasattr(command, "commands"):
            known, word = command.commands, words.pop(0)
            while word.endswith(","):  # one of several
                assert word.rstrip(",") in known, text
                word = words.pop(0)
            assert word in known, text
            command = known[word]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, text
