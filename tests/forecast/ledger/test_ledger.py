import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forecast.errors import StorageError
from forecast.ledger import Ledger
from forecast.ledger.champions import Champion
from forecast.ledger.issuance import Issuance
from forecast.ledger.receipts import IngestFinding, Receipt
from forecast.vocabulary import Action

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    opened = Ledger.open(url)
    yield opened
    opened.close()


def champion(version: str, dataset: str = "tiny") -> Champion:
    return Champion(dataset, "linear", version, f"folder-{version}", "d" * 64, NOW, f"{version} is better")


def issuance(number: int, dataset: str = "tiny") -> Issuance:
    return Issuance(
        forecast_id=f"id-{dataset}-{number}",
        dataset=dataset,
        issued_at=NOW + number * HOUR,
        origin=NOW + number * HOUR,
        horizon=24,
        quantiles=(0.1, 0.5, 0.9),
        data_version=number,
        model_name="linear",
        model_version="v1",
        model_folder="v1",
        imputed_fraction=0.25,
        recorded_at=NOW,
    )


def at_once(work: Callable[[], object], threads: int = 8) -> list[object]:
    """Run ``work`` in threads that all begin at the same moment."""
    barrier = threading.Barrier(threads)

    def begin(_: int) -> object:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads)))


def test_eight_threads_may_open_a_new_ledger_at_once(url: str) -> None:
    def opened() -> Ledger:
        return Ledger.open(url)

    ledgers = at_once(opened)
    for each in ledgers:
        assert isinstance(each, Ledger)
        each.close()


# --- champions --------------------------------------------------------------------------------------------------------


def test_a_data_set_has_no_champion_at_first(ledger: Ledger) -> None:
    assert ledger.champions.current("tiny") is None


def test_the_newest_champion_reigns_over_its_own_data_set_only(ledger: Ledger) -> None:
    for each in (champion("v1"), champion("w1", "other"), champion("v2")):
        ledger.champions.promote(each)
    assert ledger.champions.current("tiny") == champion("v2")
    assert ledger.champions.current("other") == champion("w1", "other")


def test_a_former_champion_can_come_back(ledger: Ledger) -> None:
    for version in ("v1", "v2", "v1"):
        ledger.champions.promote(champion(version))
    assert ledger.champions.current("tiny") == champion("v1")


# --- issuances --------------------------------------------------------------------------------------------------------


def test_an_issuance_is_read_as_it_was_written(ledger: Ledger) -> None:
    ledger.issuances.add(issuance(1))
    read = ledger.issuances.latest("tiny")
    assert read is not None
    assert read.sequence == 1
    assert {name: getattr(read, name) for name in Issuance.__slots__ if name != "sequence"} == {
        name: getattr(issuance(1), name) for name in Issuance.__slots__ if name != "sequence"
    }


@pytest.mark.parametrize(("hours", "expected"), [(-1, None), (0, 0), (0.5, 0), (1, 1), (99, 2)])
def test_as_of_a_time_the_forecast_that_stood_then_is_found(ledger: Ledger, hours: float, expected: int | None) -> None:
    for number in range(3):
        ledger.issuances.add(issuance(number))
    found = ledger.issuances.latest("tiny", as_of=NOW + hours * HOUR)
    assert (found and found.data_version) == expected


def test_issuances_come_newest_first(ledger: Ledger) -> None:
    for number in range(3):
        ledger.issuances.add(issuance(number))
    ledger.issuances.add(issuance(9, "other"))
    assert [each.data_version for each in ledger.issuances.newest("tiny")] == [2, 1, 0]
    assert len(ledger.issuances.newest("tiny", limit=1)) == 1


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_a_replay_begins_at_its_start_and_moves(ledger: Ledger) -> None:
    assert ledger.clocks.position("tiny", NOW) == NOW
    ledger.clocks.move("tiny", NOW + HOUR)
    assert ledger.clocks.position("tiny", NOW) == NOW + HOUR
    assert ledger.clocks.position("other", NOW) == NOW


def test_a_stopped_replay_lets_the_last_late_rows_come_and_never_moves_again(ledger: Ledger) -> None:
    ledger.clocks.position("tiny", NOW)
    ledger.clocks.stop("tiny", NOW)
    stopped = ledger.clocks.position("tiny", NOW)
    assert stopped >= NOW + 3 * HOUR
    ledger.clocks.move("tiny", NOW + 1000 * HOUR)
    ledger.clocks.stop("tiny", NOW + 1000 * HOUR)
    assert ledger.clocks.position("tiny", NOW) == stopped


def test_a_replay_that_ran_on_while_it_was_being_stopped_does_not_go_back(ledger: Ledger) -> None:
    ledger.clocks.position("tiny", NOW)
    ledger.clocks.move("tiny", NOW + 100 * HOUR)
    ledger.clocks.stop("tiny", NOW)
    assert ledger.clocks.position("tiny", NOW) >= NOW + 100 * HOUR


def test_eight_threads_may_ask_for_a_new_replays_time_at_once(ledger: Ledger) -> None:
    assert at_once(lambda: ledger.clocks.position("tiny", NOW)) == [NOW] * 8


# --- opening ----------------------------------------------------------------------------------------------------------


def test_times_come_back_aware_whatever_zone_they_were_given_in(ledger: Ledger) -> None:
    from zoneinfo import ZoneInfo

    given = datetime(2024, 5, 1, 14, tzinfo=ZoneInfo("Europe/Berlin"))
    ledger.champions.promote(replace(champion("v1"), promoted_at=given))
    (found,) = ledger.champions.history("tiny")
    assert found.promoted_at == given
    assert found.promoted_at.tzinfo is UTC


def test_a_ledger_keeps_what_it_was_told_when_it_is_opened_again(ledger: Ledger, url: str) -> None:
    ledger.champions.promote(champion("v1"))
    again = Ledger.open(url)
    assert again.champions.current("tiny") == champion("v1")
    again.close()


@pytest.mark.parametrize(
    "broken",
    ["sqlite:////proc/ledger.db", "sqlite:////nowhere/at/all/ledger.db", "nonsense", "nosuchengine://host/db"],
)
def test_a_ledger_that_cannot_be_opened_is_told_without_a_traceback(broken: str) -> None:
    with pytest.raises(StorageError) as caught:
        Ledger.open(broken)
    assert caught.value.code == "ledger.failed"


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StorageError, match="not a database"):
        Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")


def test_a_password_in_the_address_of_the_ledger_is_not_told() -> None:
    with pytest.raises(StorageError) as caught:
        Ledger.open("nosuchengine://user:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


# --- receipts and earlier releases ------------------------------------------------------------------------------------


def receipt(number: int, dataset: str = "tiny") -> Receipt:
    finding = IngestFinding(
        code="ingest.spike", action=Action.WARN, count=1, message="values far off", first=("row 7",)
    )
    return Receipt(
        dataset=dataset,
        sources=(f"{number}.csv",),
        digest="d" * 64,
        rows=number,
        recorded_at=NOW + number * HOUR,
        data_version=number,
        cursor=str(number),
        findings=(finding,),
    )


def test_receipts_come_newest_first_as_they_were_kept(ledger: Ledger) -> None:
    for number in range(3):
        ledger.receipts.add(receipt(number))
    ledger.receipts.add(receipt(9, "other"))
    assert ledger.receipts.latest("tiny") == [receipt(2), receipt(1), receipt(0)]
    assert ledger.receipts.latest("tiny", 1) == [receipt(2)]
    assert ledger.receipts.latest("unknown") == []
