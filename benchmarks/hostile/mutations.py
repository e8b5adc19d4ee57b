"""Random changes to the bytes of a sound folder's files, with recomputed digests."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.hostile.sound import sealed
from forecast.runtime.manifest import GOLDEN, MANIFEST, NETWORK

FILES = (NETWORK, GOLDEN, MANIFEST)
_DIGIT = b"0123456789"
_TELLING = (b"", b"\x00", b"\xff" * 8, b"\x7f\xff\xff\xff", b"NaN", b"-1", b"1e308", b'"', b"null", b"../../")


def _flip(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _set(content: bytearray, chance: random.Random) -> None:
    content[chance.randrange(len(content))] = chance.randrange(256)


def _insert(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content) + 1)
    content[place:place] = chance.choice((*_TELLING, chance.randbytes(chance.randrange(1, 64))))


def _delete(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content))
    del content[place : place + chance.choice((1, 2, 8, 64))]


def _truncate(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def _splice(content: bytearray, chance: random.Random) -> None:
    begin, place, length = (chance.randrange(len(content)) for _ in range(3))
    content[place : place + length % 256] = content[begin : begin + length % 256]


def _repeat(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content))
    content[place:place] = content[place : place + 64] * chance.randrange(1, 50)


def _number(content: bytearray, chance: random.Random) -> None:
    places = [place for place, byte in enumerate(content) if byte in _DIGIT]
    content[chance.choice(places)] = chance.choice(_DIGIT)


WAYS: Mapping[str, Callable[[bytearray, random.Random], None]] = {
    "flip": _flip,
    "set": _set,
    "insert": _insert,
    "delete": _delete,
    "truncate": _truncate,
    "splice": _splice,
    "repeat": _repeat,
    "digit": _number,
}


def mutate(sound: Path, folder: Path, chance: random.Random) -> tuple[str, str]:
    """Copy a sound folder and change one file; returns the file and the mutation. Copies always differ."""
    shutil.copytree(sound, folder)
    name, way = chance.choice(FILES), chance.choice(list(WAYS))
    before = (sound / name).read_bytes()
    content = bytearray(before)
    while content == before:
        WAYS[way](content, chance)
    (folder / name).write_bytes(content)
    if name != MANIFEST:
        sealed(folder)
    return name, way
