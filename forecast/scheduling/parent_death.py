"""Run a command that the kernel kills when its parent dies.

``python -m forecast.scheduling.parent_death PARENT COMMAND ...``. Linux keeps the request across ``exec``; on other
systems the command simply runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def leashed(command: Sequence[str]) -> list[str]:
    """Return the command line that runs ``command`` on a leash held by this process."""
    return [sys.executable, "-m", "forecast.scheduling.parent_death", str(os.getpid()), *command]


def main() -> None:
    """Ask for SIGTERM at the parent's death, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the wish was heard, perhaps before the first line here
            sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606  # no shell is wanted
    except OSError as error:
        sys.exit(f'cannot run "{command[0]}" ({error.strerror})')


if __name__ == "__main__":
    main()
