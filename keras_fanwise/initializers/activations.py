"""Activations, as functions of numbers."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import fail, nearest
from keras_fanwise.backends.arrays import in_float64

ELEMENTWISE = "a function that maps each element by itself"
# Evaluations are of a multiple of so many numbers: JAX compiles for every shape.
_BLOCK = 4096


def _gelu(x: np.ndarray) -> np.ndarray:
    distribution = [0.5 * math.erfc(-value / math.sqrt(2)) for value in x.ravel().tolist()]
    result: np.ndarray = x * np.reshape(distribution, x.shape)
    return result


# On JAX Keras computes tanh in float32, whatever it is given; TensorFlow gives GELU to
# eight digits.
_IN_NUMPY: list[tuple[Any, Callable[[np.ndarray], np.ndarray]]] = [
    (keras.activations.tanh, np.tanh),
    (keras.ops.tanh, np.tanh),
    (keras.activations.gelu, _gelu),
]


def activation_function(activation: Any) -> Callable[..., Any]:
    """The function that an activation is.

    Raises:
        TypeError: `activation` is neither a string nor callable.
        ValueError: the name is unknown; the nearest one is in the message.
    """
    if not isinstance(activation, str) and not callable(activation):
        allowed = "the name of a Keras activation or a function"
        raise fail(TypeError, "activation", allowed, activation)
    try:
        function: Callable[..., Any] = keras.activations.get(activation)
        return function
    except ValueError as error:
        names = [name for name in dir(keras.activations) if name.islower()]
        allowed = f"the name of a Keras activation{nearest(str(activation), names)}"
        raise fail(ValueError, "activation", allowed, activation) from error


def float64_function(activation: Any) -> Callable[[np.ndarray], np.ndarray]:
    """An activation from float64 arrays to float64 arrays, on JAX too.

    Raises:
        TypeError: `activation` is neither a string nor callable.
        ValueError: the name is unknown, or the function mixes elements.
    """
    function = activation_function(activation)
    if isinstance(function, keras.layers.Activation):
        function = function.activation
    elif isinstance(function, keras.Layer):
        function = function.call  # a layer's `__call__` casts to its own type

    for known, in_numpy in _IN_NUMPY:
        if function is known:
            return in_numpy

    def values(x: np.ndarray) -> np.ndarray:
        padded = np.zeros(-(-x.size // _BLOCK) * _BLOCK)
        padded[: x.size] = x.ravel()
        result = in_float64(function, padded)
        if result.shape != padded.shape:
            raise fail(ValueError, "activation", ELEMENTWISE, activation)
        return result[: x.size].reshape(x.shape)

    x = np.linspace(-4, 4, 801)
    alone, among = values(x[::7]), values(x)[::7]
    if not np.allclose(alone, among, rtol=1e-6, atol=1e-9, equal_nan=True):
        raise fail(ValueError, "activation", ELEMENTWISE, activation)
    return values
