"""What the machine gives: packages, kernels, folders, room, ports, time zones."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import urllib.error
import urllib.request
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from forecast.errors import ConflictError, StorageError
from forecast.home import Home, cores
from forecast.scheduling.supervisor import require_free_port
from pipelines.doctor.finding import Diagnosis

if TYPE_CHECKING:
    from pipelines.doctor.examine import Patient

_SHOWN = ("torch", "onnxruntime", "darts", "mlflow", "polars", "deltalake")
_LITTLE_ROOM, _HARDLY_ROOM = 5 * 2**30, 2**30
_ANSWER_SECONDS = 3


def packages(_patient: Patient) -> Iterator[Diagnosis]:
    """Compare what is installed with what this release needs, without importing any of it."""
    wrong = []
    for line in importlib.metadata.requires("forecast-service") or ():
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            wrong.append(f"{needed.name} is {version}, not {needed.specifier}")
    if wrong:
        remedy = "install again: pip install --constraint constraints.txt ."
        yield Diagnosis("packages", "fault", "; ".join(wrong), "packages.do_not_fit", remedy)
        return
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _SHOWN)
    yield Diagnosis("packages", "well", f"Python {platform.python_version()}, {versions}")


def kernels(_patient: Patient) -> Iterator[Diagnosis]:
    """Say on what networks are trained, and which kernels they take there and why."""
    try:
        import torch

        from kernels.prob_sparse import prob_sparse_route
        from kernels.selective_scan import selective_scan_route
    except (ImportError, OSError) as error:
        remedy = "install it again: pip install --force-reinstall --constraint constraints.txt torch"
        yield Diagnosis("kernels", "fault", f"torch does not import ({error})", "packages.torch", remedy)
        return
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count() if has_gpu else 0)]
    build = torch.version.cuda or "no CUDA"
    yield Diagnosis("kernels", "well", f"{', '.join(names) or 'no GPU'}; {cores()} cores; torch is built for {build}")
    attention = torch.zeros(1, 1, 96, 64, device=device)
    routes = {
        "prob_sparse_attention": prob_sparse_route(attention, attention),
        "selective_scan": selective_scan_route(
            torch.zeros(1, 64, 96, device=device), torch.zeros(64, 16, device=device)
        ),
    }
    for op, route in routes.items():
        message = f"{op} runs on the {route.path} path: {route.reason}"
        if has_gpu and route.path != "triton":
            yield Diagnosis("kernels", "warning", message, "kernels.slow_path", "it is right all the same, but slower")
        else:
            yield Diagnosis("kernels", "well", message)


def home(patient: Patient) -> Iterator[Diagnosis]:
    """Write into every folder of the home."""
    found = patient.home
    for folder in (found.path, found.lake, found.models, found.logs, found.reports, found.locks):
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                "home.not_writable", f'cannot write to "{folder}" ({error.strerror})', "check owner, mode and disk"
            ) from error
    yield Diagnosis("home", "well", f'"{found.path}" can be written')


def disk(patient: Patient) -> Iterator[Diagnosis]:
    """Say how much room is left."""
    for folder in _disks(patient.home):
        free = shutil.disk_usage(folder).free
        message = f'{free / 2**30:,.1f} GiB are free under "{folder}"'
        if free < _LITTLE_ROOM:
            remedy = 'make room: "forecast maintain" removes outdated versions, MLflow\'s artifacts and logs/ grow'
            yield Diagnosis("disk", "fault" if free < _HARDLY_ROOM else "warning", message, "disk.nearly_full", remedy)
        else:
            yield Diagnosis("disk", "well", message)


def ports(patient: Patient) -> Iterator[Diagnosis]:
    """Say whether service and MLflow UI can listen, or already do."""
    yield _port("the service", patient.port, "--port", _is_ours(patient))
    yield _port("MLflow's UI", patient.ui_port, "--ui-port", _answer(patient.ui_port, "/health") == b"OK")


def time_zones(patient: Patient) -> Iterator[Diagnosis]:
    """See that clock changes are known."""
    zones = {"Europe/Berlin", *(config.zone for config in patient.config.datasets.values())}
    missing = sorted(zones - zoneinfo.available_timezones())
    summer, winter = (
        datetime(2024, month, 1, tzinfo=UTC).astimezone(zoneinfo.ZoneInfo("Europe/Berlin")).utcoffset()
        for month in (7, 1)
    )
    if missing or summer == winter:
        message = f"no data of {', '.join(missing)}" if missing else "the data of time zones know no summer time"
        yield Diagnosis("time zones", "fault", message, "zones.missing", "pip install tzdata")
    else:
        yield Diagnosis("time zones", "well", "clock changes are known")


def _disks(home: Home) -> list[Path]:
    """Return one folder for each disk that the home lies on."""
    found = {folder.stat().st_dev: folder for folder in (home.models, home.lake, home.path)}
    return list(found.values())


def _port(whose: str, port: int, option: str, is_ours: bool) -> Diagnosis:
    if is_ours:
        return Diagnosis("ports", "well", f"{whose} answers on port {port}")
    try:
        require_free_port(port, option)
    except ConflictError as error:
        return Diagnosis("ports", "fault", error.fact, error.code, error.remedy)
    return Diagnosis("ports", "well", f"port {port} is free for {whose}")


def _is_ours(patient: Patient) -> bool:
    try:
        message = json.loads(_answer(patient.port, "/readyz"))
        names = {item["dataset"] for item in message["datasets"]}
    except (ValueError, KeyError, TypeError):
        return False
    return names == set(patient.config.datasets)


def _answer(port: int, path: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=_ANSWER_SECONDS) as answer:
            return bytes(answer.read(2**20))
    except urllib.error.HTTPError as error:
        return bytes(error.read(2**20))  # not ready, but there
    except OSError:
        return b""
