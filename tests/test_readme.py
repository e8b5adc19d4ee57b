"""The README's commands, run as a reader would run them, and its links and pictures."""

import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def shrink(job_file: Path) -> None:
    """Let the sample train in seconds: fewer models and epochs, nothing else changes."""
    text = job_file.read_text(encoding="utf-8")
    for old, new in (
        ('models = ["itransformer", "patch_tsmixer"]', 'models = ["linear"]'),
        ("max_epochs = 20", 'max_epochs = 1\nbaselines = ["seasonal_naive"]'),
    ):
        assert old in text
        text = text.replace(old, new)
    text = re.sub(r"^(itransformer|patch_tsmixer) = .*$", "", text, flags=re.MULTILINE)  # options of models left out
    job_file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("target", [line.split()[1] for line in COMMANDS if line.startswith("make ")])
def test_every_make_command_of_the_readme_is_a_target(target: str) -> None:
    plan = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert plan.returncode == 0, plan.stderr


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_every_local_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).is_file()


def test_the_steps_of_the_readme_end_in_a_forecast_over_rest(tmp_path: Path) -> None:
    folder = tmp_path
    port, ui_port = free_ports(2)
    steps = [shlex.split(line) for line in COMMANDS if line.startswith(("forecast ", "cd "))]
    assert [step[1] for step in steps] == ["init", "my-home", "ingest", "train", "forecast", "up"]
    for program, *arguments in steps[:-1]:
        if program == "cd":
            folder /= arguments[0]
            shrink(folder / "forecast.toml")
            continue
        done = subprocess.run(
            [sys.executable, "-m", "forecast", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    up = [sys.executable, "-m", "forecast", "up", "--port", str(port), "--ui-port", str(ui_port)]
    with subprocess.Popen(up, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            printed = ""
            while "Ctrl-C" not in printed:
                line = process.stdout.readline()
                assert line, f"forecast up ended early: {printed}"
                printed += line
            curl = next(shlex.split(line)[1] for line in COMMANDS if line.startswith("curl "))
            answer = httpx.get(curl.replace(":8000", f":{port}"), timeout=10)
            assert '"series":"JFK"' in answer.text
            assert "MLflow" in httpx.get(f"http://127.0.0.1:{ui_port}/", timeout=10).text
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) and probe.connect_ex(("127.0.0.1", ui_port)):
                return
    pytest.fail("a process outlived forecast up")
