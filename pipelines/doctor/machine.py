"""Checks of the machine: packages, kernels, folders, disk space, ports, time zones."""

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

from packaging.requirements import Requirement

from forecast.errors import ConflictError, StorageError
from forecast.home import Home, cores
from forecast.scheduling.supervisor import require_free_port
from pipelines.doctor.finding import Diagnosis
from pipelines.doctor.subject import Subject

_SHOWN = ("torch", "onnxruntime", "darts", "mlflow", "polars", "deltalake")
_LOW_SPACE, _CRITICAL_SPACE = 5 * 2**30, 2**30
_ANSWER_SECONDS = 3


def packages(_subject: Subject) -> Iterator[Diagnosis]:
    """Compare installed packages with the requirements of this release, without importing any."""
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


def kernels(_subject: Subject) -> Iterator[Diagnosis]:
    """Report the device for training, and which kernels it uses and why."""
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
            yield Diagnosis(
                "kernels", "warning", message, "kernels.slow_path", "results are correct, but training is slower"
            )
        else:
            yield Diagnosis("kernels", "well", message)


def home(subject: Subject) -> Iterator[Diagnosis]:
    """Write to every folder of the home."""
    found = subject.home
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
    yield Diagnosis("home", "well", f'"{found.path}" is writable')


def disk(subject: Subject) -> Iterator[Diagnosis]:
    """Report the free disk space."""
    for folder in _disks(subject.home):
        free = shutil.disk_usage(folder).free
        message = f'{free / 2**30:,.1f} GiB free under "{folder}"'
        if free < _LOW_SPACE:
            remedy = 'free space: "forecast maintain" removes outdated versions; MLflow\'s artifacts and logs/ grow'
            yield Diagnosis(
                "disk", "fault" if free < _CRITICAL_SPACE else "warning", message, "disk.nearly_full", remedy
            )
        else:
            yield Diagnosis("disk", "well", message)


def ports(subject: Subject) -> Iterator[Diagnosis]:
    """Check that the ports of the service and the MLflow UI are free, or already used by them."""
    yield _port("the service", subject.port, "--port", _is_ours(subject))
    yield _port("MLflow's UI", subject.ui_port, "--ui-port", _answer(subject.ui_port, "/health") == b"OK")


def time_zones(subject: Subject) -> Iterator[Diagnosis]:
    """Check that the time zone database knows clock changes."""
    zones = {"Europe/Berlin", *(config.zone for config in subject.config.datasets.values())}
    missing = sorted(zones - zoneinfo.available_timezones())
    summer, winter = (
        datetime(2024, month, 1, tzinfo=UTC).astimezone(zoneinfo.ZoneInfo("Europe/Berlin")).utcoffset()
        for month in (7, 1)
    )
    if missing or summer == winter:
        message = f"no data for {', '.join(missing)}" if missing else "the time zone database has no summer time"
        yield Diagnosis("time zones", "fault", message, "zones.missing", "pip install tzdata")
    else:
        yield Diagnosis("time zones", "well", "clock changes are known")


def _disks(home: Home) -> list[Path]:
    """Return one folder of the home per disk."""
    found = {folder.stat().st_dev: folder for folder in (home.models, home.lake, home.path)}
    return list(found.values())


def _port(owner: str, port: int, option: str, is_ours: bool) -> Diagnosis:
    if is_ours:
        return Diagnosis("ports", "well", f"{owner} answers on port {port}")
    try:
        require_free_port(port, option)
    except ConflictError as error:
        return Diagnosis("ports", "fault", error.fact, error.code, error.remedy)
    return Diagnosis("ports", "well", f"port {port} is free for {owner}")


def _is_ours(subject: Subject) -> bool:
    try:
        readiness = json.loads(_answer(subject.port, "/readyz"))
        names = {item["dataset"] for item in readiness["datasets"]}
    except (ValueError, KeyError, TypeError):
        return False
    return names == set(subject.config.datasets)


def _answer(port: int, path: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=_ANSWER_SECONDS) as answer:
            return bytes(answer.read(2**20))
    except urllib.error.HTTPError as error:
        return bytes(error.read(2**20))  # the service runs but is not ready
    except OSError:
        return b""
