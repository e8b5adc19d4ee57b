from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.reliability.home import make_home
from forecast.installation import Installation
from forecast.runtime.manifest import Manifest


@pytest.fixture
def busy_home(tmp_path: Path, crown: Callable[..., Manifest]) -> Path:
    """A home in which much happens: a replay whose champion repeats the last value, and a data set to push rows to."""
    from pipelines.ingestion.ingest import ingest

    home = make_home(tmp_path / "busy")
    installation = Installation.open(home)
    ingest(installation.dataset("tiny"))
    crown(installation)
    installation.ledger.close()
    return home
