"""Least-recently-used cache with a limit on the total weight."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Keeps the most recently used values up to a total weight; thread-safe.

    >>> recent = Recent[str, str](capacity=3)
    >>> recent.keep("a", "AA", 2); recent.keep("b", "B", 1)
    >>> recent.get("a"), recent.keep("c", "C", 1), recent.get("b")
    ('AA', None, None)
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._weight = 0
        self._held: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """Return the value of a key, or ``None``."""
        with self._lock:
            found = self._held.get(key)
            if found is None:
                return None
            self._held.move_to_end(key)
            return found[0]

    def keep(self, key: Key, value: Value, weight: int) -> None:
        """Keep a value, and drop the least recently used ones; a value above the capacity is not kept."""
        with self._lock:
            self._weight -= self._held.pop(key, (None, 0))[1]
            if weight > self._capacity:
                return
            self._held[key] = (value, weight)
            self._weight += weight
            while self._weight > self._capacity:
                self._weight -= self._held.popitem(last=False)[1][1]
