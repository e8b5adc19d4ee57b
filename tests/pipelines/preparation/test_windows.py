from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.errors import TrainingError
from forecast.panel import Panel
from pipelines.preparation.features import known_future
from pipelines.preparation.windows import cut

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
NAN = float("nan")
LOOKBACK, HORIZON = 48, 24
MakeJob = Callable[..., DatasetConfig]


def make_panel(steps: int = 400, seed: int = 0) -> Panel:
    random = np.random.default_rng(seed)
    targets = random.normal(40, 10, (2, steps, 2))
    return Panel(
        ("east", "west"), START, HOUR, targets, random.normal(5, 2, (2, steps, 1)), np.ones(targets.shape, bool), {}
    )


def test_windows_lie_where_they_must(tiny_config: DatasetConfig) -> None:
    panel = make_panel()
    windows = cut(panel, tiny_config, 200, 300)
    assert len(windows.origins) == 2 * (100 - HORIZON + 1)
    assert min(windows.origins) == panel.time(200)
    assert max(windows.origins) == panel.time(300 - HORIZON)
    calendar = known_future(panel.start, panel.step, panel.steps, tiny_config)
    for place, (origin, name) in enumerate(zip(windows.origins, windows.series, strict=True)):
        row, number = panel.index(origin), panel.series.index(name)
        assert np.array_equal(windows.targets[place], panel.targets[number, row - LOOKBACK : row])
        assert np.array_equal(windows.past[place], panel.past[number, row - LOOKBACK : row])
        assert np.array_equal(windows.future[place], calendar[row - LOOKBACK : row + HORIZON])
        assert np.array_equal(windows.actual[place], panel.targets[number, row : row + HORIZON])


@pytest.mark.parametrize(
    ("first", "last", "origins"), [(0, 100, 29), (LOOKBACK, LOOKBACK + HORIZON, 1), (376, 400, 1), (300, 400, 77)]
)
def test_every_origin_whose_targets_fit_is_there_once(
    tiny_config: DatasetConfig, first: int, last: int, origins: int
) -> None:
    assert len(cut(make_panel(), tiny_config, first, last).origins) == 2 * origins


def test_a_stride_takes_every_so_manieth_origin(tiny_config: DatasetConfig) -> None:
    windows = cut(make_panel(), tiny_config, 200, 300, stride=7)
    assert [(origin - START) // HOUR for origin in windows.origins[: len(windows.origins) // 2]] == list(
        range(200, 277, 7)
    )


@pytest.mark.parametrize(("first", "last"), [(100, 123), (0, 71), (400, 400)])
def test_a_history_without_a_complete_window_is_reported(tiny_config: DatasetConfig, first: int, last: int) -> None:
    with pytest.raises(TrainingError) as caught:
        cut(make_panel(), tiny_config, first, last)
    assert caught.value.code == "backtest.no_window"


@pytest.mark.parametrize("channel", ["targets", "past"])
def test_no_window_looks_back_across_a_gap_and_other_series_keep_theirs(
    tiny_config: DatasetConfig, channel: str
) -> None:
    panel = make_panel()
    getattr(panel, channel)[0, 250, 0] = NAN
    windows = cut(panel, tiny_config, 200, 400)
    east = [panel.index(origin) for origin, name in zip(windows.origins, windows.series, strict=True) if name == "east"]
    assert east == [row for row in range(200, 377) if not row - LOOKBACK <= 250 < row]
    assert windows.series.count("west") == 177


def test_what_was_filled_is_seen_by_the_model_but_not_scored(tiny_config: DatasetConfig) -> None:
    panel = make_panel()
    panel.observed[0, 230, 1] = False
    windows = cut(panel, tiny_config, 200, 300)
    row = next(i for i, origin in enumerate(windows.origins) if panel.index(origin) == 225)
    assert np.isnan(windows.actual[row, 5, 1])
    assert np.isfinite(windows.actual[row]).sum() == 2 * HORIZON - 1
    row = next(i for i, origin in enumerate(windows.origins) if panel.index(origin) == 240)
    assert windows.targets[row, LOOKBACK - 10, 1] == panel.targets[0, 230, 1]


def test_the_digest_tells_windows_apart_by_origin_series_and_truth(tiny_config: DatasetConfig) -> None:
    windows = cut(make_panel(), tiny_config, 200, 300)
    assert cut(make_panel(), tiny_config, 200, 300).digest == windows.digest
    changed = make_panel()
    changed.targets[1, 299, 1] += 1e-9
    others = [
        cut(make_panel(), tiny_config, 201, 300),
        cut(changed, tiny_config, 200, 300),
        replace(windows, series=tuple(reversed(windows.series))),
    ]
    assert windows.digest not in {other.digest for other in others}
