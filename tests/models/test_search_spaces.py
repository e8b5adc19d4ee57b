from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.catalog import CATALOG, BuildRequest, ModelName
from models.darts.frame import Frame, FramedNetwork
from models.search_spaces import (
    SEARCH_SPACES,
    SIZES,
    Number,
    OneOf,
    Option,
    Space,
    Whole,
    options_of,
    point_of,
    present_options,
    space_of,
)
from models.shape import WindowShape

LOOKBACKS = (6, 96)
MODELS = tuple(SEARCH_SPACES)


def forecast(model: ModelName, options: dict[str, Option], lookback: int) -> torch.Size:
    """Build the network with what surrounds it, and return the shape of a forecast."""
    made = CATALOG[model].build(BuildRequest(lookback=lookback, horizon=12, options=options))
    kind: Any = type(made)
    shape = WindowShape(lookback=lookback, horizon=12, targets=2, past=1, future=3, static=0, outputs=3)
    config, frame = kind.module_class.config_class(**made.network_options), Frame(**made.frame_options)
    network = FramedNetwork(lambda: kind.module_class.network_class(config, shape), frame, shape).eval()
    with torch.no_grad():
        answer: torch.Tensor = network(
            *(torch.zeros(1, *size) for size in ((lookback, 2), (lookback, 1), (lookback, 3), (12, 3)))
        )
    return answer.shape


def points(space: Space) -> st.SearchStrategy[dict[str, Option]]:
    def of(dimension: Number | Whole | OneOf) -> st.SearchStrategy[Option]:
        match dimension:
            case Number(low, high):
                return st.floats(low, high)
            case Whole(low, high):
                return st.integers(low, high)
            case OneOf(values):
                return st.sampled_from(values)

    return st.fixed_dictionaries({name: of(dimension) for name, dimension in space.items()})


def test_every_trained_network_has_a_space_and_nothing_else_has() -> None:
    assert set(SEARCH_SPACES) == {name for name, spec in CATALOG.items() if spec.family == "network"}


@pytest.mark.parametrize("model", MODELS)
def test_a_space_names_options_of_its_model_alone(model: ModelName) -> None:
    dimensions = SEARCH_SPACES[model]
    also = {other for one in dimensions.values() if isinstance(one, OneOf) for other in one.also}
    assert set(dimensions) | also | set(SIZES.get(model, ())) <= CATALOG[model].option_names()


@pytest.mark.parametrize(("model", "lookback"), list(product(MODELS, LOOKBACKS)))
def test_a_model_is_made_at_both_ends_of_its_space(model: ModelName, lookback: int) -> None:
    space = space_of(model, lookback)
    for end in (0, 1):
        options = options_of(space, {name: one.extremes[end] for name, one in space.items()})
        assert forecast(model, options, lookback) == (1, 12, 2, 3)


@pytest.mark.parametrize("model", [ModelName.INFORMER, ModelName.ITRANSFORMER])
def test_every_width_can_be_shared_by_every_number_of_heads(model: ModelName) -> None:
    space = space_of(model, 48)
    first = options_of(space, {name: one.extremes[0] for name, one in space.items()})
    widths, heads = space["width"], space["heads"]
    assert isinstance(widths, OneOf)
    assert isinstance(heads, OneOf)
    for width, head in product(widths.values, heads.values):
        CATALOG[model].build(BuildRequest(lookback=48, horizon=12, options={**first, "width": width, "heads": head}))


def test_a_patch_is_never_longer_than_the_look_back() -> None:
    lengths = space_of(ModelName.PATCH_TSMIXER, 10)["patch_length"]
    assert isinstance(lengths, OneOf)
    assert lengths.values == (4, 8)
    assert "patch_length" not in space_of(ModelName.PATCH_TSMIXER, 3)


@pytest.mark.parametrize("model", MODELS)
def test_what_a_model_is_without_options_lies_in_its_space(model: ModelName) -> None:
    space = space_of(model, 336)
    assert set(point_of(model, space, {})) == set(space)


@given(data=st.data(), model=st.sampled_from(MODELS), lookback=st.sampled_from(LOOKBACKS))
def test_the_options_of_a_point_lie_where_the_point_does(data: st.DataObject, model: ModelName, lookback: int) -> None:
    space = space_of(model, lookback)
    options = options_of(space, data.draw(points(space)))
    again = point_of(model, space, options)
    assert again == {name: options[name] for name in space}
    assert options_of(space, again) == options


def test_options_that_lie_outside_are_not_in_the_point() -> None:
    space = space_of(ModelName.PATCH_TSMIXER, 336)
    point = point_of(
        ModelName.PATCH_TSMIXER, space, {"width": 48, "patch_stride": 8, "averaging": 0, "mix_channels": False}
    )
    assert set(space) - set(point) == {"width", "patch_length"}
    assert (point["averaging"], point["mix_channels"]) == (0.0, False)


def test_a_switch_is_no_number_and_a_number_no_switch() -> None:
    assert OneOf((False, True)).find(1) is None
    assert OneOf((0.0, 0.9)).find(False) is None
    assert Whole(0, 3).find(True) is None
    assert (Whole(1, 3).find(2.0), Whole(1, 3).find(2.5), Number(0, 1).find(True)) == (2, None, None)


def test_an_option_that_is_not_given_has_its_preset_value() -> None:
    assert present_options(ModelName.ITRANSFORMER, {})["width"] == 64
    assert present_options(ModelName.ITRANSFORMER, {"preset": "faithful"})["width"] == 256
    assert present_options(ModelName.ITRANSFORMER, {"preset": "faithful", "width": 32})["width"] == 32
