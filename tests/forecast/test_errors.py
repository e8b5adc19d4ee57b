import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast import errors
from forecast.errors import ForecastError, nearest

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ForecastError)]


def test_every_kind_of_error_has_an_exit_code_of_its_own_and_none_is_success() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert 0 not in codes


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_states_fact_and_remedy_and_keeps_its_code(kind: type[ForecastError]) -> None:
    error = kind("dataset.unknown", 'no data set "etth2"', 'did you mean "etth1"?')
    assert str(error) == 'no data set "etth2"; did you mean "etth1"?'
    assert (error.code, error.fact, error.remedy) == ("dataset.unknown", 'no data set "etth2"', 'did you mean "etth1"?')


def test_an_error_without_a_remedy_is_its_fact() -> None:
    assert str(ForecastError("x.y", "the disk is full")) == "the disk is full"


@pytest.mark.parametrize(
    ("word", "known", "message"),
    [
        ("horizns", ["horizons", "quantiles"], 'did you mean "horizons"?'),
        ("zzz", ["b", "a"], "known are: a, b"),
        ("anything", [], "none exist yet"),
    ],
)
def test_the_nearest_known_word_is_offered(word: str, known: list[str], message: str) -> None:
    assert nearest(word, known) == message


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.data())
def test_a_known_word_is_its_own_nearest(known: list[str], data: st.DataObject) -> None:
    word = data.draw(st.sampled_from(known))
    assert nearest(word, known) == f'did you mean "{word}"?'
