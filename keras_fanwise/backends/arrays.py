"""From NumPy to the backend: arrays, without a copy where that can be done."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras
import numpy as np

from keras_fanwise.sampling.memory import DTYPES, aligned_zeros

_Function = TypeVar("_Function", bound=Callable[..., Any])


def on_host(function: _Function) -> _Function:
    """The function, which `torch.compile` leaves to Python wherever it is called.

    It would replace NumPy by operations of PyTorch, which lack some of NumPy's, and whose
    last bits may be others. TensorFlow and JAX let NumPy compute while they trace.
    """
    if keras.backend.backend() != "torch":
        return function
    import torch

    disabled: _Function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return disabled


def to_tensor(values: np.ndarray) -> Any:
    """A backend tensor of the same values, which takes over the memory of `values`.

    TensorFlow and JAX would copy: `keras.ops.convert_to_tensor` does so on every
    backend. On an accelerator the values are copied to it, as they must be.

    Args:
        values: an array in row-major order whose memory begins at a multiple of 64
            bytes and which nobody else writes to.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return keras.ops.convert_to_tensor(_torch(values))
    if backend == "jax":
        import jax

        # `jax.numpy.asarray` would compile a copy for every new shape, in milliseconds.
        return jax.device_put(values)
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.executing_eagerly():
            return _tensorflow(values)
    return keras.ops.convert_to_tensor(values)


def unfilled(shape: Sequence[int], dtype: str) -> Any:
    """A backend tensor of zeros; on a CPU they take no memory before they are written.

    Args:
        shape: of the tensor.
        dtype: one of the four float types.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.executing_eagerly():
            return keras.ops.zeros(shape, dtype=dtype)  # which a graph does not hold
    return to_tensor(unfilled_array(shape, dtype))


def unfilled_array(shape: Sequence[int], dtype: str) -> np.ndarray:
    """Zeros that a backend can take over, in memory that nobody has touched."""
    # The system maps zeros when they are first read or written.
    return aligned_zeros(math.prod(shape), DTYPES[dtype]).reshape(tuple(shape))


def dtype_of_tensor(dtype: str) -> str:
    """The type that a tensor of `dtype` has: in JAX, float64 is float32 by default."""
    if keras.backend.backend() == "jax" and dtype == "float64":
        import jax

        wide: bool = jax.config.read("jax_enable_x64")  # type: ignore[no-untyped-call]
        return "float64" if wide else "float32"
    return dtype


def snapshot(variable: keras.Variable) -> Any:
    """The values of a variable as they are now, whatever is assigned to it later."""
    if keras.backend.backend() == "jax":
        return variable.value  # which nothing changes
    return np.array(keras.ops.convert_to_numpy(variable.value))


def in_float64(function: Callable[..., Any], values: np.ndarray) -> np.ndarray:
    """What a function of a backend tensor gives for float64 values, on the host."""

    def result() -> np.ndarray:
        tensor = keras.ops.convert_to_tensor(values)
        return np.asarray(keras.ops.convert_to_numpy(function(tensor)), np.float64)

    if keras.backend.backend() != "jax":
        return result()
    import jax

    if hasattr(jax, "enable_x64"):
        wide = jax.enable_x64(True)
    else:
        from jax.experimental import enable_x64  # type: ignore[attr-defined]

        wide = enable_x64()
    with wide:
        return result()


def _torch(values: np.ndarray) -> Any:
    import torch

    if values.dtype.name == "bfloat16":  # a type that torch does not take from NumPy
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def _tensorflow(values: np.ndarray) -> Any:
    import tensorflow as tf

    if values.dtype.name == "bfloat16":  # a type that NumPy does not export
        return tf.bitcast(_tensorflow(values.view(np.uint16)), tf.bfloat16)
    # The identity is free on a CPU; elsewhere it moves the tensor to the device.
    return tf.identity(tf.experimental.dlpack.from_dlpack(values.__dlpack__()))
