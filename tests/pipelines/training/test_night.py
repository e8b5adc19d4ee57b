from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from forecast.installation import Installation
from forecast.runtime.manifest import Manifest
from pipelines.preparation.clean import clean
from pipelines.preparation.slices import Slices
from pipelines.training.night import comparable_champion

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def compared(installation: Installation) -> tuple[bool, str]:
    """Whether the champion can be scored beside challengers, and else why not."""
    config = installation.config.datasets["tiny"]
    panel = clean(installation.dataset("tiny").observations.read(), config)
    model, reason = comparable_champion(installation.dataset("tiny"), config, panel, Slices.of(panel, config))
    return model is not None, reason


def test_a_champion_of_an_earlier_night_is_compared(tiny_home: Installation) -> None:
    assert compared(tiny_home) == (True, "")


@pytest.mark.parametrize(("hours", "is_compared"), [(400 - 24, True), (400 - 23, False)])
def test_a_champion_that_has_seen_the_holdout_is_not_compared_on_it(
    tiny_home: Installation, crown: Callable[..., Manifest], hours: int, is_compared: bool
) -> None:
    crown(tiny_home, "repeat_last-2", fitted_until=START + hours * HOUR)
    assert compared(tiny_home)[0] is is_compared
    assert ("trained on the rows" in compared(tiny_home)[1]) is not is_compared


@pytest.mark.parametrize(
    "change",
    [{"quantiles": [0.05, 0.5, 0.95]}, {"horizons": [12]}, {"lookback": 50}],
    ids=["quantiles", "horizon", "look-back"],
)
def test_a_champion_of_another_job_is_not_compared(
    tiny_home: Installation,
    tiny_document: dict[str, Any],
    make_home: Callable[..., Installation],
    change: dict[str, Any],
) -> None:
    assert compared(tiny_home)[0]
    tiny_document["datasets"]["tiny"] |= change
    assert compared(make_home(document=tiny_document))[1].startswith("repeat_last-1 was trained for other")


def test_a_champion_from_before_a_covariate_was_known_ahead_is_not_compared(
    tiny_home: Installation, tiny_document: dict[str, Any], make_home: Callable[..., Installation]
) -> None:
    tiny_document["datasets"]["tiny"]["channels"]["wind"]["role"] = "future"
    assert compared(make_home(document=tiny_document))[1].startswith("repeat_last-1 was trained for other")
    assert compared(tiny_home)[0]
