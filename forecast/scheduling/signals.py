"""Wait for SIGINT or SIGTERM without running code in a signal handler."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def asked_to_stop() -> Iterator[Callable[[float | None], bool]]:
    """Yield a function that waits some seconds (``None``: for ever) and returns whether a signal arrived.

    A signal only writes a byte to a pipe: an exception raised in its handler could leave a lock held for ever.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    wakeup = signal.set_wakeup_fd(writing)
    try:
        yield lambda seconds: bool(select.select([reading], [], [], seconds)[0])
    finally:
        signal.set_wakeup_fd(wakeup)
        for one, handler in before.items():
            signal.signal(one, handler)
        os.close(reading)
        os.close(writing)
