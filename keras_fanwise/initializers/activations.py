"""Activations as functions of numbers: their gain, where they are critical, what fits."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.arguments import fail, nearest, positive, real
from keras_fanwise.backends.arrays import in_float64
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling

_ELEMENTWISE = "a function, or an activation layer, that maps each element by itself"
# Evaluations are of a multiple of so many numbers: JAX compiles for every shape.
_BLOCK = 4096


def _gelu(x: np.ndarray) -> np.ndarray:
    distribution = [0.5 * math.erfc(-value / math.sqrt(2)) for value in x.ravel().tolist()]
    result: np.ndarray = x * np.reshape(distribution, x.shape)
    return result


# On JAX Keras computes tanh in float32, whatever it is given; TensorFlow gives GELU to
# eight digits.
_IN_NUMPY: dict[Any, Callable[[np.ndarray], np.ndarray]] = {
    keras.activations.tanh: np.tanh,
    keras.ops.tanh: np.tanh,
    keras.activations.gelu: _gelu,
}


class _Activation:
    """An activation φ from float64 arrays to float64 arrays, on JAX too."""

    def __init__(self, activation: Any, arguments: dict[str, Any] | None = None) -> None:
        self._given = activation
        if not isinstance(activation, str) and not callable(activation):
            allowed = "the name of a Keras activation or a function"
            raise fail(TypeError, "activation", allowed, activation)
        try:
            function = keras.activations.get(activation)
        except ValueError as error:
            names = [name for name in dir(keras.activations) if name.islower()]
            near = nearest(str(activation), names)
            raise self.error(f"the name of a Keras activation{near}") from error
        if isinstance(function, keras.layers.Activation):
            function = function.activation
        elif isinstance(function, keras.Layer):
            function = function.call  # a layer's `__call__` casts to its own type
        self._function = functools.partial(function, **arguments) if arguments else function
        known = (own for other, own in _IN_NUMPY.items() if self._function is other)
        self._in_numpy = next(known, None)
        x = np.linspace(-4, 4, 801)
        try:
            few, many = self(x[::7]), self(x)
        except Exception as error:
            if isinstance(activation, (keras.Layer, type)):  # a layer of another kind
                raise self.error(_ELEMENTWISE) from error
            raise
        if not np.allclose(few, many[::7], 1e-5, 1e-7, equal_nan=True):
            raise self.error(_ELEMENTWISE)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self._in_numpy is not None:
            return self._in_numpy(x)
        padded = np.zeros(-(-x.size // _BLOCK) * _BLOCK)
        padded[: x.size] = x.ravel()
        values = in_float64(self._function, padded)
        if values.shape != padded.shape:
            raise self.error(_ELEMENTWISE)
        return values[: x.size].reshape(x.shape)

    def error(self, allowed: str) -> Exception:
        return fail(ValueError, "activation", allowed, self._given)


# Panels over [-12, 12], outside of which a standard normal has a probability of 4e-33. But
# for 0, no edge of theirs or of their halves is a number where an activation may jump.
_EDGES = 12.0 * (np.arange(25) / 24) ** 1.1
_EDGES = np.concatenate([-_EDGES[:0:-1], _EDGES])
_POINTS = 12
# Panels are halved until their two halves give the same to so much of the whole.
_TOLERANCE = 1e-15
# So often: a kink, or a jump of the values, is left in a panel with 1e-12 of the whole.
_HALVINGS = 40
# So many at most that are still to be halved.
_MOST_PANELS = 2000
# Rounding of values in their derivative, in parts of the values: `_POINTS` squared of them.
_LOST = 5e-14


def _lobatto() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and weights on [-1, 1], and the matrix from values at the nodes to slopes.

    The ends are nodes: no kink hides beyond them.
    """
    last = np.polynomial.Legendre.basis(_POINTS - 1)
    nodes = np.concatenate([[-1.0], last.deriv().roots().real, [1.0]])
    weights = 2.0 / (_POINTS * (_POINTS - 1) * last(nodes) ** 2)
    difference = nodes[:, None] - nodes
    np.fill_diagonal(difference, 1.0)
    product = difference.prod(1)
    matrix = product[:, None] / (product * difference)
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, -matrix.sum(1))
    return nodes, weights, matrix


