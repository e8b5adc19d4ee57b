"""Every kernel compiles for GPUs that are not here: registers, spills and tensor cores are read from the machine code."""

import inspect
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kernels.triton_support import absence, interpreted

if absence() is not None or interpreted():
    pytest.skip(absence() or "the interpreter compiles nothing", allow_module_level=True)

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import prob_sparse_kernels, selective_scan_kernels

TOOLS = Path(nvidia.__file__).parent / "bin"
# What each pointer points to; every other argument is a 32-bit integer unless named a float.
FLOATS = dict.fromkeys(("scale", "inverse_divisor"), "fp32")
TYPES = (
    FLOATS
    | dict.fromkeys(("Q", "K", "V", "OUT", "GRAD", "DK", "DV"), "*bf16")
    | dict.fromkeys(("M", "ACC", "MAX", "TOTAL", "SUMS", "LSE", "PARTS", "DQ"), "*fp32")
    | dict.fromkeys(("KEYS", "TOP"), "*i64")
)
SCAN_TYPES = dict.fromkeys(("U", "DELTA", "B", "C", "Z", "OUT", "GRAD", "DU", "DDELTA", "DZ"), "*bf16") | dict.fromkeys(
    ("A", "SKIP", "BIAS", "LAST", "GRAD_LAST", "STATES", "DA", "DB", "DC", "DSKIP", "DBIAS"), "*fp32"
)
STRIDE = r"s(q|k|v|o|g|u|d|b|c|z)[bhlg]"
UNIT_STRIDES = ("sqd", "skd", "svd", "sod", "sgd", "skeys", "skeysu")  # what Triton itself finds to be 1
ATTENTION = {"BD": 64, "BS": 64, "BK": 64}
SCAN = {"N": 16, "BN": 16, "BD": 32, "HAS_SKIP": True, "HAS_Z": True, "HAS_BIAS": True, "SOFTPLUS": True}


@dataclass(frozen=True, slots=True)
class Case:
    kernel: Any
    constants: dict[str, Any]
    types: dict[str, str]
    warps: int = 4
    stages: int = 3
    uses_dot: bool = False

    def __str__(self) -> str:
        return f"{self.kernel.fn.__name__}{'-causal' if self.constants.get('CAUSAL') else ''}"


@dataclass(frozen=True, slots=True)
class MachineCode:
    registers: int
    spills: int
    tensor_instructions: int
    text: str


P, S = prob_sparse_kernels, selective_scan_kernels
CASES = [
    Case(P.measure_shared, {"BQ": 64, "BU": 64, "BD": 64, "PRECISION": "tf32"}, TYPES, uses_dot=True),
    Case(P.measure_independent, {"BQ": 64, "BD": 64}, TYPES),
    Case(P.select_largest, {"BL": 2048}, TYPES),
    *(
        Case(P.attend_split, ATTENTION | {"CAUSAL": c, "PRECISION": "tf32"}, TYPES, uses_dot=True)
        for c in (False, True)
    ),
    *(Case(P.finish_forward, ATTENTION | {"CAUSAL": c}, TYPES) for c in (False, True)),
    *(Case(P.sum_unselected, ATTENTION | {"CAUSAL": c}, TYPES) for c in (False, True)),
    *(
        Case(P.differentiate_split, ATTENTION | {"CAUSAL": c, "PRECISION": "tf32"}, TYPES, uses_dot=True)
        for c in (False, True)
    ),
    Case(P.finish_query_gradient, ATTENTION, TYPES | {"DQ": "*bf16"}),
    Case(S.scan_forward, SCAN | {"T": 4, "KEPT": 8, "SAVE": True}, SCAN_TYPES, warps=1),
    Case(S.scan_backward, SCAN | {"BD": 16, "T": 4, "KEPT": 8}, SCAN_TYPES, warps=1),
]


def compile_for(capability: int, case: Case, tmp_path: Path) -> MachineCode:
    names = list(inspect.signature(case.kernel.fn).parameters)
    constants = case.constants | {name: 1 for name in UNIT_STRIDES if name in names}
    signature = {name: "constexpr" if name in constants else case.types.get(name, "i32") for name in names}
    # Triton finds the same when it launches: allocations, head sizes and strides of real models are multiples of 16.
    aligned = {name for name in names if signature[name].startswith("*") or name == "D" or re.fullmatch(STRIDE, name)}
    attrs = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned - constants.keys()}
    built = triton.compile(
        ASTSource(fn=case.kernel, signature=signature, constexprs=constants, attrs=attrs),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": case.warps, "num_stages": case.stages, "enable_fp_fusion": True},
    )
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(built.asm["cubin"])
    usage, text = (
        subprocess.run([TOOLS / "cuobjdump", flag, cubin], capture_output=True, text=True, check=True).stdout
        for flag in ("-res-usage", "--dump-sass")
    )
    return MachineCode(
        registers=int(re.search(r"REG:(\d+)", usage).group(1)),
        spills=len(re.findall(r"\bSTL", text)),
        tensor_instructions=len(re.findall(r"\bHGMMA|\bHMMA", text)),
        text=text,
    )


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kernel_compiles_without_spills_and_uses_tensor_cores_where_it_multiplies_matrices(
    capability: int, case: str, tmp_path: Path
) -> None:
    code = compile_for(capability, case, tmp_path)
    print(
        str(case),
        capability,
        code.registers,
        code.spills,
        code.tensor_instructions,
        {
            k: len(re.findall(r"\b" + k, code.text))
            for k in ("SHFL", "LDS", "STS", "BAR", "MUFU", "LDG", "STG", "LDSM", "ATOM", "RED\\.")
        },
        len(code.text.splitlines()),
    )
    assert code.spills == 0
    assert code.registers < 255
    assert (code.tensor_instructions > 0) == case.uses_dot
    assert not re.search(r"\b(ATOM|RED)[.G]", code.text)  # sums by atomics would change from run to run
