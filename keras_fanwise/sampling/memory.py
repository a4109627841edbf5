"""The float types, and memory that backends take over without a copy."""

import ml_dtypes
import numpy as np

# Where a tensor's memory begins, in bytes: what lets TensorFlow and JAX take it
# as it is, without a copy.
ALIGNMENT = 64

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


def aligned_empty(size: int, dtype: np.dtype, alignment: int = ALIGNMENT) -> np.ndarray:
    """An array of one axis whose memory begins at a multiple of `alignment` bytes."""
    return _aligned(np.empty(size * dtype.itemsize + alignment, np.uint8), dtype, alignment)


def aligned_zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Likewise, of zeros; if it is large, the system provides them page by page, later."""
    return _aligned(np.zeros(size * dtype.itemsize + ALIGNMENT, np.uint8), dtype, ALIGNMENT)


def _aligned(memory: np.ndarray, dtype: np.dtype, alignment: int) -> np.ndarray:
    """The memory but for `alignment` bytes, from the first multiple of that on."""
    offset = -memory.ctypes.data % alignment
    return memory[offset : offset + memory.size - alignment].view(dtype)


def owned(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values in memory that a backend can take over, copied if they are not yet."""
    result = DTYPES[dtype]
    if (
        values.dtype == result
        and values.flags.c_contiguous
        and values.flags.writeable
        and values.ctypes.data % ALIGNMENT == 0
    ):
        return values
    copy = aligned_empty(values.size, result).reshape(values.shape)
    twice_rounded = values.dtype == np.float64 and dtype == "bfloat16"
    copy[...] = _for_one_more_rounding(values) if twice_rounded else values
    return copy


def _for_one_more_rounding(values: np.ndarray) -> np.ndarray:
    """In float32, rounded to odd: rounding them again is as if it were the only time.

    NumPy's way from float64 to bfloat16 is through float32, and what that rounds to a tie
    would be rounded a second time. Two more bits than the last type has are enough: Boldo
    and Melquiond 2008, "Emulation of a FMA and Correctly Rounded Sums: Proved Algorithms
    Using Rounding to Odd".
    """
    nearest = values.astype(np.float32)
    bits = nearest.view(np.uint32)
    bits -= np.abs(nearest) > np.abs(values)  # towards 0
    bits |= nearest.astype(np.float64) != values
    return nearest
