"""Provenance of an issued forecast: the versions needed to recompute it and to explain a difference."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from pydantic import Field

from forecast.strict import StrictModel

_PACKAGE: Final = "forecast-service"
_CHECKOUT: Final = Path(__file__).resolve().parents[1]
_GIT_SECONDS: Final = 10


class Provenance(StrictModel):
    """Provenance of a forecast, in addition to the data version and the model version of its issuance.

    New fields need a default, because documents of earlier releases lack them.
    """

    model_digest: str = Field(description="SHA-256 of the model's manifest, which holds those of its other files.")
    kernels: Mapping[str, str] = Field({}, description="By operation: what the model was trained with, and why that.")
    data_digest: str = Field(description="SHA-256 of the cleaned values that it was computed from.")
    data_recorded_at: datetime = Field(description="When the data version was written, on the machine's clock.")
    covariates_version: int | None = Field(
        None, description="The data version that brought the newest known-future covariates; null if there are none."
    )
    covariates_recorded_at: datetime | None = Field(None, description="When that version was written.")
    covariates_until: datetime | None = Field(
        None, description="Time of the newest known-future covariate, of the series and channel that reach least far."
    )
    code_version: str = Field(description="Release of this service.")
    code_commit: str | None = Field(None, description="Its git commit, where it runs from a checkout.")
    code_changed: bool = Field(False, description="Whether files of the checkout were not as committed.")
    runtime: str = Field(description="ONNX Runtime and its version.")
    provider: str = Field(description="Its execution provider.")
    threads: int = Field(description="Threads of one run; 0 lets ONNX Runtime choose.")
    machine: str = Field(description="Operating system and kind of processor.")
    hindsight: bool = Field(
        False,
        description="Made for a past instant with a model that became champion later, and may have seen later rows.",
    )


@dataclass(frozen=True, slots=True)
class Code:
    """Version of the running code."""

    version: str
    commit: str | None
    changed: bool


@cache
def code() -> Code:
    """Return the release of this service, and its commit if it runs from a checkout; cached per process."""
    try:
        release = version(_PACKAGE)
    except PackageNotFoundError:
        release = "unknown"
    commit = _git("rev-parse", "HEAD")
    return Code(release, commit or None, bool(commit and _git("status", "--porcelain", "--untracked-files=no")))


def machine() -> str:
    """Return the operating system and the kind of processor, such as ``Linux x86_64``."""
    return f"{platform.system()} {platform.machine()}"


def _git(*arguments: str) -> str:
    if not (_CHECKOUT / ".git").exists():  # installed as a package, perhaps below the checkout of another project
        return ""
    # Explicit paths: a git hook that runs this process sets GIT_DIR to another repository.
    place = ["--git-dir", str(_CHECKOUT / ".git"), "--work-tree", str(_CHECKOUT)]
    try:
        done = subprocess.run(
            ["git", *place, *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # without git the forecast is issued all the same
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
