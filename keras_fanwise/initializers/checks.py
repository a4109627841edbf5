"""Whether a shape and a type can be drawn."""

from typing import Any

import keras
import ml_dtypes

from keras_fanwise.arguments import dimensions, fail
from keras_fanwise.backends.arrays import dtype_of_tensor
from keras_fanwise.initializers.scaling import Distribution
from keras_fanwise.sampling.memory import DTYPES

# The largest number of each type; asked at every draw.
_LIMITS = {
    name: float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    for name, dtype in DTYPES.items()
}


def checked_shape_and_dtype(shape: Any, dtype: Any) -> tuple[tuple[int, ...], str]:
    """The arguments of a call, as a tuple of ints and the name of a float type.

    Raises:
        TypeError: `shape` is not a list or tuple of integers.
        ValueError: a dimension is negative, or `dtype` is not one of float16,
            bfloat16, float32 and float64.
    """
    try:
        name = keras.backend.standardize_dtype(dtype)
    except (TypeError, ValueError):
        name = None
    if name not in DTYPES:
        raise fail(ValueError, "dtype", "one of " + ", ".join(DTYPES), dtype)
    return dimensions(shape), name


def check_reach(distribution: Distribution, dtype: str) -> None:
    """A draw beyond the largest number of the type would be infinite.

    Raises:
        ValueError: the type ends before the distribution does.
    """
    real = dtype_of_tensor(dtype)
    limit = _LIMITS[real]
    if distribution.reach(dtype) > limit:
        mean = f"mean {distribution.mean:.3g} and " if distribution.mean else ""
        allowed = (
            f"a type that holds values of {mean}standard deviation {distribution.std:.3g}; "
            f"{real} ends at {limit:.3g}"
        )
        raise fail(ValueError, "dtype", allowed, dtype)
