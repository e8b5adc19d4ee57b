"""Every kernel compiles for GPUs without one; the binary shows registers, spills and tensor cores."""

import inspect
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels.triton_support import FUSED, absence, interpreted

if absence() is not None or interpreted():
    pytest.skip(absence() or "the interpreter compiles nothing", allow_module_level=True)

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.prob_sparse import programs as prob_sparse_kernels
from kernels.prob_sparse import triton as prob_sparse_triton
from kernels.selective_scan import programs as selective_scan_kernels
from kernels.selective_scan import triton as selective_scan_triton

DISASSEMBLER = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
if not DISASSEMBLER.exists():
    pytest.skip("this build of Triton ships no cuobjdump to read machine code with", allow_module_level=True)

# What each pointer points to; every other argument is a 32-bit integer.
ATTENTION_TYPES = (
    dict.fromkeys(("scale", "inverse_divisor"), "fp32")
    | dict.fromkeys(("Q", "K", "V", "OUT", "GRAD", "DK", "DV"), "*bf16")
    | dict.fromkeys(("M", "ACC", "MAX", "TOTAL", "SUMS", "LSE", "PARTS", "DQ"), "*fp32")
    | dict.fromkeys(("KEYS", "TOP"), "*i64")
)
SCAN_TYPES = dict.fromkeys(("U", "DELTA", "B", "C", "Z", "OUT", "GRAD", "DU", "DDELTA", "DZ"), "*bf16") | dict.fromkeys(
    ("A", "SKIP", "BIAS", "LAST", "GRAD_LAST", "STATES", "DA", "DB", "DC", "DSKIP", "DBIAS"), "*fp32"
)
# What Triton finds by itself at a launch: these strides are 1, the others and the head size multiples of 16.
UNIT_STRIDES = ("sqd", "skd", "svd", "sod", "sgd", "skeys", "skeysu")
ROW_STRIDE = r"s[qkvogudbcz][bhlg]"
SCAN = {"N": 16, "BN": 16, "T": 4, "KEPT": 16, "HAS_SKIP": True, "HAS_Z": True, "HAS_BIAS": True, "SOFTPLUS": True}
SCAN |= {"B_VARIES": True, "C_VARIES": True}


@dataclass(frozen=True, slots=True)
class MachineCode:
    registers: int
    spills: int
    tensor_instructions: int
    shuffles: int
    atomics: int


def compile_for(
    capability: int,
    kernel: Any,
    constants: dict[str, Any],
    types: dict[str, str],
    folder: Path,
    *,
    warps: int = 4,
    stages: int = 2,
) -> MachineCode:
    names = list(inspect.signature(kernel.fn).parameters)
    constants = constants | {name: 1 for name in UNIT_STRIDES if name in names}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = {
        name for name in names if signature[name].startswith("*") or name == "D" or re.fullmatch(ROW_STRIDE, name)
    }
    built = triton.compile(
        ASTSource(
            fn=kernel,
            signature=signature,
            constexprs=constants,
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned - constants.keys()},
        ),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": stages, "enable_fp_fusion": FUSED},
    )
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(built.asm["cubin"])
    usage, code = (
        subprocess.run([DISASSEMBLER, flag, cubin], capture_output=True, text=True, check=True).stdout
        for flag in ("-res-usage", "--dump-sass")
    )

    def count(*instructions: str) -> int:
        return len(re.findall(rf"\b(?:{'|'.join(instructions)})\b", code))

    return MachineCode(
        registers=int(re.search(r"REG:(\d+)", usage).group(1)),
        spills=count("STL"),
        tensor_instructions=count("HGMMA", "HMMA"),
        shuffles=count("SHFL"),
        atomics=count("ATOM", "ATOMG", "ATOMS", "RED", "REDG"),
    )


@pytest.fixture(autouse=True)
def compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


