"""Activations, as functions of numbers."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.arguments import fail, nearest, positive, real
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


Function = Callable[[np.ndarray], np.ndarray]

_CONTINUOUS = "continuous: where it jumps, the gradients of a network have no variance"
# Panels over [-12, 12], outside of which a standard normal has a probability of 4e-33. But
# for 0, no edge of theirs or of their halves is a number where an activation may jump.
_EDGES = 12.0 * (np.arange(25) / 24) ** 1.1
_EDGES = np.concatenate([-_EDGES[:0:-1], _EDGES])
_POINTS = 12
# Panels are halved until their two halves give the same to so much of the whole.
_TOLERANCE = 1e-15
# So often: a kink ends in a panel whose share of the integral is below 1e-12.
_HALVINGS = 40
# So many at most that are still to be halved.
_MOMENT_PANELS = 2000
# Rounding of values in their derivative, in parts of the values: `_POINTS` squared of them.
_LOST = 5e-14


def second_moment(function: Function, q: float) -> float:
    """E[φ(√q z)²]: that of what an activation makes of a signal of variance q.

    Args:
        function: as `float64_function` gives it.
        q: the variance of the signal.
    """
    return float(expectations(function, function, math.sqrt(q))[0])


def expectations(activation: Any, function: Function, scale: float) -> np.ndarray:
    """E[φ²], E[φ'²] and E[z φ φ'] / √q, by Lobatto's rule over panels, halved at kinks."""
    _check_jump_at_0(activation, function)
    low, high = _EDGES[:-1], _EDGES[1:]
    total = np.zeros(3)
    whole, _ = _panels(activation, function, scale, low, high)
    size = np.abs(whole).sum(0)
    if (np.abs(whole[[0, -1]]) > 1e-12 * size).any():
        allowed = f"one whose slopes have a finite variance at q={scale**2:.3g}"
        raise fail(ValueError, "activation", allowed, activation)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        left, left_noise = _panels(activation, function, scale, low, middle)
        right, right_noise = _panels(activation, function, scale, middle, high)
        error = np.abs(left + right - whole)
        open_ = (error > _TOLERANCE * size + left_noise + right_noise).any(1)
        total += (left + right)[~open_].sum(0)
        if not open_.any():
            return total
        if open_.sum() > _MOMENT_PANELS:
            allowed = "smooth but for a few kinks, and computed in float64"
            raise fail(ValueError, "activation", allowed, activation)
        low = np.concatenate([low[open_], middle[open_]])
        high = np.concatenate([middle[open_], high[open_]])
        whole = np.concatenate([left[open_], right[open_]])
        size = np.maximum(size, np.abs(total))
    # Of a kink nothing is left; where the function jumps, more and more.
    if (np.abs(whole).sum(0) > 1e-6 * size).any():
        raise fail(ValueError, "activation", _CONTINUOUS, activation)
    return total


def _check_jump_at_0(activation: Any, function: Function) -> None:
    below, above = function(np.array([-1e-12, 1e-12]))
    if abs(above - below) > 1e-6:
        raise fail(ValueError, "activation", _CONTINUOUS, activation)


def _lobatto() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [-1, 1]; the ends are nodes, and no kink hides beyond them."""
    last = np.polynomial.Legendre.basis(_POINTS - 1)
    nodes = np.concatenate([[-1.0], last.deriv().roots().real, [1.0]])
    return nodes, 2.0 / (_POINTS * (_POINTS - 1) * last(nodes) ** 2)


_NODES, _WEIGHTS = _lobatto()


def _differentiation(nodes: np.ndarray) -> np.ndarray:
    """The matrix from the values of a polynomial at nodes to those of its derivative."""
    difference = nodes[:, None] - nodes
    np.fill_diagonal(difference, 1.0)
    product = difference.prod(1)
    matrix: np.ndarray = product[:, None] / (product * difference)
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, -matrix.sum(1))
    return matrix


_DERIVATIVE = _differentiation(_NODES)


def _panels(
    activation: Any, function: Function, scale: float, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What each panel has of the three expectations, and how much of it is rounding."""
    half = (high - low)[:, None] / 2
    z = (high + low)[:, None] / 2 + half * _NODES
    values = function(scale * z)
    # Less the value at one of the nodes, so that constants have no derivative at all.
    slopes = (values - values[:, :1]) @ _DERIVATIVE.T / (half * scale)
    weights = half * _WEIGHTS * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    result: np.ndarray = np.stack(
        [
            (weights * values**2).sum(1),
            (weights * slopes**2).sum(1),
            (weights * z * values * slopes).sum(1) / scale,
        ],
        axis=1,
    )
    if not np.isfinite(result).all():
        allowed = "a function whose values and slopes have a finite variance"
        raise fail(ValueError, "activation", allowed, activation)
    # The narrower a panel, the more of its digits a derivative loses.
    lost = _LOST * np.abs(values).max(1, keepdims=True) / (half * scale)
    noise = np.stack(
        [
            1e-14 * result[:, 0],
            (weights * (2 * np.abs(slopes) + lost) * lost).sum(1),
            (weights * np.abs(z * values) * lost).sum(1) / scale,
        ],
        axis=1,
    )
    return result, noise


