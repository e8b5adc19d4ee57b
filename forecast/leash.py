"""Run a command that ends when its parent does, even if the parent is killed: ``python -m forecast.leash COMMAND ...``.

Linux keeps the wish across ``exec``; elsewhere the command simply runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def leashed(command: Sequence[str]) -> list[str]:
    """Return the command line that runs ``command`` on a leash."""
    return [sys.executable, "-m", "forecast.leash", *command]


def main() -> None:
    """Ask for SIGTERM at the parent's death, then become the command."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the wish was heard
            sys.exit(1)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main()
