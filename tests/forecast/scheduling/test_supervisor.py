import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forecast.errors import ConflictError, ForecastError, UnavailableError
from forecast.scheduling.supervisor import Member, Supervisor, require_free_port

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SLEEP = "import time; time.sleep(600)"
WaitUntil = Callable[..., None]


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python(name: str, code: str) -> Member:
    return Member(name, [sys.executable, "-c", code])


def web_server(name: str, folder: Path) -> Member:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    return Member(name, command, f"http://127.0.0.1:{port}/")


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids(supervisor: Supervisor) -> list[int]:
    return [process.pid for process in supervisor._running.values()]


def test_members_are_ready_when_they_answer_and_gone_when_the_block_ends(tmp_path: Path) -> None:
    with Supervisor([web_server("one", tmp_path), web_server("two", tmp_path)], tmp_path) as supervisor:
        supervisor.wait_until_ready()
        started = pids(supervisor)
        assert len(started) == 2
        assert all(map(lives, started))
    assert not any(map(lives, started))
    assert (tmp_path / "one.log").is_file()


def test_readiness_is_asked_for_without_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("forecast.scheduling.supervisor._READY_SECONDS", 5.0)
    monkeypatch.setattr("urllib.request._opener", None)  # a process asks for its proxies once
    with Supervisor([web_server("one", tmp_path)], tmp_path) as supervisor:
        supervisor.wait_until_ready()


def test_a_member_that_dies_is_an_error_and_the_others_are_stopped(tmp_path: Path) -> None:
    members = [python("sleeper", SLEEP), python("mortal", "raise SystemExit(3)")]
    with Supervisor(members, tmp_path) as supervisor:
        started = pids(supervisor)
        with pytest.raises(UnavailableError, match="mortal ended with exit code 3") as caught:
            supervisor.watch()
    assert caught.value.code == "member.died"
    assert "mortal.log" in str(caught.value)
    assert not any(map(lives, started))


def test_a_member_that_dies_before_it_is_ready_is_an_error(tmp_path: Path) -> None:
    member = Member("mortal", [sys.executable, "-c", "raise SystemExit(3)"], f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(UnavailableError, match="mortal ended"), Supervisor([member], tmp_path) as supervisor:
        supervisor.wait_until_ready()


def test_a_member_that_never_becomes_ready_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecast.scheduling.supervisor._READY_SECONDS", 0.5)
    member = Member("mute", [sys.executable, "-c", SLEEP], f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(UnavailableError, match="waited") as caught, Supervisor([member], tmp_path) as supervisor:
        supervisor.wait_until_ready()
    assert caught.value.code == "member.not_ready"


def test_a_member_that_cannot_be_started_is_an_error_and_the_others_are_stopped(tmp_path: Path) -> None:
    supervisor = Supervisor([python("sleeper", SLEEP), Member("missing", ["/nowhere/at/all"])], tmp_path)
    try:
        with pytest.raises(ForecastError), supervisor:
            pass
        assert not any(map(lives, pids(supervisor)))
    finally:
        supervisor.stop()


def test_a_member_that_does_not_listen_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    monkeypatch.setattr("forecast.scheduling.supervisor._GRACE_SECONDS", 0.3)
    deaf = (
        "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "pathlib.Path('ready').touch(); time.sleep(600)"
    )
    monkeypatch.chdir(tmp_path)
    with Supervisor([python("deaf", deaf)], tmp_path) as supervisor:
        wait_until((tmp_path / "ready").exists)
        started = pids(supervisor)
    assert not any(map(lives, started))


def test_what_a_member_started_is_stopped_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    monkeypatch.chdir(tmp_path)
    parent = (
        "import pathlib, subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "pathlib.Path('draft').write_text(str(child.pid)); pathlib.Path('draft').rename('child'); time.sleep(600)"
    )
    with Supervisor([python("parent", parent)], tmp_path):
        wait_until((tmp_path / "child").exists)
        child = int((tmp_path / "child").read_text(encoding="utf-8"))
        assert lives(child)
    wait_until(lambda: not lives(child))


def test_members_may_have_an_environment_of_their_own(tmp_path: Path, wait_until: WaitUntil) -> None:
    member = Member(
        "teller",
        [sys.executable, "-c", f"import os; print(os.environ['COLOUR'], flush=True); {SLEEP}"],
        None,
        {"COLOUR": "blue"},
    )
    with Supervisor([member], tmp_path):
        wait_until(lambda: "blue" in (tmp_path / "teller.log").read_text(encoding="utf-8"))


def test_afterwards_signals_do_again_what_they_did_before(tmp_path: Path) -> None:
    before = [signal.getsignal(signum) for signum in SIGNALS]
    with Supervisor([], tmp_path):
        pass
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


SUPERVISED = """
import sys
from pathlib import Path
from forecast.scheduling.supervisor import Member, Supervisor
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
with Supervisor([Member("one", sleep), Member("two", sleep)], Path(sys.argv[1])) as supervisor:
    print(*[process.pid for process in supervisor._running.values()], flush=True)
    supervisor.watch()
print("stopped", flush=True)
"""


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_stops_all_members_and_then_the_supervisor(tmp_path: Path, signum: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        members = [int(pid) for pid in supervisor.stdout.readline().split()]
        assert len(members) == 2
        supervisor.send_signal(signum)
        assert supervisor.stdout.read() == "stopped\n"
        assert supervisor.wait(30) == 0
    assert not any(map(lives, members))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_no_member_outlives_a_supervisor_that_was_killed(tmp_path: Path, wait_until: WaitUntil) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        members = [int(pid) for pid in supervisor.stdout.readline().split()]
        supervisor.kill()  # at once: perhaps before the members have run a line of their own
    try:
        wait_until(lambda: not any(map(lives, members)), 10)
    finally:
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)


# --- ports ------------------------------------------------------------------------------------------------------------


def test_a_free_port_is_free() -> None:
    require_free_port(free_port(), "--port")


def test_a_taken_port_is_an_error_that_names_the_option() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConflictError, match=f"port {port} on 127.0.0.1 cannot be used .* --ui-port") as caught:
            require_free_port(port, "--ui-port")
    assert caught.value.code == "port.taken"


@pytest.mark.parametrize(("port", "host"), [(70_000, "127.0.0.1"), (8000, "203.0.113.7"), (8000, "no such host")])
def test_an_address_that_no_server_can_listen_on_is_an_error(port: int, host: str) -> None:
    with pytest.raises(ConflictError, match="cannot be used"):
        require_free_port(port, "--port", host)
