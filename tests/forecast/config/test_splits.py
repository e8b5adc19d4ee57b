from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from forecast.config.dataset import DatasetConfig

MakeConfig = Callable[..., DatasetConfig]
HOLDOUT = date(2024, 5, 1)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"holdout": "three days"}, "is not a duration"),
        ({"holdout": 0.0}, "0.0 is not a valid split"),
        ({"holdout": 1.0}, "1.0 is not a valid split"),
        ({"holdout": 500}, "500 is not a valid split"),
        ({"holdout": True}, "True is not a valid split"),
        ({"holdout": float("nan")}, "nan is not a valid split"),
        ({"until": "2024-05-01"}, "is not a valid date"),
        ({"validation": 0.4, "calibration": 0.3, "holdout": 0.3}, "leave no rows to fit on"),
        ({"calibration": "23h"}, "splits.calibration"),
        ({"calibration": date(2024, 5, 1), "holdout": HOLDOUT}, "splits.calibration"),
        ({"calibration": date(2024, 5, 2), "holdout": HOLDOUT}, "splits.calibration"),
        ({"calibration": datetime(2024, 4, 30, 1, tzinfo=UTC), "holdout": HOLDOUT}, "shorter than the longest horizon"),
        ({"holdout": HOLDOUT, "until": date(2024, 5, 1)}, "splits.holdout"),
        ({"validation": date(2024, 4, 29), "calibration": "3d", "holdout": HOLDOUT}, "splits.validation"),
        ({"published": True}, "has no published splits"),
        ({"published": True, "holdout": "3d"}, "leave the other fields out"),
    ],
)
def test_splits_that_cannot_work_are_rejected_at_load(
    config_with: MakeConfig, splits: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        config_with(splits=splits)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("etth1", {"frequency": "1d"}, "counts steps of 1h"),
        ("etth1", {"horizons": [1441]}, "half of the published validation part"),
    ],
)
def test_published_parts_that_do_not_fit_are_rejected_at_load(
    config_with: MakeConfig, name: str, changes: dict[str, Any], message: str
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
def test_what_may_fit_is_left_to_the_rows(config_with: MakeConfig, splits: dict[str, Any]) -> None:
    assert config_with(splits=splits).splits.model_fields_set == splits.keys()
