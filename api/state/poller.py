"""A thread that looks at the ledger again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from forecast.errors import ForecastError

_POLL_SECONDS = 1.0
_log = logging.getLogger("api")


class Follower:
    """Calls each look once a second, or every so many seconds; one that fails is told once and tried again."""

    def __init__(self, looks: Sequence[tuple[Callable[[], None], int]]) -> None:
        self._looks = looks
        self._failing: set[int] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="ledger-follower", daemon=True)

    def start(self) -> None:
        """Look at everything once, then follow."""
        self._look(0)
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stopping.set()
        self._thread.join()

    def _follow(self) -> None:
        beat = 0
        while not self._stopping.wait(_POLL_SECONDS):
            beat += 1
            self._look(beat)

    def _look(self, beat: int) -> None:
        for place, (look, every) in enumerate(self._looks):
            if beat % every:
                continue
            try:
                look()
                self._failing.discard(place)
            except ForecastError as error:
                if place not in self._failing:
                    _log.error("%s [%s]", error, error.code)
                self._failing.add(place)
            except Exception:  # noqa: BLE001 - a thread's boundary: one look must not end the others
                if place not in self._failing:
                    _log.exception("the ledger cannot be followed")
                self._failing.add(place)
