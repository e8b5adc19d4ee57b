"""The accuracy benchmark: the protocol's borders and scores, trainings that survive a kill, rows, and the report."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from benchmarks.accuracy import report, run
from benchmarks.accuracy.cells import Cell, Row, add_row, read_rows
from benchmarks.accuracy.figure import draw
from benchmarks.accuracy.protocol import BESIDE, VARIABLE, Dataset, calendar_of, score, series_of
from benchmarks.accuracy.recipes import RECIPES, Recipe
from benchmarks.accuracy.summary import summarise
from benchmarks.accuracy.training import Fitted, build, fit_cell

ETTH1 = Path(os.environ.get(VARIABLE, BESIDE))  # read before the tests' own environment hides it
LOOKBACK, HORIZON = 12, 4
SMALL = Recipe(
    calendar=True,
    patience=9,
    arguments={"width": 16, "feed_forward": 16, "heads": 2, "dropout": 0.3, "n_epochs": 4, "batch_size": 16},
)


@pytest.fixture
def data() -> Dataset:
    """Two noisy waves, 150 hours in three parts."""
    times = pd.date_range("2020-01-01", periods=150, freq="h")
    hours = np.arange(150)[:, None] + np.array([0, 6])
    noise = np.random.default_rng(0).normal(0, 0.3, hours.shape)
    frame = pd.DataFrame(np.sin(hours * 2 * np.pi / 12) + noise, index=times, columns=["a", "b"])
    return Dataset("waves", series_of(frame), calendar_of(times), (90, 120, 150))


def cell_of(model: str, preset: str, seed: int = 3) -> Cell:
    return Cell("waves", model, preset, LOOKBACK, HORIZON, seed)


def quiet(_: str) -> None:
    pass


def fit(data: Dataset, scratch: Path, recipe: Recipe = SMALL, say: Callable[[str], None] = quiet) -> Fitted:
    return fit_cell(cell_of("itransformer", "faithful"), recipe, data, scratch, say)


def row(cell: Cell, mse: float, mae: float) -> Row:
    return Row(cell, mse, mae, 2785, 0.7, 0.5, 3, 6, 60.0, 1, "2.13.0", "abc1234", "2026-01-01")


def etth1_row(model: str, preset: str, mse: float, mae: float, seed: int = 0, lookback: int = 96) -> Row:
    return row(Cell("ETTh1", model, preset, lookback, 96, seed), mse, mae)


class KilledError(RuntimeError):
    """Stands for the signal that ends a process."""


@pytest.mark.slow
@pytest.mark.skipif(not ETTH1.is_file(), reason=f"ETTh1.csv is not on this machine; name it in {VARIABLE}")
def test_repeating_the_last_value_has_the_errors_that_are_known_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(ETTH1))
    asked = ["--models", "seasonal_naive", "--presets", "last", "--horizons", "96", "--threads", "1"]
    assert run.main([*asked, "--results", str(tmp_path / "rows.csv"), "--scratch", str(tmp_path)]) == 0
    (found,) = read_rows(tmp_path / "rows.csv").values()
    assert (round(found.mse, 4), round(found.mae, 4), found.windows) == (1.2944, 0.7132, 2785)


@pytest.mark.slow
def test_another_file_under_the_name_of_etth1_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ETTh1.csv"
    monkeypatch.setenv(VARIABLE, str(path))
    for fact in ("does not exist", "has MD5 d41d8cd98f00b204e9800998ecf8427e"):
        assert run.main(["--models", "linear", "--threads", "1", "--results", str(tmp_path / "rows.csv")]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert fact in message
        assert VARIABLE in message
        path.touch()
    assert not (tmp_path / "rows.csv").exists()


@pytest.mark.slow
def test_scores_in_batches_equal_darts_backtest_of_every_window(data: Dataset) -> None:
    model = build(cell_of("itransformer", "faithful"), replace(SMALL, arguments={**SMALL.arguments, "n_epochs": 1}))
    known, test = data.rows("train", LOOKBACK), data.rows("test", LOOKBACK)
    model.fit(data.targets[known], future_covariates=data.calendar[known], verbose=False)
    scored = score(model.model, data.windows("test", LOOKBACK, HORIZON, calendar=True))
    forecasts = model.historical_forecasts(
        data.targets[test],
        future_covariates=data.calendar,
        forecast_horizon=HORIZON,
        retrain=False,
        last_points_only=False,
        verbose=False,
    )
    errors = np.stack([one.values() - data.targets.slice_intersect(one).values() for one in forecasts])  # [W, H, C]
    assert scored.windows == len(errors) == 150 - 120 - HORIZON + 1
    assert scored.mse == pytest.approx(np.square(errors, dtype=np.float64).mean(), rel=1e-5)
    assert scored.mae == pytest.approx(np.abs(errors, dtype=np.float64).mean(), rel=1e-5)


@pytest.mark.slow
def test_a_killed_training_goes_on_at_its_last_whole_epoch_to_the_same_bits(data: Dataset, tmp_path: Path) -> None:
    def die_in_the_third_epoch(line: str) -> None:
        if "epoch 3" in line:
            raise KilledError

    whole = fit(data, tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(data, tmp_path / "killed", say=die_in_the_third_epoch)
    lines: list[str] = []
    resumed = fit(data, tmp_path / "killed", say=lines.append)
    assert "resumed after epoch 2" in lines[0]
    assert whole.best_epoch > 2  # the weights compared come from after the kill
    assert (resumed.epochs, resumed.best_epoch) == (whole.epochs, whole.best_epoch)
    for name, weight in whole.model.model.state_dict().items():
        np.testing.assert_array_equal(resumed.model.model.state_dict()[name], weight, err_msg=name)


@pytest.mark.slow
def test_a_training_killed_before_its_row_was_written_is_not_trained_again(data: Dataset, tmp_path: Path) -> None:
    once = replace(SMALL, arguments={**SMALL.arguments, "n_epochs": 2})
    first = fit(data, tmp_path, once)
    lines: list[str] = []
    second = fit(data, tmp_path, once, lines.append)
    assert [line for line in lines if ": epoch" in line] == []
    assert (second.validation, second.best_epoch, second.epochs) == (first.validation, first.best_epoch, 2)


@pytest.mark.slow
def test_averaged_weights_are_what_is_validated_and_put_back(data: Dataset, tmp_path: Path) -> None:
    rates = {"averaging": 0.5, "learning_rate": 0.1, "n_epochs": 3}  # so wild that the last epoch is not the best
    lines: list[str] = []
    fitted = fit(data, tmp_path, replace(SMALL, arguments={**SMALL.arguments, **rates}), lines.append)
    assert fitted.best_epoch < fitted.epochs
    assert f"(best {fitted.validation.mse:.4f} at {fitted.best_epoch})" in lines[-1]
    module = fitted.model.model
    module.averaged = None
    windows = data.windows("validation", LOOKBACK, HORIZON, calendar=True)
    assert score(module, windows).mse != pytest.approx(fitted.validation.mse, rel=1e-3)


@pytest.mark.slow
def test_cells_that_have_a_row_are_skipped_and_again_repeats_them(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [(cell_of("seasonal_naive", season), Recipe(arguments={"season": 1})) for season in ("last", "day")]
    results = tmp_path / "rows.csv"
    run.measure(asked[:1], data, results=results, scratch=tmp_path)
    (measured,) = read_rows(results).values()
    add_row(results, replace(measured, mse=9.0))
    run.measure(asked, data, results=results, scratch=tmp_path)
    assert "2 cells, 1 of them finished before" in capsys.readouterr().out
    assert read_rows(results)[asked[0][0]].mse == 9
    assert len(read_rows(results)) == 2
    run.measure(asked[:1], data, results=results, scratch=tmp_path, again=True)
    assert read_rows(results)[asked[0][0]].mse == pytest.approx(measured.mse, rel=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.slow
def test_rows_added_at_the_same_time_are_all_there_and_sorted(tmp_path: Path) -> None:
    results = tmp_path / "results" / "rows.csv"
    added = [row(cell_of(model, "default", seed), 0.5, 0.4) for seed in range(20) for model in ("linear", "dlinear")]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: add_row(results, one), added))
    assert list(read_rows(results)) == sorted(one.cell for one in added)


@pytest.mark.slow
def test_every_recipe_builds_at_each_of_its_horizons() -> None:
    for (model, preset), recipe in RECIPES.items():
        for horizon in recipe.horizons:
            here = recipe.of(horizon)
            build(Cell("ETTh1", model, preset, here.lookback, horizon, 0), here)


@pytest.mark.slow
def test_the_report_tells_misses_and_losses_to_linear_beside_the_means() -> None:
    lines = report.render(
        [
            etth1_row("seasonal_naive", "last", 1.294, 0.713),
            etth1_row("linear", "default", 0.384, 0.39),
            *(etth1_row("itransformer", "faithful", 0.391 + 0.002 * seed, 0.405, seed) for seed in range(3)),
            *(etth1_row("itransformer", "default", mse, 0.4013, seed) for seed, mse in enumerate((0.38, 0.379, 0.381))),
            etth1_row("patch_tsmixer", "default", 0.359, 0.384, lookback=512),
        ]
    ).splitlines()

    def line(name: str) -> list[str]:
        (found,) = [line for line in lines if line.startswith(f"| {name} |")]
        return [entry.strip() for entry in found.strip("|").split("|")]

    assert line("iTransformer faithful") == [
        *("iTransformer faithful", "96", "3", "0.3930 (0.0040)", "0.4050 (0.0000)", "0.386 / 0.405", "0.394 / 0.413"),
        *("met", "**loses to** Linear (L 96) on MSE and MAE"),
    ]
    assert line("iTransformer default")[7:] == [
        "**missed** by 0.0013 MAE",
        "**loses to** Linear (L 96) on MAE",
    ]
    assert line("PatchTSMixer default")[7:] == ["met (too few seeds)", "linear (L 512) not yet run"]
    assert line("Repeat last")[3:5] == ["1.2940", "0.7130"]
    assert "- PatchTSMixer default, look-back 512, horizon 96: 1 of 3 seeds." in lines
    assert "- S-Mamba faithful: not yet run at 96, 192, 336, 720." in lines


@pytest.mark.slow
def test_averages_over_the_horizons_wait_until_all_four_are_there() -> None:
    rows = [
        row(Cell("ETTh1", "s_mamba", "default", 96, horizon, seed), mse, 0.42)
        for horizon, mse in ((96, 0.38), (192, 0.42), (336, 0.45), (720, 0.5))
        for seed in range(3)
    ]
    assert "### Average" not in report.render(rows[:-3])
    table = report.render(rows).split("### Average")[1]
    assert "| S-Mamba default | 96 | 3 | 0.4375 (0.0000) | 0.4200 (0.0000) | 0.455 / 0.450 |" in table
    assert "| 0.432 / 0.427 | **missed** by 0.0055 MSE |" in table


@pytest.mark.slow
def test_the_page_keeps_its_words_and_gets_tables_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, page, figure = tmp_path / "rows.csv", tmp_path / "page.md", tmp_path / "figure.png"
    arguments = ["--results", str(results), "--page", str(page), "--figure", str(figure)]
    assert report.main(arguments) == 2
    assert "has no rows" in capsys.readouterr().err
    add_row(results, etth1_row("linear", "default", 0.384, 0.39))
    page.write_text("Before\n", encoding="utf-8")
    assert report.main(arguments) == 2
    assert report.BEGIN in capsys.readouterr().err
    page.write_text(f"Before\n{report.BEGIN}\nold\n{report.END}\nAfter\n", encoding="utf-8")
    for _ in range(2):
        assert report.main(arguments) == 0
        written = page.read_text(encoding="utf-8")
        assert written.startswith("Before\n")
        assert written.endswith("After\n")
        assert written.count("0.3840") == 1
        assert "old" not in written
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_no_two_labels_of_the_figure_overlap() -> None:
    figure = draw(
        summarise(
            row(Cell("ETTh1", model, preset, recipe.of(horizon).lookback, horizon, seed), mse, 0.4)
            for (model, preset), recipe in RECIPES.items()
            for horizon in {96, 336}.intersection(recipe.horizons)
            for seed in range(3)
            for mse in [1.3 if preset == "last" else 0.36 + 0.01 * seed]
        )
    )
    figure.savefig(BytesIO())
    titles = [child for axes in figure.axes for child in axes.get_children() if isinstance(child, Text)]
    labels = [*figure.texts, *titles]
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        labels += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [label.get_window_extent() for label in labels if label.get_text()]
    assert len(boxes) > 25
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
