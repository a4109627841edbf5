"""What is measured of a tensor where it is, on the device."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

# The mean squares between which float32 lost none of them.
_SQUARES = (1e-30, 1e30)


class TensorMoments(NamedTuple):
    """Of one tensor: how many values, their mean and deviation, the share of dead units."""

    values: int
    mean: float
    std: float
    dead: float


def tensor_moments(tensor: Any, by_units: bool = False) -> TensorMoments:
    """Of all values; with the share of dead units, if the last of two axes is the units."""
    mean, variance, *dead = _numbers(tensor, by_units)
    scale = 1.0
    if not _SQUARES[0] < variance < _SQUARES[1]:
        values = keras.ops.cast(tensor, "float32")
        largest = float(keras.ops.max(keras.ops.abs(values)))
        if 0 < largest < math.inf:
            scale = largest
            mean, variance = _numbers(values / scale, False)
    count, deviation = math.prod(tensor.shape), scale * math.sqrt(variance)
    share = dead[0] / tensor.shape[-1] if by_units else 0.0
    return TensorMoments(count, scale * mean, deviation, share)


def _numbers(tensor: Any, by_units: bool) -> list[float]:
    flat = tensor if by_units else keras.ops.reshape(tensor, (-1, 1))
    numbers: list[float] = keras.ops.convert_to_numpy(_measure()(flat, by_units)).tolist()
    return numbers


@functools.cache
def _measure() -> Callable[[Any, bool], Any]:
    """`_measured_on_device`, compiled where that saves more than it takes."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(_measured_on_device, static_argnums=1)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled: Callable[[Any, bool], Any] = tf.function(
            _measured_on_device, reduce_retracing=True, autograph=False
        )
        return compiled
    return _measured_on_device


def _measured_on_device(tensor: Any, by_units: bool) -> Any:
    """Mean and variance, and, where each column is a unit, the number of dead ones."""
    ops = keras.ops
    values = tensor if dtype_name(tensor) == "float64" else ops.cast(tensor, "float32")
    numbers = [ops.mean(values), ops.var(values)]
    if by_units:
        alive = ops.any(ops.not_equal(values, 0), axis=0)
        numbers.append(ops.sum(ops.cast(ops.logical_not(alive), values.dtype)))
    return ops.stack(numbers)


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
