from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kernels.triton_support import absence, interpreted


@pytest.fixture(autouse=True, scope="session")
def loops_over_scalars_in_the_interpreter() -> Iterator[None]:
    """Triton 3.6 reads a loop's bounds with int(array of one element), which NumPy refuses from 2.4 on."""
    if not interpreted() or absence() is not None:
        yield
        return
    from triton.runtime import interpreter

    original = interpreter._patch_lang_tensor

    def repaired(tensor: Any, scope: Any, *rest: Any) -> None:
        original(tensor, scope, *rest)
        scope.set_attr(tensor, "__index__", lambda self: int(np.squeeze(self.handle.data)))

    interpreter._patch_lang_tensor = repaired
    yield
    interpreter._patch_lang_tensor = original
