import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forecast
from forecast.config.checks import CHECKS
from forecast.config.dataset import DatasetConfig
from forecast.config.file import load_config_file
from forecast.errors import ConfigError
from forecast.units import conversion
from forecast.vocabulary import Action


@pytest.mark.parametrize("name", CHECKS)
def test_every_action_that_a_check_allows_can_be_chosen(config_with: Callable[..., DatasetConfig], name: str) -> None:
    for action in CHECKS[name].allowed:
        assert config_with(checks={name: action.value}).checks[name] is action


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_can_refuse_a_batch_and_has_a_usual_action(name: str) -> None:
    assert Action.REJECT in CHECKS[name].allowed
    assert CHECKS[name].usual in CHECKS[name].allowed
    assert (Action.REPAIR in CHECKS[name].allowed) == bool(CHECKS[name].repair)


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ({"spikes": "warn"}, 'did you mean "spike"?'),
        ({"spike": "quarantine"}, "choose from: warn, repair, reject"),
        ({"spike": "ignore"}, "'reject', 'quarantine', 'repair' or 'warn'"),
    ],
)
def test_an_invalid_check_is_rejected_with_a_remedy(
    to_toml: Callable[..., str], tiny_document: dict[str, Any], tmp_path: Path, checks: dict[str, str], message: str
) -> None:
    tiny_document["datasets"]["tiny"]["checks"] = checks
    file = tmp_path / "forecast.toml"
    file.write_text(to_toml(tiny_document), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"datasets\.tiny\.checks") as caught:
        load_config_file(file)
    assert message in str(caught.value)


@pytest.mark.parametrize(("source", "unit", "value", "expected"), [
    ("degF", "degC", 212.0, 100.0), ("kW", "MW", 1500.0, 1.5), ("mph", "m/s", 1.0, 0.44704), ("%", "", 50.0, 0.5),
    ("MW", "MW", 3.0, 3.0),
])  # fmt: skip
def test_values_are_converted_between_units_of_one_quantity(
    source: str, unit: str, value: float, expected: float
) -> None:
    factor, offset = conversion(source, unit)
    assert value * factor + offset == pytest.approx(expected)


@pytest.mark.parametrize(("source", "unit"), [("degC", "MW"), ("flights", "MW"), ("kW", "(("), ("", "MW")])
def test_units_of_different_quantities_are_rejected(source: str, unit: str) -> None:
    with pytest.raises(ConfigError) as caught:
        conversion(source, unit)
    assert caught.value.code == "unit.no_conversion"


def test_every_check_is_documented() -> None:
    text = (Path(forecast.__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", text, flags=re.MULTILINE))
    assert set(CHECKS) <= documented