# Gauss-Legendre panels over [-12, 12], outside of which a standard normal has a
# probability of 4e-33. Panels this narrow leave an activation with a kink, wherever
# it is, an error below 1e-6.
_GAIN_PANELS = np.linspace(-12.0, 12.0, 24 * 256 + 1)
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
    half = np.diff(_GAIN_PANELS)[:, None] / 2.0
    z = ((_GAIN_PANELS[:-1] + _GAIN_PANELS[1:])[:, None] / 2.0 + half * nodes).ravel()
    density = np.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    return z, (half * weights).ravel() * density


# Where fixed points are looked for: variances of the signal.
_VARIANCES = np.geomspace(1e-6, 1e4, 41)
# What rounding leaves of a difference of equal numbers, in parts of them.
_ROUNDING = 1e-9


class Criticality(NamedTuple):
    """With which weights and biases a deep network keeps signals and gradients.

    Attributes:
        weight_variance: times 1/fan_in the variance of the weights; the `scale` of
            `FanwiseVarianceScaling`, and the square of the `gain` of
            `FanwiseOrthogonal` and `FanwiseDeltaOrthogonal`.
        bias_variance: of the biases.
        q: the variance of the signal before the activation.
    """

    weight_variance: float
    bias_variance: float
    q: float


def criticality(
    activation: Any, *, q: float | None = None, bias_variance: float | None = None
) -> Criticality:
    """With which weights and biases a deep network of an activation is critical.

    With `weight_variance` σ_w² and `bias_variance` σ_b² the variance q of the signal before
    the activation φ is the same in every layer of a wide network, and so is that of the
    gradient: for a standard normal z,

        σ_w² = 1 / E[φ'(√q z)²],    σ_b² = q − σ_w² E[φ(√q z)²].

    - Activations with `φ(c x) = c φ(x)` for all c > 0, such as ReLU, are critical at
      `(2 / (1 + a²), 0)` with every q, where 1 and a are the slopes; 1 is the default of q.
    - tanh and its like are critical along a line: give q, or the variance of the biases.
      The smaller q is, the deeper the networks that are trainable; 1/depth is
      a good choice, and an activation without curvature at 0 is then nearly linear.
    - GELU, SiLU and their like have one point that is at least half-stable, where a
      q that is off on one side returns to it: it is the default.
    - Others, such as softplus, have no critical point, which is an error; sigmoid has
      some, which must be asked for, with a q beyond 50.

    The integrals are computed in float64, to about 1e-12: σ_b² is a difference of nearly
    equal numbers.

    Args:
        activation: the name of a Keras activation, a layer, or a function that takes a
            float64 tensor and maps each of its elements by itself, in float64. (On JAX
            `keras.ops.tanh` inside a function computes in float32, `jax.numpy.tanh` does
            not.)
        q: a number above 0, the variance of the signal before the activation.
        bias_variance: in place of q, a number from 0, the variance of the biases; of
            several q with this one, the smallest between 1e-6 and 1e4 is taken.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the activation is unknown, mixes elements as softmax does, or jumps; it
            has no critical point, or none with what is asked for; `q` and
            `bias_variance` are both given, or neither is where one must be.

    References: Poole et al. 2016, <https://arxiv.org/abs/1606.05340>; Schoenholz et al.
    2017, <https://arxiv.org/abs/1611.01232>, equations 3 and 5; for half-stable points
    Roberts, Yaida and Hanin 2022, <https://arxiv.org/abs/2106.10165>, section 5.3.

    Example:

    >>> criticality("relu")
    Criticality(weight_variance=2.0, bias_variance=0.0, q=1.0)
    >>> point = criticality("tanh", bias_variance=0.05)
    >>> round(point.weight_variance, 5), round(point.q, 4)
    (1.76095, 0.57)
    """
    if q is not None and bias_variance is not None:
        allowed = "None where `bias_variance` is given"
        raise fail(ValueError, "q", allowed, q)
    q = None if q is None else positive("q", q)
    if bias_variance is not None:
        bias_variance = real("bias_variance", bias_variance)
        if bias_variance < 0:
            raise fail(ValueError, "bias_variance", "0 or above", bias_variance)
    function = float64_function(activation)
    slopes = _slopes(function)
    if slopes is not None:
        return _scale_invariant(activation, slopes, q, bias_variance)
    if q is not None:
        return _at(activation, function, q)
    if bias_variance is not None:
        return _with_biases(activation, function, bias_variance)
    return _half_stable(activation, function)


