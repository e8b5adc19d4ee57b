"""Sampling of the keys for the ProbSparse measure: a counter-based draw, equal on every device and in ONNX Runtime.

Philox4x32-10 (Salmon et al., SC 2011) on counters (stratum, query), in non-negative int64 torch operations whose
products stay below 2^63, so nothing depends on how a backend wraps or shifts negative numbers.
"""

from typing import Final, Literal

import torch
from torch import Tensor

from kernels.errors import KernelError, KernelErrorCode

Sampling = Literal["shared", "independent"]

_ROUNDS: Final = 10
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_WORD: Final = 1 << 32
_HALF: Final = 1 << 16
_MAX_CACHED: Final = 64
_cache: dict[tuple[int, int, int, int, torch.device], Tensor] = {}


def draw_keys(
    sampling: Sampling,
    *,
    query_length: int,
    key_length: int,
    count: int,
    seed: int | Tensor,
    device: torch.device,
) -> Tensor:
    """Draw key indices, int64: [count] for "shared", [query_length, count] for "independent".

    The keys are cut into `count` strata and one key is drawn from each: no key twice, every region covered. A tensor
    seed (int64, no dimensions) is read on its device, so that a captured graph can change it.

    >>> draw_keys("shared", query_length=96, key_length=96, count=4, seed=0, device=torch.device("cpu")) // 24
    tensor([0, 1, 2, 3])

    Raises:
        KernelError: `BAD_SEED`.

    """
    if isinstance(seed, int) and not 0 <= seed < 1 << 63:
        raise KernelError(KernelErrorCode.BAD_SEED, f"seed {seed} is not in [0, 2^63)", "pass a non-negative integer")
    rows = 1 if sampling == "shared" else query_length
    if torch.compiler.is_exporting():
        keys = _stratified(rows, key_length, count, seed, device)
    elif torch.compiler.is_compiling():
        given, number = (seed, 0) if isinstance(seed, Tensor) else (None, seed)
        keys = _drawn_op(given, number, rows, key_length, count, device)
    else:
        keys = _drawn(rows, key_length, count, seed, device)
    return keys[0] if sampling == "shared" else keys


def _drawn(rows: int, key_length: int, count: int, seed: int | Tensor, device: torch.device) -> Tensor:
    if isinstance(seed, Tensor):
        return _stratified(rows, key_length, count, seed, device)
    return _remembered(rows, key_length, count, seed, device)


# torch.compile must see one node: it would inline the ten rounds into each other, doubling the expression every time.
@torch.library.custom_op("forecast_kernels::draw_keys", mutates_args=())
def _drawn_op(
    given: Tensor | None, number: int, rows: int, key_length: int, count: int, device: torch.device
) -> Tensor:
    keys = _drawn(rows, key_length, count, number if given is None else given, device)
    return keys.clone()  # a compiled graph may reuse the memory of what an op returns


@_drawn_op.register_fake
def _(_given: Tensor | None, _number: int, rows: int, _key_length: int, count: int, device: torch.device) -> Tensor:
    return torch.empty((rows, count), dtype=torch.int64, device=device)


def _remembered(rows: int, key_length: int, count: int, seed: int, device: torch.device) -> Tensor:
    wanted = (rows, key_length, count, seed, device)
    keys = _cache.get(wanted)
    if keys is None:
        # Drawn on the CPU and copied once: on a GPU the rounds would be a hundred tiny launches.
        keys = _stratified(rows, key_length, count, seed, torch.device("cpu")).to(device)
        while len(_cache) >= _MAX_CACHED:
            _cache.pop(next(iter(_cache)))
        _cache[wanted] = keys
    return keys


def _stratified(rows: int, key_length: int, count: int, seed: int | Tensor, device: torch.device) -> Tensor:
    stratum = torch.arange(count, dtype=torch.int64, device=device)  # [count]
    query = torch.arange(rows, dtype=torch.int64, device=device)[:, None]  # [rows, 1]
    low = stratum * key_length // count
    width = (stratum + 1) * key_length // count - low
    random = philox((stratum.expand(rows, count), query.expand(rows, count)), seed)[0]  # [rows, count]
    return low + random * width // _WORD


def philox(counter: tuple[Tensor, Tensor], seed: int | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of the counter (c0, c1, 0, 0) under the key (low, high word of `seed`): four words in [0, 2^32)."""
    c0, c1 = counter
    c2 = torch.zeros_like(c0)
    c3 = torch.zeros_like(c0)
    k0, k1 = seed % _WORD, seed // _WORD
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) % _WORD, (k1 + _WEYL[1]) % _WORD
    return c0, c1, c2, c3


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 x 32 bit product, by 16-bit halves."""
    low = (word % _HALF) * multiplier  # < 2^48
    middle = (word // _HALF) * multiplier + low // _HALF  # < 2^49
    return middle // _HALF, middle % _HALF * _HALF + low % _HALF
