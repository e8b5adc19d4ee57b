"""Run a command that the kernel terminates when its parent dies.

``python -m forecast.scheduling.parent_death PARENT COMMAND ...``. Linux keeps the request across ``exec``; on other
systems the command runs unprotected.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tied_to_parent(command: Sequence[str]) -> list[str]:
    """Return the command line that runs ``command`` so that it ends with this process.

    >>> tied_to_parent(["sleep", "60"])[1:3]
    ['-m', 'forecast.scheduling.parent_death']
    """
    return [sys.executable, "-m", "forecast.scheduling.parent_death", str(os.getpid()), *command]


def main() -> None:
    """Request SIGTERM at the parent's death, then replace this process by the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the request, perhaps before this module ran
            sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606  # runs without a shell on purpose
    except OSError as error:
        sys.exit(f'cannot run "{command[0]}" ({error.strerror})')


if __name__ == "__main__":
    main()