def assert_clean(code: MachineCode, *, spills: int = 0) -> None:
    assert code.spills <= spills, code
    assert code.atomics == 0, code  # sums by atomics would change from run to run


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["attend_split", "differentiate_split"])
def test_attention_multiplies_on_tensor_cores_without_spills(
    name: str, causal: bool, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prob_sparse_triton, "_on_hopper", lambda _: capability >= 90)
    like = torch.empty(32, 8, 720, 64, dtype=torch.bfloat16, device="meta")
    plan = prob_sparse_triton.plan_for(like, like, 35, backward=name == "differentiate_split")
    code = compile_for(
        capability,
        getattr(prob_sparse_kernels, name),
        {
            "BD": plan.head_block,
            "BS": plan.selected_block,
            "BK": plan.block,
            "CAUSAL": causal,
            "PRECISION": plan.precision,
        },
        ATTENTION_TYPES,
        tmp_path,
        warps=plan.warps,
        stages=plan.stages,
    )
    # Before Hopper the operands of five products stand in registers: Triton 3.6 spills six words of the causal form.
    assert_clean(code, spills=6 if causal and capability < 90 else 0)
    assert code.tensor_instructions > 0


@pytest.mark.parametrize("capability", [80, 90])
def test_the_shared_measure_runs_on_tensor_cores(capability: int, tmp_path: Path) -> None:
    constants = {"BQ": 64, "BU": 64, "BD": 64, "PRECISION": "tf32"}
    code = compile_for(capability, prob_sparse_kernels.measure_shared, constants, ATTENTION_TYPES, tmp_path)
    assert_clean(code)
    assert code.tensor_instructions > 0


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("measure_independent", {"BQ": 64, "BD": 64}),
        ("select_largest", {"BL": 2048}),
        ("finish_forward", {"BD": 64, "BS": 64, "BK": 64, "CAUSAL": True}),
        ("sum_unselected", {"BD": 64, "BS": 64, "BK": 64, "CAUSAL": True}),
        ("finish_query_gradient", {"BD": 64, "BS": 64, "BK": 64}),
    ],
)
def test_the_other_attention_kernels_compile_without_spills(
    name: str, constants: dict[str, Any], capability: int, tmp_path: Path
) -> None:
    types = ATTENTION_TYPES | ({"DQ": "*bf16"} if name == "finish_query_gradient" else {})
    assert_clean(compile_for(capability, getattr(prob_sparse_kernels, name), constants, types, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("varies", [True, False])
def test_the_scan_keeps_its_state_in_registers_and_sums_over_it_without_shuffles(
    varies: bool, capability: int, tmp_path: Path
) -> None:
    constants = SCAN | {"BD": 32, "SAVE": True, "B_VARIES": varies, "C_VARIES": varies}
    code = compile_for(capability, selective_scan_kernels.scan_forward, constants, SCAN_TYPES, tmp_path, warps=1)
    assert_clean(code)
    assert code.shuffles == 0
    assert code.registers <= 224  # leaves room for two programs a scheduler


@pytest.mark.parametrize(
    ("states", "varies", "capability"),
    [(1, True, 80), (1, False, 90), (16, True, 90), (16, False, 80)],  # every two of them meet
)
def test_the_scan_of_16_steps_at_once_compiles_without_spills(
    states: int, varies: bool, capability: int, tmp_path: Path
) -> None:
    constants = SCAN | {"N": states, "BN": states, "T": 16, "SAVE": True, "B_VARIES": varies, "C_VARIES": varies}
    constants |= {"BD": selective_scan_triton.tile_channels(states)}
    del constants["KEPT"]
    kernel = selective_scan_kernels.scan_forward_tile
    warps = selective_scan_triton.TILE_WARPS
    assert_clean(compile_for(capability, kernel, constants, SCAN_TYPES, tmp_path, warps=warps))


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("varies", [True, False])
def test_the_scan_backward_compiles_without_spills(varies: bool, capability: int, tmp_path: Path) -> None:
    kernel = selective_scan_kernels.scan_backward
    constants = SCAN | {"BD": 16, "B_VARIES": varies, "C_VARIES": varies}
    assert_clean(compile_for(capability, kernel, constants, SCAN_TYPES, tmp_path, warps=1))
