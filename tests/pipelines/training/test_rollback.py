from collections.abc import Callable

import polars as pl
import pytest

from forecast.errors import NotFoundError, StorageError
from forecast.installation import Installation
from forecast.ledger.champions import Champion
from forecast.runtime.manifest import NETWORK, Manifest
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.training.rollback import rollback, rollback_if_worse

Crown = Callable[..., Manifest]
DOWN = "http://127.0.0.1:9"  # nobody listens on the discard port


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DOWN)


def reigning(installation: Installation) -> str:
    champion = installation.ledger.champions.current("tiny")
    assert champion is not None
    return champion.model_version


def test_the_champion_before_is_champion_again(tiny_home: Installation, crown: Crown) -> None:
    crown(tiny_home, "repeat_last-2")
    again = rollback(tiny_home.dataset("tiny"))
    assert reigning(tiny_home) == again.model_version == "repeat_last-1"
    assert "replaces repeat_last-2: by hand" in again.verdict


def test_a_version_may_be_named(tiny_home: Installation, crown: Crown) -> None:
    for number in (2, 3):
        crown(tiny_home, f"repeat_last-{number}")
    rollback(tiny_home.dataset("tiny"), "repeat_last-1")
    assert reigning(tiny_home) == "repeat_last-1"
    rollback(tiny_home.dataset("tiny"))  # the one before is the one that was just left
    assert reigning(tiny_home) == "repeat_last-3"


@pytest.mark.parametrize("to", [None, "repeat_last-1", "repeat_last-0"])
def test_where_there_is_nothing_to_go_back_to_the_champion_stays(tiny_home: Installation, to: str | None) -> None:
    with pytest.raises(NotFoundError) as caught:
        rollback(tiny_home.dataset("tiny"), to)
    assert caught.value.code == "promotion.no_earlier"
    assert reigning(tiny_home) == "repeat_last-1"


def test_without_a_champion_the_error_says_what_to_do(make_home: Callable[..., Installation]) -> None:
    with pytest.raises(NotFoundError, match="forecast train tiny"):
        rollback(make_home().dataset("tiny"))


def test_a_model_whose_file_was_changed_does_not_come_back(tiny_home: Installation, crown: Crown) -> None:
    crown(tiny_home, "repeat_last-2")
    with (tiny_home.home.models / "repeat_last-1" / NETWORK).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(StorageError) as caught:
        rollback(tiny_home.dataset("tiny"))
    assert caught.value.code == "model.corrupt"
    assert reigning(tiny_home) == "repeat_last-2"


def test_the_next_forecast_is_of_the_model_that_came_back(tiny_home: Installation, crown: Crown) -> None:
    crown(tiny_home, "repeat_last-2")
    issue(tiny_home.dataset("tiny"))
    rollback(tiny_home.dataset("tiny"))
    issuance, is_new = issue(tiny_home.dataset("tiny"))
    assert is_new
    assert issuance.model_version == "repeat_last-1"


@pytest.fixture
def after(tiny_home: Installation, crown: Crown, tiny_rows: Callable[..., pl.DataFrame]) -> Callable[..., Installation]:
    """Crown a second model that is off by ``bias``, issue with it, and let ``hours`` more come true."""

    def make(bias: float, hours: int) -> Installation:
        crown(tiny_home, "repeat_last-2", bias=bias)
        issue(tiny_home.dataset("tiny"))
        tiny_rows(400 + hours).write_csv(tiny_home.home.path / "rows.csv")
        ingest(tiny_home.dataset("tiny"))
        return tiny_home

    return make


def test_a_champion_that_does_worse_on_what_came_since_is_replaced_by_the_one_before(
    after: Callable[..., Installation],
) -> None:
    home = after(bias=3.0, hours=72)
    verdict = rollback_if_worse(home.dataset("tiny"))
    assert verdict is not None
    assert verdict.promote
    assert reigning(home) == "repeat_last-1"
    champion = home.ledger.champions.current("tiny")
    assert isinstance(champion, Champion)
    assert "on new rows" in champion.verdict
    assert (
        rollback_if_worse(home.dataset("tiny")) is None
    )  # the one that came back has issued nothing yet that it could be judged by


@pytest.mark.parametrize("bias", [0.0, 0.01])
def test_a_champion_that_does_as_well_stays(after: Callable[..., Installation], bias: float) -> None:
    home = after(bias=bias, hours=72)
    verdict = rollback_if_worse(home.dataset("tiny"))
    assert verdict is not None
    assert not verdict.promote
    assert reigning(home) == "repeat_last-2"


@pytest.mark.parametrize("hours", [2, 8])
def test_nothing_is_judged_before_enough_has_come_true(after: Callable[..., Installation], hours: int) -> None:
    home = after(bias=3.0, hours=hours)
    assert rollback_if_worse(home.dataset("tiny")) is None
    assert reigning(home) == "repeat_last-2"


def test_with_one_champion_there_is_nothing_to_compare(tiny_home: Installation) -> None:
    issue(tiny_home.dataset("tiny"))
    assert rollback_if_worse(tiny_home.dataset("tiny")) is None


def test_a_champion_that_cannot_be_loaded_is_no_reason_to_stop(
    after: Callable[..., Installation], caplog: pytest.LogCaptureFixture
) -> None:
    home = after(bias=3.0, hours=72)
    (home.home.models / "repeat_last-1" / NETWORK).unlink()
    assert rollback_if_worse(home.dataset("tiny")) is None
    assert "cannot be compared" in caplog.text
