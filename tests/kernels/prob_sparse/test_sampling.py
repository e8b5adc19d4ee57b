import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.errors import KernelError, KernelErrorCode
from kernels.prob_sparse.sampling import draw_keys, philox

CPU = torch.device("cpu")


def test_philox_gives_its_authors_known_answers() -> None:
    # The vectors of the authors' own test suite for counters without third and fourth word.
    zero = torch.zeros(1, dtype=torch.int64)
    assert [int(word) for word in philox((zero, zero), 0)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1))
def test_philox_equals_arithmetic_on_python_integers(c0: int, c1: int, seed: int) -> None:
    words = [c0, c1, 0, 0]
    k0, k1 = seed % 2**32, seed // 2**32
    for _ in range(10):
        a, b = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        words = [(b >> 32) ^ words[1] ^ k0, b % 2**32, (a >> 32) ^ words[3] ^ k1, a % 2**32]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    drawn = philox((torch.tensor([c0]), torch.tensor([c1])), seed)
    assert [int(word) for word in drawn] == words


@given(st.integers(1, 3000), st.data())
def test_keys_are_distinct_inside_the_range_and_one_in_each_stratum(length: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, length))
    keys = draw_keys("shared", query_length=3, key_length=length, count=count, seed=5, device=CPU)
    assert keys.unique().numel() == count
    stratum = torch.arange(count)
    assert (keys >= stratum * length // count).all()
    assert (keys < (stratum + 1) * length // count).all()


def test_independent_queries_see_different_keys_and_the_first_sees_the_shared_ones() -> None:
    independent = draw_keys("independent", query_length=50, key_length=400, count=30, seed=1, device=CPU)
    shared = draw_keys("shared", query_length=50, key_length=400, count=30, seed=1, device=CPU)
    assert independent.shape == (50, 30)
    assert torch.equal(independent[0], shared)
    assert independent.unique(dim=0).shape[0] == 50


def test_every_key_of_a_stratum_is_equally_likely() -> None:
    drawn = draw_keys("independent", query_length=20_000, key_length=8, count=2, seed=0, device=CPU)
    counts = torch.bincount(drawn.flatten(), minlength=8).double()
    assert ((counts - 5000).square() / 5000).sum() < 24.3  # chi-squared, 7 degrees of freedom, p = 0.001


def test_a_tensor_seed_draws_what_the_same_integer_draws() -> None:
    drawn = [
        draw_keys("shared", query_length=9, key_length=90, count=20, seed=seed, device=CPU)
        for seed in (2**40 + 7, torch.tensor(2**40 + 7))
    ]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_outside_63_bits_is_refused(seed: int) -> None:
    with pytest.raises(KernelError) as refused:
        draw_keys("shared", query_length=9, key_length=90, count=20, seed=seed, device=CPU)
    assert refused.value.code is KernelErrorCode.BAD_SEED
