"""The gain of an activation."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import fail, real
from keras_fanwise.initializers.activations import ELEMENTWISE, activation_function

# Gauss-Legendre panels over [-12, 12], outside of which a standard normal has a
# probability of 4e-33. Panels this narrow leave an activation with a kink, wherever
# it is, an error below 1e-6.
_PANELS = np.linspace(-12.0, 12.0, 24 * 256 + 1)
_POINTS_PER_PANEL = 4


def gain(activation: str | Callable[..., Any], **arguments: Any) -> float:
    """How much larger weights must be to make up for an activation.

    The gain is `1 / sqrt(E[f(z)**2])` for a standard normal z: what brings the
    second moment behind the activation back to 1. Its square is the `scale` of
    `FanwiseVarianceScaling` for the layer that reads the activation's output.

    It is exact for `"linear"` (1), `"relu"` (the square root of 2) and
    `"leaky_relu"` (`sqrt(2 / (1 + negative_slope**2))`), and by quadrature for all
    others, rounded to six digits, which hold unless the activation jumps or grows faster
    than exponentially.

    Args:
        activation: the name of a Keras activation, or a function that takes a tensor
            and maps each of its elements by itself.
        **arguments: passed on to the activation, such as `negative_slope=0.1`.

    Raises:
        TypeError: `activation` is neither a string nor callable.
        ValueError: the name is unknown, the function mixes elements (as softmax
            does), or what it returns is zero or not finite.

    Reference: He et al. 2015, <https://arxiv.org/abs/1502.01852>, equation 15, for
    the rectifiers.

    Example:

    >>> gain("relu") ** 2, round(gain("tanh"), 4), round(gain("gelu"), 4)
    (2.0000000000000004, 1.5925, 1.5335)
    """
    if activation == "linear" and not arguments:
        return 1.0
    if activation == "relu" and not arguments:
        return math.sqrt(2.0)
    if activation == "leaky_relu" and set(arguments) <= {"negative_slope"}:
        # 0.2 is the default of keras.activations.leaky_relu.
        slope = real("negative_slope", arguments.get("negative_slope", 0.2))
        return math.sqrt(2.0 / (1.0 + slope * slope))
    function = activation_function(activation)
    z, weights = _standard_normal_nodes()
    values = _evaluate(function, z, arguments)
    some = slice(0, None, 7)
    if values.shape != z.shape or not np.allclose(
        values[some], _evaluate(function, z[some], arguments), rtol=1e-4, atol=1e-6
    ):
        raise fail(ValueError, "activation", ELEMENTWISE, activation)
    # Where the weight underflows the value, however large, does not count.
    moment = float(np.sum(values[weights > 0] ** 2 * weights[weights > 0]))
    if not (math.isfinite(moment) and moment > 0):
        allowed = f"a function with 0 < E[f(z)**2] < infinity, here {moment}"
        raise fail(ValueError, "activation", allowed, activation)
    # JAX computes in float32: the digits that it shares with the other backends, so that
    # a scale made of the gain draws the same bits on all of them.
    return float(f"{1.0 / math.sqrt(moment):.6g}")


def _evaluate(
    function: Callable[..., Any], z: np.ndarray, arguments: dict[str, Any]
) -> np.ndarray:
    tensor = keras.ops.convert_to_tensor(z)
    return np.asarray(keras.ops.convert_to_numpy(function(tensor, **arguments)), np.float64)


def _standard_normal_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Nodes z and weights w such that E[g(z)] is the sum of w * g(z)."""
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS_PER_PANEL)
    half = np.diff(_PANELS)[:, None] / 2.0
    z = ((_PANELS[:-1] + _PANELS[1:])[:, None] / 2.0 + half * nodes).ravel()
    density = np.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    return z, (half * weights).ravel() * density
