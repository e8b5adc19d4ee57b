"""Wait for SIGINT or SIGTERM without running anything inside a signal handler."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def asked_to_stop() -> Iterator[Callable[[float | None], bool]]:
    """Give a function that waits some seconds, or for ever, and returns whether a signal asked for the end.

    A signal only writes a byte: an exception raised from its handler could leave a lock held for ever.
    """
    message, telling = os.pipe()
    os.set_blocking(telling, False)
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    wakeup = signal.set_wakeup_fd(telling)
    try:
        yield lambda seconds: bool(select.select([message], [], [], seconds)[0])
    finally:
        signal.set_wakeup_fd(wakeup)
        for one, handler in before.items():
            signal.signal(one, handler)
        os.close(message)
        os.close(telling)