_NODES, _WEIGHTS, _DERIVATIVE = _lobatto()
# From the ends of panels to the expectations over each, and what of them is rounding.
_Panels = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _expectations(activation: _Activation, panels: _Panels) -> np.ndarray:
    """Of functions of a standard normal, by Lobatto's rule over panels, halved at kinks."""
    low, high = _EDGES[:-1], _EDGES[1:]
    whole, _ = panels(low, high)
    total, size = np.zeros(whole.shape[1]), np.abs(whole).sum(0)
    if not np.isfinite(size).all() or (np.abs(whole[[0, -1]]) > 1e-12 * size).any():
        raise activation.error("a function whose values and slopes have a finite variance")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        left, left_noise = panels(low, middle)
        right, right_noise = panels(middle, high)
        error = np.abs(left + right - whole)
        open_ = ~(error <= _TOLERANCE * size + left_noise + right_noise).all(1)
        total += (left + right)[~open_].sum(0)
        if not open_.any():
            return total
        if open_.sum() > _MOST_PANELS:
            raise activation.error("smooth but for a few kinks, and computed in float64")
        low = np.concatenate([low[open_], middle[open_]])
        high = np.concatenate([middle[open_], high[open_]])
        whole = np.concatenate([left[open_], right[open_]])
        size = np.maximum(size, np.abs(total))
    # Of a kink nothing is left; of slopes where the function jumps, more and more.
    if not (np.abs(whole).sum(0) <= 1e-6 * size).all():
        raise activation.error(_CONTINUOUS)
    return total


