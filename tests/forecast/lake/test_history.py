"""Which row of a key wins, where the losing rows go, and which version was the latest at a time."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.errors import ConfigError, NotFoundError
from forecast.lake.conflicts import row_digest
from forecast.lake.observations import MergeCount, Observations
from forecast.lake.schemas import TIME
from forecast.vocabulary import Conflicts

START = datetime(2024, 1, 31, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
SCHEMA = pl.Schema(
    {"series": pl.String(), "time": TIME, "version": pl.Int64(), "load": pl.Float64(), "wind": pl.Float64()}
)


@dataclass
class Ticking:
    """A clock that tells the next hour each time it is asked."""

    hours: int = 0

    def now(self) -> datetime:
        self.hours += 1
        return START + self.hours * HOUR


def table(folder: Path, channels: Sequence[str] = ("load", "wind"), clock: Ticking | None = None) -> Observations:
    (folder / "locks").mkdir(exist_ok=True, parents=True)
    return Observations(folder / "lake", folder / "locks", "tiny", channels, clock)


Cells = tuple[int, int | None, float | None]


def batch(*cells: Cells) -> pl.DataFrame:
    """Rows from (hour, version, load)."""
    return pl.DataFrame(
        [("east", START + hour * HOUR, version, load, 2.0) for hour, version, load in cells],
        schema=SCHEMA,
        orient="row",
    )


@pytest.fixture
def observations(tmp_path: Path) -> Observations:
    return table(tmp_path)


def loads(observations: Observations) -> list[float | None]:
    return observations.read()["load"].to_list()


# --- the merge rule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conflicts", Conflicts)
@pytest.mark.parametrize(("stored", "incoming"), [(1, 2), (None, 1), (None, -5)])
def test_a_newer_version_wins_and_an_older_one_loses(
    tmp_path: Path, conflicts: Conflicts, stored: int | None, incoming: int
) -> None:
    one, other = table(tmp_path / "one"), table(tmp_path / "other")
    one.merge(batch((0, stored, 10.0)), conflicts=conflicts)
    assert one.merge(batch((0, incoming, 20.0)), conflicts=conflicts) == MergeCount(0, 1, 0, 0, one.version)
    other.merge(batch((0, incoming, 20.0)), conflicts=conflicts)
    assert other.merge(batch((0, stored, 10.0)), conflicts=conflicts) == MergeCount(0, 0, 0, 1, 0)
    assert loads(one) == loads(other) == [20.0]


def test_of_equal_versions_the_latest_wins_by_one_rule_and_the_larger_digest_by_the_other(tmp_path: Path) -> None:
    digests = {load: batch((0, 1, load)).select(row_digest(["load", "wind"])).item() for load in (1.0, 2.0)}
    smaller, larger = sorted(digests, key=lambda load: digests[load])
    for conflicts, expected in ((Conflicts.LATEST, smaller), (Conflicts.DIGEST, larger)):
        observations = table(tmp_path / conflicts)
        observations.merge(batch((0, 1, larger)))
        observations.merge(batch((0, 1, smaller)), conflicts=conflicts)
        assert loads(observations) == [expected]


def test_a_newer_version_of_equal_values_is_recorded_so_that_a_third_one_is_judged_by_it(
    observations: Observations,
) -> None:
    observations.merge(batch((0, 1, 10.0)))
    assert observations.merge(batch((0, 3, 10.0))).changed == 1
    assert observations.merge(batch((0, 2, 20.0))).outdated == 1
    assert loads(observations) == [10.0]


def test_rows_without_a_version_go_into_a_table_that_had_versions_and_the_other_way_round(
    observations: Observations,
) -> None:
    plain = batch((0, None, 1.0), (1, None, 1.0)).drop("version")
    observations.merge(plain)
    observations.merge(batch((1, 5, 7.0), (2, 5, 7.0)))
    counts = observations.merge(plain.with_columns(load=pl.lit(9.0)))
    assert (counts.changed, counts.outdated) == (1, 1)
    assert loads(observations) == [9.0, 7.0, 7.0]


def test_outdated_rows_are_kept_once_with_the_time_of_their_recording(tmp_path: Path) -> None:
    observations = table(tmp_path, clock=Ticking())
    observations.merge(batch((0, 2, 1.0), (9, 2, 1.0)))
    for _ in range(3):
        counts = observations.merge(batch((0, 1, 5.0), (9, 1, None)))
        assert (counts.outdated, counts.version) == (2, 0)
    kept = observations.superseded()
    assert kept.select("version", "load").rows() == [(1, 5.0), (1, None)]
    assert kept["recorded_at"].n_unique() == 1
    assert kept["recorded_at"].dtype == TIME


def test_rows_that_lost_within_their_batch_are_kept_too(observations: Observations) -> None:
    lost = batch((0, 1, 5.0), (0, 1, 6.0), (0, 1, 5.0))
    for _ in range(2):
        assert observations.merge(batch((0, 2, 1.0)), outdated=lost).outdated == 0
    assert sorted(observations.superseded()["load"]) == [5.0, 6.0]
    assert loads(observations) == [1.0]


def test_a_replayed_correction_changes_nothing(observations: Observations) -> None:
    observations.merge(batch(*[(hour, 1, 1.0) for hour in range(10)]))
    correction = batch(*[(hour, 2, 3.0) for hour in range(5, 12)])
    first = observations.merge(correction)
    assert observations.merge(correction) == MergeCount(0, 0, 7, 0, first.version)


hours, versions = st.integers(0, 7), st.sampled_from([None, 1, 2])
values = st.sampled_from([None, 0.0, 1.0, 2.0])
batches = st.lists(
    st.lists(st.tuples(hours, versions, values), min_size=1, max_size=6, unique_by=lambda cells: cells[0]),
    min_size=1,
    max_size=4,
)


def every_row_version(observations: Observations) -> set[tuple[object, ...]]:
    """All row versions that the history holds: those of any version of the table, and those that lost at once."""
    found = set(observations.superseded().drop("recorded_at").rows())
    for version in range(observations.version + 1):
        at = observations._open(version)
        stored = observations._rows(at, at.files).collect()
        no_version = pl.lit(None, pl.Int64).alias("version")
        stored = stored.with_columns(pl.col("version") if "version" in stored.columns else no_version)
        found |= set(stored.select(list(SCHEMA)).rows())
    return found


@settings(max_examples=15, deadline=None)
@given(batches, st.randoms(use_true_random=False))
def test_in_whatever_order_batches_come_the_table_and_its_history_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[list[Cells]], random: object
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    shuffled = [*drawn, *drawn[:1]]  # one comes twice
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = table(folder / "one"), table(folder / "other")
    for observations, order in ((one, drawn), (other, shuffled)):
        for cells in order:
            rows = batch(*cells)
            has_version = any(version is not None for _, version, _ in cells)
            observations.merge(rows if has_version else rows.drop("version"), conflicts=Conflicts.DIGEST)
    assert one.read().equals(other.read())
    arrived = set(pl.concat([batch(*cells) for cells in drawn]).rows())
    assert every_row_version(one) == every_row_version(other) == arrived


# --- what was known at a time -----------------------------------------------------------------------------------------


def test_the_version_of_a_time_is_read_back_exactly(tmp_path: Path) -> None:
    observations = table(tmp_path, clock=Ticking())
    for number in range(4):
        observations.merge(batch((0, None, float(number))))
    for number in range(4):
        recorded = observations._recorded_at(number)
        assert observations.version_at(recorded) == number
        assert observations.version_at(recorded + timedelta(minutes=59)) == number
    assert observations.version_at(START + 1000 * HOUR) == 3
    with pytest.raises(NotFoundError) as caught:
        observations.version_at(START)
    assert caught.value.code == "lake.before_first"


def test_a_copy_of_the_folder_knows_the_same_times(tmp_path: Path) -> None:
    observations = table(tmp_path / "home", clock=Ticking())
    for number in range(3):
        observations.merge(batch((0, None, float(number))))
    copy = tmp_path / "copy" / "lake" / "tiny" / "observations"
    copy.parent.mkdir(parents=True)
    for path in sorted(Path(observations._folder.location).rglob("*"), reverse=True):
        target = copy / path.relative_to(observations._folder.location)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    moment = observations._recorded_at(1)
    assert table(tmp_path / "copy").version_at(moment) == observations.version_at(moment) == 1


def test_a_clock_that_is_set_back_does_not_disorder_the_versions(tmp_path: Path) -> None:
    clock = Ticking(100)
    observations = table(tmp_path, clock=clock)
    observations.merge(batch((0, None, 0.0)))
    clock.hours = 0
    observations.merge(batch((0, None, 1.0)))
    assert observations._recorded_at(1) == observations._recorded_at(0)
    assert observations.version_at(observations._recorded_at(0)) == 1


def test_a_part_of_the_rows_is_read_from_the_files_of_its_months_alone(observations: Observations) -> None:
    observations.merge(batch(*[(hour, None, float(hour)) for hour in (0, 1, 24 * 40, 24 * 80)]))
    for path in Path(observations._folder.location).glob("month=2024-01/*"):
        path.write_bytes(b"damaged")
    february = datetime(2024, 2, 1, tzinfo=UTC)
    read = observations.read(since=february, until=START + 24 * 80 * HOUR, channels=("load",))
    assert read.columns == ["series", "time", "load"]
    assert read["load"].to_list() == [960.0]
    assert observations.read(since=february)["load"].to_list() == [960.0, 1920.0]


# --- channels ---------------------------------------------------------------------------------------------------------


def test_an_added_channel_is_empty_in_earlier_rows_and_versions(observations: Observations, tmp_path: Path) -> None:
    observations.merge(batch((0, None, 1.0)))
    wider = table(tmp_path, ("load", "wind", "sun"))
    rows = batch((1, None, 1.0)).drop("version").with_columns(sun=pl.lit(8.0))
    with pytest.raises(ConfigError, match='"forecast channel add tiny sun"'):
        wider.merge(rows)
    wider.add_channel("sun")
    wider.merge(rows)
    assert wider.read()["sun"].to_list() == [None, 8.0]
    assert wider.read(version=0)["sun"].to_list() == [None]
    assert observations.read().columns == ["series", "time", "load", "wind"]


def test_a_renamed_channel_has_its_new_name_in_every_version(observations: Observations, tmp_path: Path) -> None:
    observations.merge(batch((0, None, 1.0)))
    observations.merge(batch((0, None, 2.0), (1, None, 3.0)))
    files = sorted(Path(observations._folder.location).rglob("*.parquet"))
    observations.rename_channel("load", "demand")
    assert sorted(Path(observations._folder.location).rglob("*.parquet")) == files
    with pytest.raises(ConfigError, match="no channel load"):
        observations.read()
    renamed = table(tmp_path, ("demand", "wind"))
    assert renamed.read()["demand"].to_list() == [2.0, 3.0]
    assert renamed.read(version=0)["demand"].to_list() == [1.0]
    counts = renamed.merge(batch((0, None, 2.0), (1, None, 9.0)).drop("version").rename({"load": "demand"}))
    assert (counts.unchanged, counts.changed) == (1, 1)
    assert renamed.read()["demand"].to_list() == [2.0, 9.0]


def test_a_name_that_became_free_can_be_given_to_another_channel(observations: Observations, tmp_path: Path) -> None:
    observations.merge(batch((0, None, 1.0)))
    observations.rename_channel("load", "demand")
    observations.add_channel("load")
    both = table(tmp_path, ("demand", "load"))
    both.merge(batch((1, None, 5.0)).select("series", "time", "load", demand=pl.lit(6.0)))
    assert both.read().select("demand", "load").rows() == [(1.0, None), (6.0, 5.0)]
    assert both.superseded().is_empty()


def test_a_retired_channel_comes_back_with_its_values_only_when_it_is_added(
    observations: Observations, tmp_path: Path
) -> None:
    observations.merge(batch((0, None, 1.0), (1, None, 1.0)))
    observations.retire_channel("wind")
    narrow = table(tmp_path, ("load",))
    narrow.merge(batch((1, None, 4.0)).select("series", "time", "load"))
    with pytest.raises(ConfigError, match="to use it again") as caught:
        observations.read()
    assert caught.value.code == "lake.channels_changed"
    observations.add_channel("wind")
    assert observations.read().select("load", "wind").rows() == [(1.0, 2.0), (4.0, 2.0)]


def test_channel_commands_that_cannot_be_meant_are_refused(observations: Observations) -> None:
    observations.merge(batch((0, None, 1.0)))
    observations.retire_channel("wind")
    version = observations.version
    refused: list[tuple[str, Callable[[], None]]] = [
        ("lake.channel_exists", lambda: observations.add_channel("load")),
        ("lake.channel_exists", lambda: observations.rename_channel("load", "wind")),
        ("lake.no_channel", lambda: observations.retire_channel("wind")),
        ("lake.no_channel", lambda: observations.rename_channel("sun", "moon")),
    ]
    for code, command in refused:
        with pytest.raises((ConfigError, NotFoundError)) as caught:
            command()
        assert caught.value.code == code
    assert observations.version == version


def test_outdated_rows_go_by_the_present_names_too(observations: Observations, tmp_path: Path) -> None:
    observations.merge(batch((0, 2, 1.0)))
    observations.merge(batch((0, 1, 5.0)))
    observations.rename_channel("load", "demand")
    observations.add_channel("sun")
    renamed = table(tmp_path, ("demand", "wind", "sun"))
    rows = batch((0, 1, 5.0)).rename({"load": "demand"})
    renamed.merge(rows.with_columns(sun=pl.lit(None, pl.Float64)))  # the one that is kept already
    renamed.merge(rows.with_columns(sun=pl.lit(1.0)))
    assert renamed.superseded().select("demand", "sun").rows() == [(5.0, None), (5.0, 1.0)]


# --- tables of an earlier release -------------------------------------------------------------------------------------


def test_a_table_of_an_earlier_release_goes_on_without_any_act(observations: Observations) -> None:
    location = observations._folder.location
    month = pl.col("time").dt.strftime("%Y-%m").alias("month")
    for number in range(3):
        rows = batch(*[(hour, None, float(number)) for hour in range(number, number + 6)]).drop("version")
        write_deltalake(location, rows.with_columns(month), partition_by=["month"], mode="append")
    assert observations.exists
    assert observations.version == 2
    assert len(observations.read()) == 18
    assert observations.check().damages == ()
    assert len(observations.read(version=0)) == 6
    observations.merge(batch((50, 1, 1.0)))
    assert len(observations.read()) == 19


@pytest.mark.parametrize("order", [*itertools.permutations(["load", "wind", "sun"])])
def test_the_digest_of_a_row_does_not_depend_on_the_order_of_channels(order: tuple[str, ...]) -> None:
    rows = pl.DataFrame({"load": [0.0, None, 1.0], "wind": [-0.0, float("nan"), None], "sun": [1.0, 2.0, None]})
    expected = rows.select(row_digest(["load", "sun", "wind"])).to_series()
    assert rows.select(row_digest(order)).to_series().equals(expected)
    assert expected.n_unique() == 3
    zero = rows.with_columns(wind=pl.Series([0.0, float("nan"), None]))
    assert zero.select(row_digest(order)).to_series().equals(expected)
