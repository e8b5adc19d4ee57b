"""Count the files of this repository that one request runs through: ``python -m benchmarks.serve.files [HOME]``.

A file counts if a function of it is called between the request's arrival at the application and the end of its answer.
The application runs in this process, without a socket; the poller's threads do not count.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.serve.home import DATASETS, bodies, make_home

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / name}/" for name in ("api", "forecast", "pipelines", "models", "kernels"))
READ = f"/v1/datasets/{DATASETS[0]}/forecast"


class Calls:
    """The files of functions that are called while :attr:`is_counting`."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.is_counting = False

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Note a call; to be set by ``sys.setprofile`` and ``threading.setprofile``."""
        is_ours = event == "call" and self.is_counting and frame.f_code.co_filename.startswith(OURS)
        if is_ours and not threading.current_thread().name.startswith("ledger-"):
            self.files.add(str(Path(frame.f_code.co_filename).relative_to(ROOT)))


async def count(home: Path, calls: Calls) -> dict[str, list[str]]:
    """Return the files of each request."""
    from api.app import create_app
    from forecast.installation import Installation

    app, body = create_app(Installation.open(home)), bodies(1)[0]
    found = {}
    async with app.state.service.running():
        await _call(app, "GET", "/healthz", b"")  # the framework builds the layers with the first request
        await asyncio.sleep(1.5)  # the poller has called every subscriber once
        for name, method, path, sent in (
            ("GET forecast, first time", "GET", f"{READ}?horizon=24", b""),
            ("GET forecast, repeated", "GET", f"{READ}?horizon=24", b""),
            ("POST forecast", "POST", "/v1/forecasts", body),
        ):
            if sent:  # the first one loads the time zone and the calendar
                await _call(app, method, path, sent)
            calls.files, calls.is_counting = set(), True
            status = await _call(app, method, path, sent)
            calls.is_counting = False
            if status != 200:
                message = f"{name} was answered with {status}"
                raise RuntimeError(message)
            found[name] = sorted(calls.files)
    return found


async def _call(app: Any, method: str, path: str, body: bytes) -> int:
    address, _, query = path.partition("?")
    headers = [(b"host", b"localhost"), (b"accept", b"*/*")]
    if body:
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": address, "raw_path": address.encode(), "query_string": query.encode(), "root_path": "",
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000), "state": {},
    }  # fmt: skip
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    await app(scope, receive, send)
    return status


def main() -> None:
    """Print the number of files of each request, and their names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", nargs="?", type=Path, help="made by this benchmark before; else it is made now")
    given = parser.parse_args().home
    with tempfile.TemporaryDirectory() as folder:
        home = given or Path(folder) / "home"
        if not home.exists():
            make_home(home)
        calls = Calls()
        threading.setprofile(calls)
        sys.setprofile(calls)
        found = asyncio.run(count(home, calls))
        sys.setprofile(None)
    for name, files in found.items():
        sys.stdout.write(f"{name}: {len(files)}\n" + "".join(f"  {file}\n" for file in files))


if __name__ == "__main__":
    main()
