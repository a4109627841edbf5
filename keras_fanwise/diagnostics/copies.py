"""Whether two weights have the same values, in whatever order and of whatever scale."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fanwise.diagnostics.evidence import correlations
from keras_fanwise.diagnostics.moments import blocks
from keras_fanwise.diagnostics.tails import correlation_tail

# A weight of fewer values is compared bit for bit, and of others the first so many are.
COMPARED = 64

# Of two independent weights of one size, both uniform, the fingerprints differ in no
# number by more than a small d with a probability of 582 d**4, by the central limit
# theorem; of (truncated) normals and orthogonal matrices it is less.
_DENSITY = 582.0
# Relative differences below this are those of rounding.
_ONE_SIZE = 1e-6


def fingerprint(values: np.ndarray, mean: float) -> np.ndarray:
    """Four numbers that neither order, nor scale, nor sign of a weight's values changes.

    Of values that are all of one size, such as orthogonal matrices of one row and one
    column, there are none: only signs tell such weights apart.

    Moments of the absolute deviations from `mean`, of orders 1/2, 1, 3 and 6, where that
    of order 2 is 1, in units of the size of their errors.

    Returns:
        Shape (4,); NaN if all values are as far from `mean`.
    """
    sums, smallest = np.zeros(5), math.inf
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # Scaled first, or high powers of small values would be lost.
        largest = max(float(np.max(values)) - mean, mean - float(np.min(values)))
        for block in blocks([values]):
            sizes = np.abs(block - mean) / largest
            smallest = min(smallest, float(sizes.min()))
            squares = sizes * sizes
            cubes = squares * sizes
            sums += (
                np.sqrt(sizes).sum(), sizes.sum(), squares.sum(), cubes.sum(), cubes @ cubes
            )  # fmt: skip
        halves, ones, squares, cubes, sixths = sums / values.size
        std = np.sqrt(squares)
        orders = [halves / np.sqrt(std), ones / std, cubes / std**3, sixths / std**6]
    if smallest > 1 - _ONE_SIZE:
        return np.full(4, math.nan)
    return math.sqrt(values.size) * np.array(orders)


def equal_values(
    weights: Sequence[np.ndarray], means: Sequence[float], false_alarms: float
) -> dict[int, int]:
    """Weights with the values of an earlier one, in another order such as transposed.

    Args:
        weights: of `COMPARED` values or more each.
        means: that of the distribution of each; those where it is NaN are left out.
        false_alarms: the probability that independent weights give any.

    Returns:
        For the place of a weight that of the earlier one.
    """
    by_size: dict[int, list[int]] = {}
    for place, (values, mean) in enumerate(zip(weights, means, strict=True)):
        if math.isfinite(mean):
            by_size.setdefault(values.size, []).append(place)
    allowed = false_alarms / max(1, sum(math.comb(len(g), 2) for g in by_size.values()))
    equal = {}
    for group in by_size.values():
        if len(group) < 2:
            continue
        marks = np.stack([fingerprint(weights[place], means[place]) for place in group])
        for number, place in enumerate(group[1:], 1):
            distances = np.abs(marks[:number] - marks[number]).max(axis=1)
            distances[np.isnan(distances)] = math.inf
            nearest = int(np.argmin(distances))
            if _DENSITY * distances[nearest] ** 4 < allowed:
                equal[place] = group[nearest]
    return equal


def equal_bits(
    weights: Sequence[np.ndarray], digits: Sequence[int], false_alarms: float
) -> dict[int, int]:
    """Weights that are an earlier one of their shape bit for bit, however few the values.

    Args:
        weights: of any sizes.
        digits: how many binary digits of a value of each are random.
        false_alarms: the probability that independent weights give any.

    Returns:
        As `equal_values`.
    """
    allowed = false_alarms / max(1, math.comb(len(weights), 2))
    first: dict[tuple[Any, ...], int] = {}
    equal = {}
    for place, (values, random) in enumerate(zip(weights, digits, strict=True)):
        if 2.0 ** (-random * values.size) < allowed:
            key = values.dtype, values.shape, values.tobytes()
            earlier = first.setdefault(key, place)
            if earlier != place:
                equal[place] = earlier
    return equal


def equal_beginnings(weights: Sequence[np.ndarray], false_alarms: float) -> dict[int, int]:
    """Weights that begin with the values of an earlier one, also if that is larger.

    Args and returns: as `equal_values`, for any distributions.
    """
    if len(weights) < 2:
        return {}
    first = [values.reshape(-1)[:COMPARED].astype(np.float64) for values in weights]
    strengths = np.abs(correlations(np.stack(first)))
    allowed = false_alarms / math.comb(len(weights), 2)
    equal = {}
    for place in range(1, len(weights)):
        earlier = int(np.argmax(strengths[place, :place]))
        if correlation_tail(strengths[place, earlier], COMPARED) < allowed:
            equal[place] = earlier
    return equal