def _nodes(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half the widths of panels, their nodes, and the weights of these."""
    half = (high - low)[:, None] / 2
    z = (high + low)[:, None] / 2 + half * _NODES
    return half, z, half * _WEIGHTS * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


# The slopes of Keras's rectifiers left of 0.
_RECTIFIERS: dict[Any, float] = {"relu": 0.0, "leaky_relu": 0.2}


def gain(activation: str | Callable[..., Any], **arguments: Any) -> float:
    """How much larger weights must be to make up for an activation.

    The gain is `1 / sqrt(E[f(z)**2])` for a standard normal z: what brings the
    second moment after the activation back to 1. Its square is the `scale` of
    `FanwiseVarianceScaling` for the layer that reads the activation's output. It is exact
    for `"relu"` and `"leaky_relu"`, `sqrt(2 / (1 + negative_slope**2))`, and by quadrature
    for all others, rounded to six digits.

    Args:
        activation: the name of a Keras activation, or a function that takes a tensor
            and maps each of its elements by itself.
        **arguments: passed on to the activation, such as `negative_slope=0.1`.

    Raises:
        TypeError: `activation` is neither a string nor callable.
        ValueError: the name is unknown, the function mixes elements (as softmax does), or
            what it returns is zero or not finite.

    Reference: He et al. 2015, <https://arxiv.org/abs/1502.01852>, equation 15, for
    the rectifiers.

    Example:

    >>> gain("relu") ** 2, round(gain("tanh"), 4), round(gain("gelu"), 4)
    (2.0000000000000004, 1.5925, 1.5335)
    """
    known = isinstance(activation, str) and activation in _RECTIFIERS
    if known and set(arguments) <= {"negative_slope"}:
        slope = arguments.get("negative_slope", _RECTIFIERS[activation])
        slope = real("negative_slope", slope)
        return math.sqrt(2.0 / (1.0 + slope * slope))
    function = _Activation(activation, arguments)

    def squares(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _, z, weights = _nodes(low, high)
        result = (weights * function(z) ** 2).sum(1)[:, None]
        return result, 1e-7 * result  # what somebody computes in float32 has seven digits

    moment = float(_expectations(function, squares)[0])
    if not moment > 0:
        raise function.error(f"a function with 0 < E[f(z)**2] < infinity, here {moment}")
    # The digits that the backends share, so that a scale made of the gain draws the same
    # bits on all of them.
    return float(f"{1.0 / math.sqrt(moment):.6g}")


# Where fixed points are looked for: variances of the signal.
_VARIANCES = np.geomspace(1e-6, 1e4, 41)
# What rounding leaves of a difference of equal numbers, in parts of them.
_ROUNDING = 1e-9
_CONTINUOUS = "continuous: where it jumps, the gradients of a network have no variance"
_NO_POINT = "one with a critical point"


class Criticality(NamedTuple):
    """The variances of weights and biases that keep signals and gradients in size.

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
    """The variances of weights and biases that make a deep network critical.

    With `weight_variance` σ_w² and `bias_variance` σ_b², signal and gradient keep their
    variance through all layers of a wide network with the activation φ. With q for the
    variance of the signal before the activation, and a standard normal z,

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

    Args:
        activation: the name of a Keras activation, a layer, or a function that takes a
            float64 tensor and maps each of its elements by itself, in float64: σ_b² is a
            difference of nearly equal numbers. (On JAX `keras.ops.tanh` inside a function
            computes in float32, `jax.numpy.tanh` does not.)
        q: a number above 0, the variance of the signal before the activation.
        bias_variance: in place of q, a number from 0, the variance of the biases; of
            several q with this one, the smallest between 1e-6 and 1e4 is taken.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the activation is unknown, mixes elements as softmax does, or jumps; it
            has no critical point, or none with what is asked for; an argument is out of
            range; `q` and `bias_variance` are both given, or neither is where one must be.

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
        raise fail(ValueError, "q", "None where `bias_variance` is given", q)
    q = None if q is None else positive("q", q)
    if bias_variance is not None:
        bias_variance = real("bias_variance", bias_variance)
        if bias_variance < 0:
            raise fail(ValueError, "bias_variance", "0 or above", bias_variance)
    function = _Activation(activation)
    slopes = _slopes(function)
    if slopes is not None:
        if slopes == (0.0, 0.0):
            raise function.error(_NO_POINT)
        if bias_variance:
            allowed = (
                "0 where φ(c x) = c φ(x): such an activation is critical without biases"
            )
            raise fail(ValueError, "bias_variance", allowed, bias_variance)
        # Of a slope such as float32's 0.2 more digits than were meant.
        squares = sum(float(f"{slope:.7g}") ** 2 for slope in slopes)
        return Criticality(2.0 / squares, 0.0, 1.0 if q is None else q)
    below, above = function(np.array([-1e-12, 1e-12]))
    if abs(above - below) > 1e-6:
        raise function.error(_CONTINUOUS)
    if bias_variance is not None:
        asked = bias_variance
        q = _root(lambda q: _moments(function, q).bias_variance - asked)
        if q is None:
            allowed = (
                "one for which the activation has a critical point with q in [1e-6, 1e4]"
            )
            raise fail(ValueError, "bias_variance", allowed, bias_variance)
    elif q is None:
        q = _half_stable(function)
    moments = _moments(function, q)
    if moments.bias_variance < -_ROUNDING * q:
        allowed = (
            "one for which the activation has a critical point: the variance of the biases "
            f"would be {moments.bias_variance:.3g}"
        )
        raise fail(ValueError, "q", allowed, q)
    if bias_variance is None:
        bias_variance = max(0.0, moments.bias_variance)
    return Criticality(moments.weight_variance, bias_variance, q)


def _slopes(function: _Activation) -> tuple[float, float] | None:
    """Left and right of 0, if the function is a straight line on either side."""
    x = np.array([-7.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 7.0, 1e3, -1e3])
    values = function(x)
    right, left = float(values[5]), -float(values[1])
    line = np.where(x > 0, right, left) * x
    return (left, right) if np.allclose(values, line, rtol=1e-6, atol=0) else None


def _half_stable(function: _Activation) -> float:
    """The q that, a little off, neither grows nor shrinks, no more than gradients do."""

    def excess(q: float) -> float:
        value = _moments(function, q).excess
        return value if abs(value) > 1e-12 else 0.0  # of a straight line rounding alone

    q = _root(excess)
    if q is not None and _moments(function, q).bias_variance >= 0:
        return q
    small = float(_VARIANCES[0])
    if _moments(function, small).bias_variance < -_ROUNDING * small:
        raise function.error(_NO_POINT)
    allowed = (
        "given, or `bias_variance`, for an activation that is critical along a line; "
        "1/depth keeps the signal of a deep network"
    )
    raise fail(ValueError, "q", allowed, None)


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
    while low < (middle := math.sqrt(low * high)) < high:
        if (function(middle) < 0) == (below < 0):
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


def _moments(function: _Activation, q: float) -> _Moments:
    scale = math.sqrt(q)

    def panels(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """E[φ²], E[φ'²] and E[z φ φ'] / √q, of φ(√q z)."""
        half, z, weights = _nodes(low, high)
        values = function(scale * z)
        # Less the value at one of the nodes, so that constants have no derivative at all.
        slopes = (values - values[:, :1]) @ _DERIVATIVE.T / (half * scale)
        squares = (weights * values**2).sum(1)
        growth = (weights * z * values * slopes).sum(1) / scale
        result = [squares, (weights * slopes**2).sum(1), growth]
        # The narrower a panel, the more of its digits a derivative loses.
        lost = _LOST * np.abs(values).max(1, keepdims=True) / (half * scale)
        noise = [
            1e-14 * squares,
            (weights * (2 * np.abs(slopes) + lost) * lost).sum(1),
            (weights * np.abs(z * values) * lost).sum(1) / scale,
        ]
        return np.stack(result, axis=1), np.stack(noise, axis=1)

    squares, slopes, growth = map(float, _expectations(function, panels))
    if not slopes > 0:
        raise function.error(_NO_POINT)
    return _Moments(1.0 / slopes, q - squares / slopes, growth / slopes - 1.0)


def activation_key(activation: Any) -> Any:
    """The same for layers and operations that differ in their name alone."""
    if isinstance(activation, functools.partial):
        return activation.func, repr(activation.keywords)
    if isinstance(activation, keras.Operation):
        return type(activation), repr({**activation.get_config(), "name": ""})
    return activation


# Between these variances expectations are computed, and beyond them taken on as they end.
_SMALLEST, _LARGEST = 1e-8, 1e8
_known_moments: dict[Any, tuple[float, float] | None] = {}


def second_moments(activation: Any, variance: float) -> tuple[float, float] | None:
    """E[φ(√q z)²] and E[φ'(√q z)²] for a standard normal z, if φ has them."""
    q = float(f"{min(max(variance, _SMALLEST), _LARGEST):.2g}")
    key = activation_key(activation), q
    if key not in _known_moments:
        try:
            found = _moments(_Activation(activation), q)
            slopes = 1.0 / found.weight_variance
            _known_moments[key] = slopes * (q - found.bias_variance), slopes
        except Exception:  # of an axis that is missing backends say what they like
            _known_moments[key] = None
    moments = _known_moments[key]
    if moments is None or moments[0] > 100 * q or moments[0] < q / 100:
        return moments
    return moments[0] * variance / q, moments[1]


# By which rule of the literature kernels before an activation start well. He's is for
# rectifiers and what is like them.
_RULES = {
    **dict.fromkeys(("linear", "selu"), "lecun"),
    **dict.fromkeys(("tanh", "sigmoid", "softsign"), "glorot"),
    **dict.fromkeys(("relu", "relu6", "prelu", "leaky_relu", "elu", "gelu"), "he"),
    **dict.fromkeys(("silu", "swish", "mish"), "he"),
}
# Of these the rule has the gain itself.
_EXACT = ("linear", "selu", "relu", "relu6", "prelu")
# What these give is nearly constant, of any scale: no gain brings a signal through them.
FLAT = ("sigmoid", "hard_sigmoid", "log_sigmoid", "softplus", "softmax", "log_softmax")


def rule_for(activation: str) -> str:
    """The rule for an activation: "lecun", "he" or "glorot"; "" where none is known."""
    return _RULES.get(activation, "")


def fitting(activation: str) -> Any:
    """An initializer by the gain of an activation; `None` if there is none, or no use."""
    if activation in _EXACT:
        return f"fanwise_{_RULES[activation]}_normal"
    if activation in FLAT or own_gain(activation):
        return None
    with contextlib.suppress(TypeError, ValueError):  # of what takes two units, say
        return FanwiseVarianceScaling(gain(activation) ** 2)
    return None


def own_gain(activation: str) -> str:
    """How the scale is written for an activation that is none of Keras's."""
    if not activation or hasattr(keras.activations, activation):
        return ""
    known = activation if activation.isidentifier() else "activation"
    return f"gain({known}) ** 2"
