"""One environment per rival, created on demand with our version of torch."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.models.lockstep import ROOT

FOLDER = ROOT / ".rivals"
"""Folder of the environments; git ignores it, and it may be deleted at any time."""


def environment(name: str) -> Path:
    """Return the Python with the packages of `<name>.txt`; the first call installs them.

    Raises:
        CalledProcessError: an installation failed; pip's output is on standard error.

    """
    folder = FOLDER / name
    python, done = folder / "bin" / "python", folder / "installed.txt"
    requirements = Path(__file__).with_name(f"{name}.txt")
    # Both sides use the same library for products; and only this build is known to fit the machine (CPU or CUDA).
    wanted = f"torch=={version('torch').partition('+')[0]}\n{requirements.read_text(encoding='utf-8')}"
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / ".gitignore").write_text("*\n", encoding="utf-8")
        sys.stderr.write(f"installing {', '.join(wanted.split())} into {os.path.relpath(folder)}\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted.split()], check=True, stdout=sys.stderr)
        done.write_text(wanted, encoding="utf-8")
    return python