def _slopes(function: Function) -> tuple[float, float] | None:
    """Those on both sides of 0, if the function is a straight line on either side."""
    x = np.array([-7.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 7.0, 1e3, -1e3])
    values = function(x)
    right, left = float(values[5]), -float(values[1])
    line = np.where(x > 0, right, left) * x
    return (left, right) if np.allclose(values, line, rtol=1e-6, atol=0) else None


def _scale_invariant(
    activation: Any,
    slopes: tuple[float, float],
    q: float | None,
    bias_variance: float | None,
) -> Criticality:
    # Of a slope such as float32's 0.2 more digits than were meant.
    squares = sum(float(f"{slope:.7g}") ** 2 for slope in slopes)
    if squares == 0:
        raise fail(ValueError, "activation", "one with a critical point", activation)
    if bias_variance:
        allowed = "0 where φ(c x) = c φ(x): such an activation is critical without biases"
        raise fail(ValueError, "bias_variance", allowed, bias_variance)
    return Criticality(2.0 / squares, 0.0, 1.0 if q is None else q)


def _at(activation: Any, function: Function, q: float) -> Criticality:
    moments = _moments(activation, function, q)
    if moments.bias_variance < -_ROUNDING * q:
        allowed = (
            "one for which the activation has a critical point: the variance of the biases "
            f"would be {moments.bias_variance:.3g}"
        )
        raise fail(ValueError, "q", allowed, q)
    return Criticality(moments.weight_variance, max(0.0, moments.bias_variance), q)


def _with_biases(activation: Any, function: Function, bias_variance: float) -> Criticality:
    def excess(q: float) -> float:
        return _moments(activation, function, q).bias_variance - bias_variance

    q = _root(excess)
    if q is None:
        allowed = "one for which the activation has a critical point with q in [1e-6, 1e4]"
        raise fail(ValueError, "bias_variance", allowed, bias_variance)
    found = _moments(activation, function, q)
    return Criticality(found.weight_variance, bias_variance, q)


def _half_stable(activation: Any, function: Function) -> Criticality:
    """Where a q that is a little off, and gradients, both neither grow nor shrink."""

    def excess(q: float) -> float:
        value = _moments(activation, function, q).excess
        return value if abs(value) > 1e-12 else 0.0  # of a straight line rounding alone

    q = _root(excess)
    if q is not None:
        found = _moments(activation, function, q)
        if found.bias_variance >= 0:
            return Criticality(found.weight_variance, found.bias_variance, q)
    small = float(_VARIANCES[0])
    if _moments(activation, function, small).bias_variance >= -_ROUNDING * small:
        allowed = (
            "given, or `bias_variance`, for an activation that is critical along a line; "
            "1/depth keeps the signal of a deep network"
        )
        raise fail(ValueError, "q", allowed, None)
    raise fail(ValueError, "activation", "one with a critical point", activation)


def _root(function: Callable[[float], float]) -> float | None:
    """The smallest root among the variances, to all digits."""
    low, below = float(_VARIANCES[0]), function(float(_VARIANCES[0]))
    for high in map(float, _VARIANCES[1:]):
        above = function(high)
        if below < 0 <= above or above < 0 <= below:
            break
        low, below = high, above
    else:
        return None
    return _bisected(function, low, high, below)


def _bisected(
    function: Callable[[float], float], low: float, high: float, below: float
) -> float:
    for _ in range(60):
        middle = math.sqrt(low * high)
        if not low < middle < high:
            break
        value = function(middle)
        if (value < 0) == (below < 0):
            low = middle
        else:
            high = middle
    return high


class _Moments(NamedTuple):
    weight_variance: float
    bias_variance: float
    # Of d E[φ²] / dq = E[z φ φ'] / √q over E[φ'²]: how a change of q grows by a layer,
    # beyond how a gradient does.
    excess: float


def _moments(activation: Any, function: Function, q: float) -> _Moments:
    squares, slopes, growth = map(float, expectations(activation, function, math.sqrt(q)))
    if not slopes > 0:
        raise fail(ValueError, "activation", "one with a critical point", activation)
    return _Moments(1.0 / slopes, q - squares / slopes, growth / slopes - 1.0)
