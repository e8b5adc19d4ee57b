"""Remedies that name the nearest valid word."""

from __future__ import annotations

from collections.abc import Iterable

from forecast.errors import nearest

_LONGEST_WORD = 80
_MOST_NAMES = 20


def suggest(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the remedy that names the nearest known word; lists of more than 20 names are not written out.

    >>> suggest("horizn", ["horizon", "quantiles"])
    'did you mean "horizon"?'
    """
    names = list(known)
    remedy = nearest(word[:_LONGEST_WORD], names)
    if remedy.startswith("did you mean") or len(names) <= _MOST_NAMES:
        return remedy
    return otherwise or f"there are {len(names)}; they are listed at /v1/datasets"
