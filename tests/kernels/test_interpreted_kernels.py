"""Runs the cases of `*/interpreted.py` in a process of their own: Triton reads TRITON_INTERPRET when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.triton_support import absence

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(absence() is not None, reason=str(absence()))
@pytest.mark.parametrize("cases", ["prob_sparse/interpreted.py", "selective_scan/interpreted.py"])
def test_kernels_equal_the_reference_in_the_interpreter(cases: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", f"tests/kernels/{cases}", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
