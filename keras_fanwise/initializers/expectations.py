"""Expectations of an activation and its slope, for a normal variable, to 1e-12."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_fanwise.arguments import fail

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
_PANELS = 2000
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
        if open_.sum() > _PANELS:
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
