from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.agreement import compare, relative_error
from kernels.errors import KernelError, KernelErrorCode


def square(x: Tensor) -> Tensor:
    return x * x


def test_an_op_agrees_with_itself_in_float64() -> None:
    compared = compare(square, square, {"x": torch.randn(5, 7)})
    assert compared.agrees
    assert {d.name for d in compared.differences} == {"output 0", "gradient of x"}
    compared.require()


class RightOutputWrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 1.01 * grad * 2 * ctx.saved_tensors[0]


def test_a_gradient_off_by_one_percent_is_found_and_named() -> None:
    compared = compare(RightOutputWrongGradient.apply, square, {"x": torch.randn(5, 7)})
    assert compared.worst.name == "gradient of x"
    with pytest.raises(KernelError, match="gradient of x") as refused:
        compared.require()
    assert refused.value.code is KernelErrorCode.DISAGREES


def test_nan_never_agrees_unless_it_is_expected_there() -> None:
    nan = torch.tensor([1.0, float("nan")])
    assert relative_error(nan, torch.tensor([1.0, 2.0])) != 0
    assert not compare(lambda x: x * float("nan"), square, {"x": torch.ones(3)}, gradients=False).agrees
    assert relative_error(nan, nan) == 0
    assert not relative_error(torch.tensor([float("inf")]), torch.tensor([-float("inf")])) <= 1


def test_a_wrong_shape_never_agrees() -> None:
    assert not relative_error(torch.ones(1, 3), torch.ones(3)) <= 1


def test_the_tolerance_is_twice_the_error_of_plain_torch_in_the_same_precision() -> None:
    x = {"x": torch.rand(100, dtype=torch.bfloat16) + 1}
    rough = compare(square, square, x, baseline=square, tolerance=1e-9)
    assert rough.agrees
    assert not compare(square, square, x, tolerance=1e-9).agrees
