from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from forecast.clock import SystemClock
from forecast.installation import Installation
from forecast.runtime.manifest import Manifest
from pipelines.forecasting.covariate_age import CovariateAge, covariate_age
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.preparation.clean import clean

MakeHome = Callable[..., Installation]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[..., CovariateAge]
HOUR = timedelta(hours=1)


@pytest.fixture
def grow(make_home: MakeHome, tiny_rows: MakeRows, tiny_document: dict[str, Any]) -> Grow:
    """Bring rows of so many hours in, of which a known-future covariate reaches further; returns their age then."""
    tiny_document["datasets"]["tiny"]["channels"]["plan"] = {"role": "future", "unit": "MW"}
    installation = make_home(document=tiny_document)
    config = installation.config.datasets["tiny"]

    def grown(hours: int, ahead: int, level: float = 0.0) -> CovariateAge:
        hour = pl.int_range(pl.len()).over("site")
        rows = tiny_rows(ahead).with_columns(
            *(pl.when(hour < hours).then(name).alias(name) for name in ("load", "price", "wind")), plan=hour + level
        )
        rows.write_csv(installation.home.path / "rows.csv")
        ingest(installation.dataset("tiny"))
        table = installation.dataset("tiny").observations
        found = covariate_age(table, table.version, clean(table.read(), config), config)
        assert found is not None
        return found

    return grown


def test_without_covariates_of_the_user_their_age_is_unknown(tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    assert issuance.provenance is not None
    assert issuance.provenance.covariates_version is None


def test_it_is_the_version_that_brought_the_newest_covariates(grow: Grow) -> None:
    first = grow(100, 130)
    assert first.version == 0
    for hours in range(101, 112):  # only targets come in
        assert grow(hours, 130).version == 0
    longer = grow(112, 140)
    assert longer.version == 12
    assert longer.recorded_at > first.recorded_at
    for hours in range(113, 118):
        assert grow(hours, 140).version == 12
    assert grow(118, 140, level=1.0).version == 18  # corrected
    assert grow(119, 140, level=1.0) == grow(120, 140, level=1.0)


def test_it_tells_until_when_covariates_are_known(grow: Grow) -> None:
    start = datetime.fromisoformat("2024-01-01T00:00:00+00:00")
    assert grow(100, 130).until == start + 129 * HOUR
    assert grow(101, 160).until == start + 159 * HOUR


def test_a_forecast_has_its_provenance(tiny_home: Installation, crown: Callable[..., Manifest]) -> None:
    crown(tiny_home, "trained", kernels={"selective_scan": "reference: no GPU"})
    before = SystemClock().now()
    issuance, _ = issue(tiny_home.dataset("tiny"))
    message, table = issuance.provenance, tiny_home.dataset("tiny").observations
    assert message is not None
    champion = tiny_home.ledger.champions.current("tiny")
    assert champion is not None
    assert message.model_digest == champion.digest
    assert message.kernels == {"selective_scan": "reference: no GPU"}
    assert message.data_recorded_at == table.recorded_at(issuance.data_version) < before
    assert (message.provider, message.threads) == ("CPUExecutionProvider", 0)
    assert message.runtime.startswith("onnxruntime ")
    assert message.code_commit is None or len(message.code_commit) == 40
    assert tiny_home.ledger.issuances.latest("tiny").provenance == message  # type: ignore[union-attr]


def test_the_digest_of_the_data_does_not_depend_on_the_order_in_which_they_came(
    make_home: MakeHome, tiny_rows: MakeRows, crown: Callable[..., Manifest], tmp_path: Any
) -> None:
    digests = set()
    for number, seed in enumerate((None, 1, 2)):
        rows = tiny_rows()
        parts = [rows] if seed is None else rows.sample(fraction=1, shuffle=True, seed=seed).iter_slices(300)
        installation = make_home(folder=tmp_path / f"home {number}")
        for part in parts:
            part.write_csv(installation.home.path / "rows.csv")
            ingest(installation.dataset("tiny"))
        crown(installation, f"m{number}")
        message = issue(installation.dataset("tiny"))[0].provenance
        assert message is not None
        digests.add(message.data_digest)
    assert len(digests) == 1
