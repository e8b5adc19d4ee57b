import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import triton_support
from kernels.errors import KernelError, KernelErrorCode

ROOT = Path(__file__).parents[2]

WITHOUT_TRITON = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "triton" or name.startswith("triton."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Blocked())

import torch
from kernels import KernelError
from kernels.prob_sparse import prob_sparse_attention, prob_sparse_route
from kernels.selective_scan import selective_scan
from kernels.triton_support import absence, load_triton

q = torch.randn(1, 2, 30, 8, requires_grad=True)
prob_sparse_attention(q, q, q).sum().backward()
u = torch.randn(1, 4, 9, requires_grad=True)
selective_scan(u, u.abs(), -torch.ones(4, 3), torch.randn(1, 3, 9), torch.randn(1, 3, 9)).sum().backward()
assert "not installed" in absence()
assert prob_sparse_route(q, q).path == "torch"
try:
    load_triton()
except KernelError as refused:
    print(refused.code, refused)
assert "triton" not in sys.modules
"""


def run_python(code: str, **environment: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_everything_runs_without_triton_and_the_error_says_why() -> None:
    message = run_python(WITHOUT_TRITON)
    assert message.startswith("kernel_triton_unavailable triton is not installed")


def test_importing_the_kernels_does_not_import_triton() -> None:
    # Blocked on purpose for this process only: torch itself may import Triton.
    imports = "import kernels.prob_sparse, kernels.selective_scan, sys"
    loaded = f"{imports}; print([m for m in sys.modules if m.startswith('kernels.') and 'triton' in m])"
    assert run_python(loaded).strip() == "['kernels.triton_support']"


@pytest.mark.parametrize("first", ["kernels.selective_scan.torch", "kernels.selective_scan.scan", "kernels"])
def test_a_package_of_an_op_is_reached_by_its_path_in_any_order_of_imports(first: str) -> None:
    code = f"""
import {first}
from kernels.selective_scan import selective_scan
import kernels.selective_scan.torch as plain
from kernels import prob_sparse
import kernels.prob_sparse.torch
print(callable(selective_scan), plain.__name__, prob_sparse.torch.__name__)
"""
    assert run_python(code).split() == ["True", "kernels.selective_scan.torch", "kernels.prob_sparse.torch"]


def test_a_process_can_switch_triton_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS_TRITON", "off")
    assert triton_support.absence() == "KERNELS_TRITON=off is set"
    with pytest.raises(KernelError) as refused:
        triton_support.load_triton()
    assert refused.value.code is KernelErrorCode.TRITON_UNAVAILABLE


def test_each_refusal_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "absence", lambda: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "tensors are on cpu" in triton_support.refusal(torch.device("cpu"), torch.float32)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton_support.refusal(torch.device("cpu"), torch.float32) is None
    assert "bfloat16" in triton_support.refusal(torch.device("cpu"), torch.bfloat16)
    assert "float64 has no kernel" in triton_support.refusal(torch.device("cpu"), torch.float64)
    assert "not meta" in triton_support.refusal(torch.device("meta"), torch.float32)
