"""The weights and biases with which a deep network of an activation is critical."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_fanwise.arguments import fail, positive, real
from keras_fanwise.initializers.activations import float64_function
from keras_fanwise.initializers.expectations import Function, expectations

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
