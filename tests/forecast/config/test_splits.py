from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from forecast.config.dataset import DatasetConfig

MakeJob = Callable[..., DatasetConfig]
HOLDOUT = date(2024, 5, 1)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"holdout": "three days"}, "is not a duration"),
        ({"holdout": 0.0}, "0.0 is no part of the history"),
        ({"holdout": 1.0}, "1.0 is no part of the history"),
        ({"holdout": 500}, "500 is no part of the history"),
        ({"holdout": True}, "True is no part of the history"),
        ({"holdout": float("nan")}, "nan is no part of the history"),
        ({"until": "2024-05-01"}, "is no date"),
        ({"validation": 0.4, "calibration": 0.3, "holdout": 0.3}, "take all rows"),
        ({"calibration": "23h"}, "splits.calibration"),
        ({"calibration": date(2024, 5, 1), "holdout": HOLDOUT}, "splits.calibration"),
        ({"calibration": date(2024, 5, 2), "holdout": HOLDOUT}, "splits.calibration"),
        ({"calibration": datetime(2024, 4, 30, 1, tzinfo=UTC), "holdout": HOLDOUT}, "shorter than the longest horizon"),
        ({"holdout": HOLDOUT, "until": date(2024, 5, 1)}, "splits.holdout"),
        ({"validation": date(2024, 4, 29), "calibration": "3d", "holdout": HOLDOUT}, "splits.validation"),
        ({"published": True}, "no splits are published for a source"),
        ({"published": True, "holdout": "3d"}, "leave the other fields out"),
    ],
)
def test_what_cannot_be_meant_is_told_at_load(config_with: MakeJob, splits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config_with(splits=splits)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("etth1", {"frequency": "1d"}, "counts steps of 1h"),
        ("etth1", {"horizons": [1441]}, "half of the published validation part"),
    ],
)
def test_published_parts_that_do_not_fit_are_told_at_load(
    config_with: MakeJob, name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        config_with(source={"kind": "benchmark", "name": name}, splits={"published": True}, **changes)


@pytest.mark.parametrize(
    "splits",
    [
        {"holdout": 0.1},
        {"validation": date(2024, 4, 1), "calibration": 0.1, "holdout": HOLDOUT, "until": date(2024, 6, 1)},
        {"validation": "2d", "calibration": "1d", "holdout": HOLDOUT},
    ],
)
def test_what_may_fit_is_left_to_the_rows(config_with: MakeJob, splits: dict[str, Any]) -> None:
    assert config_with(splits=splits).splits.model_fields_set == splits.keys()
