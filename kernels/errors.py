"""The error of every refused kernel call: a stable code, the fact and the remedy."""

from enum import StrEnum, unique


@unique
class KernelErrorCode(StrEnum):
    """Codes that callers may branch on; the meaning of a code never changes."""

    SHAPE_MISMATCH = "kernel_shape_mismatch"
    EMPTY_DIMENSION = "kernel_empty_dimension"
    MIXED_DTYPES = "kernel_mixed_dtypes"
    MIXED_DEVICES = "kernel_mixed_devices"
    UNSUPPORTED_DTYPE = "kernel_unsupported_dtype"
    BAD_FACTOR = "kernel_bad_factor"
    BAD_OPTION = "kernel_bad_option"
    BAD_KEYS = "kernel_bad_keys"
    BAD_SEED = "kernel_bad_seed"
    NOT_FINITE = "kernel_not_finite"
    TRITON_UNAVAILABLE = "kernel_triton_unavailable"
    DISAGREES = "kernel_disagrees_with_reference"


class KernelError(Exception):
    """A refused call: `fact` says why, `remedy` says what to do."""

    def __init__(self, code: KernelErrorCode, fact: str, remedy: str) -> None:
        super().__init__(f"{fact}; {remedy}")
        self.code = code
        self.fact = fact
        self.remedy = remedy
