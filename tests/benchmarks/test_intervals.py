from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.intervals import data
from benchmarks.intervals.__main__ import main, read_rows, summary, write_rows
from benchmarks.intervals.data import History, read
from benchmarks.intervals.measure import BANDS, Row, _known, measure
from forecast.config.file import load_config_file
from pipelines.preparation.windows import cut


@pytest.fixture(scope="module")
def short() -> History:
    whole = read(data.MADE)
    panel = whole.panel
    rows = {name: getattr(panel, name)[:, :3000] for name in ("targets", "past", "observed", "past_observed", "future")}
    return History(whole.config, replace(panel, **rows, future_observed=panel.future_observed[:, :3000]))


@pytest.fixture(scope="module")
def rows(short: History) -> list[Row]:
    return measure(data.MADE, short, "seasonal_naive")


@pytest.mark.slow
def test_every_kind_of_band_has_a_row_per_channel_and_group_of_lead_times(rows: list[Row]) -> None:
    places = {(row.bands, row.channel, row.last_lead) for row in rows}
    assert places == {(bands, name, end) for bands in BANDS for name in ("even", "skewed") for end in (12, 24, 36, 48)}
    assert len(rows) == len(places)
    assert {row.tests for row in rows} == {2}


@pytest.mark.slow
def test_calibration_gives_a_point_model_its_band_and_lowers_the_loss(rows: list[Row]) -> None:
    before, after = ([row for row in rows if row.bands == bands] for bands in ("none", "calibrated"))
    for one, two in zip(before, after, strict=True):
        assert one.coverage < 0.01
        assert two.coverage == pytest.approx(0.8, abs=0.15)  # two tests of three weeks each
        assert two.pinball < one.pinball
        assert two.wql < one.wql
        assert two.lowest <= two.coverage <= two.highest
        assert two.width > one.width == pytest.approx(0)


@pytest.mark.slow
def test_a_rolling_calibration_knows_nothing_from_its_day_on(short: History) -> None:
    config, panel = short.config, short.panel
    windows = cut(panel, config, 1000, 1400, 5)
    origins = np.asarray([panel.index(origin) for origin in windows.origins])
    known = _known(windows, origins, 1100, 1200)
    begins = np.asarray([panel.index(origin) for origin in known.origins])
    rows = begins[:, None] + np.arange(config.horizon)
    seen = np.isfinite(known.actual).all(axis=2)
    assert np.array_equal(seen, (rows >= 1100) & (rows < 1200))
    assert set(rows[seen]) == set(range(1100, 1200))
    assert seen.any(axis=1).all()


@pytest.mark.slow
def test_what_was_measured_survives_its_file_and_is_not_measured_again(
    rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, figure = tmp_path / "r" / "rows.csv", tmp_path / "r" / "figure.png"
    write_rows(file, rows)
    again = read_rows(file)
    assert [row.coverage for row in again] == pytest.approx([row.coverage for row in rows], rel=1e-4)
    asked = ["--datasets", data.MADE, "--models", "seasonal_naive", "--csv", str(file), "--figure", str(figure)]
    assert main(asked) == 0
    assert read_rows(file) == again
    assert figure.read_bytes().startswith(b"\x89PNG")
    message = capsys.readouterr()
    assert message.out == summary(again)
    assert message.out.count("| stationary | seasonal_naive |") == len(BANDS)
    assert not message.err


@pytest.mark.slow
def test_a_data_set_that_is_not_here_is_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECAST_ETTH1", str(tmp_path / "nothing.csv"))
    assert main(["--datasets", "etth1", "--csv", str(tmp_path / "rows.csv")]) == 1
    assert "etth1 is left out" in capsys.readouterr().err


@pytest.mark.slow
def test_the_measured_jobs_can_be_read() -> None:
    jobs = load_config_file(data.JOBS).datasets
    assert set(jobs) == {"nyc-airports", "etth1", data.MADE}
    assert all({0.1, 0.5, 0.9} <= set(config.quantiles) for config in jobs.values())
