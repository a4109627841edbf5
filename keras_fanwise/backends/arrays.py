"""From NumPy to the backend: arrays, without a copy where that can be done."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np

from keras_fanwise.sampling.sampler import DTYPES, aligned_zeros

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


# The mean squares between which float32 lost none of them.
_SQUARES = (1e-30, 1e30)


class TensorMoments(NamedTuple):
    """Of one tensor: how many values, their mean and deviation, the share of dead units."""

    values: int
    mean: float
    std: float
    dead: float


def tensor_moments(tensor: Any, unit_axis: int | None = None) -> TensorMoments:
    """Of all values; with the share of dead units, if an axis is that of the units.

    Args:
        tensor: of a float type, and not empty.
        unit_axis: along which the units are; the tensor is one unit if it has no other.
    """
    if keras.backend.backend() == "jax":
        # Its own operations would be compiled, and kept, for every new shape. On a CPU
        # this is no copy.
        tensor = keras.ops.convert_to_numpy(tensor)
    columns = _columns(tensor, unit_axis)
    count_dead = unit_axis is not None
    mean, variance, *dead = _numbers(columns, count_dead)
    scale = 1.0
    if not _SQUARES[0] < variance < _SQUARES[1]:
        values = _floats(columns)
        largest = _largest(values)
        if 0 < largest < math.inf:
            scale = largest
            mean, variance = _numbers(values / scale, False)
    count, deviation = math.prod(tensor.shape), scale * math.sqrt(variance)
    share = dead[0] / columns.shape[-1] if count_dead else 0.0
    return TensorMoments(count, scale * mean, deviation, share)


def _columns(tensor: Any, unit_axis: int | None) -> Any:
    """The tensor with its units along the last of two axes."""
    arrays: Any = np if isinstance(tensor, np.ndarray) else keras.ops
    if unit_axis is None or len(tensor.shape) < 2:
        return arrays.reshape(tensor, (-1, 1))
    if unit_axis != -1:
        tensor = arrays.moveaxis(tensor, unit_axis, -1)
    return arrays.reshape(tensor, (-1, tensor.shape[-1]))


def _floats(columns: Any) -> Any:
    """As float32, or as float64 if they are of that type."""
    if isinstance(columns, np.ndarray):
        return columns.astype(np.result_type(columns.dtype, np.float32), copy=False)
    wide = dtype_name(columns) == "float64"
    return columns if wide else keras.ops.cast(columns, "float32")


def _largest(values: Any) -> float:
    if isinstance(values, np.ndarray):
        return float(np.abs(values).max())
    return float(keras.ops.max(keras.ops.abs(values)))


def _numbers(columns: Any, count_dead: bool) -> list[float]:
    """Mean and variance, and, if each column is a unit, the number of dead ones."""
    if isinstance(columns, np.ndarray):
        return _measured_on_host(columns, count_dead)
    measure = _measure(dtype_name(columns), count_dead)
    numbers = keras.ops.convert_to_numpy(measure(columns))
    return [float(number) for number in numbers]


@functools.cache
def _measure(dtype: str, count_dead: bool) -> Callable[[Any], Any]:
    """`_measured_on_device`, compiled where that saves more than it takes."""
    measure = functools.partial(_measured_on_device, count_dead=count_dead)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Traced once: TensorFlow warns of functions that are traced for many shapes.
        columns = tf.TensorSpec([None, None], dtype)
        compiled: Callable[[Any], Any] = tf.function(
            measure, input_signature=[columns], autograph=False
        )
        return compiled
    return measure


def _measured_on_device(columns: Any, count_dead: bool) -> Any:
    ops = keras.ops
    values = _floats(columns)
    numbers = [ops.mean(values), ops.var(values)]
    if count_dead:
        alive = ops.any(ops.not_equal(values, 0), axis=0)
        numbers.append(ops.sum(ops.cast(ops.logical_not(alive), values.dtype)))
    return ops.stack(numbers)


def _measured_on_host(columns: np.ndarray, count_dead: bool) -> list[float]:
    values = _floats(columns)
    with np.errstate(all="ignore"):  # what overflows is measured again, or reported
        numbers = [float(values.mean()), float(values.var())]
    if count_dead:
        numbers.append(float(np.count_nonzero(~values.any(axis=0))))
    return numbers


def dtype_name(tensor: Any) -> str:
    """Such as "float32", on every backend."""
    name: str = keras.backend.standardize_dtype(tensor.dtype)
    return name


def pooled(parts: Sequence[TensorMoments]) -> TensorMoments:
    """The moments of several tensors together."""
    count = sum(part.values for part in parts)
    mean = sum(part.values * part.mean for part in parts) / count
    squares = sum(part.values * (part.std**2 + (part.mean - mean) ** 2) for part in parts)
    dead = sum(part.values * part.dead for part in parts) / count
    return TensorMoments(count, mean, math.sqrt(squares / count), dead)
