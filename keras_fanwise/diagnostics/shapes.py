"""Whether values have the shape of the distribution that they should come from."""

import math

import numpy as np

from keras_fanwise.diagnostics.tails import deviation_tail, rare_events_tail
from keras_fanwise.initializers.scaling import Distribution

# Of a large weight so many values are looked at, evenly spread, and at so many of these
# the distribution function is.
_MOST_VALUES, _MOST_PLACES = 2**16, 2**10
# How often a value may lie outside the limits of its distribution. PyTorch's truncated
# normal does so 4 times in a million, as Keras asks for it.
_OUTSIDE = 1e-5


def shape_tail(values: np.ndarray, expected: Distribution, rounding: float) -> float:
    """How rare it is, at most, that draws from a distribution look like these values.

    Two tests, so that the smaller of two bounds counts twice: how far the distribution
    function strays from the true one, and how many values lie outside its limits.

    Args:
        values: not empty.
        expected: the distribution.
        rounding: the relative distance of neighbours in the type of the values, which
            rounds them, and may draw them on a grid that is so coarse.
    """
    step = max(1, values.size // _MOST_VALUES)
    sample = np.sort(values.reshape(-1)[::step].astype(np.float64)) - expected.mean
    places = np.unique(np.linspace(0, sample.size - 1, _MOST_PLACES).astype(int))
    distances = []
    for place in places:
        value = float(sample[place])
        slack = rounding * max(abs(value + expected.mean), expected.spread)
        # What is certain of the share of values up to this one, and below it.
        distances.append((place + 1) / sample.size - _distribution(value + slack, expected))
        distances.append(_distribution(value - slack, expected) - place / sample.size)
    strays = deviation_tail(max(0.0, *distances), sample.size)
    return min(1.0, 2 * min(strays, _outside(sample, expected, rounding)))


def _outside(sample: np.ndarray, expected: Distribution, rounding: float) -> float:
    if expected.family == "untruncated_normal":
        return 1.0
    limit = expected.spread * (2.0 if expected.family == "truncated_normal" else 1.0)
    slack = rounding * (limit + abs(expected.mean))
    outside = int(np.count_nonzero(np.abs(sample) > limit + slack))
    return rare_events_tail(outside, _OUTSIDE * sample.size)


def _distribution(value: float, expected: Distribution) -> float:
    """The share of draws, less their mean, that is not above a value."""
    if expected.family == "uniform":
        return min(1.0, max(0.0, (value / expected.spread + 1) / 2))
    share = _normal(value / expected.spread)
    if expected.family == "truncated_normal":
        share = (share - _normal(-2.0)) / (_normal(2.0) - _normal(-2.0))
    return min(1.0, max(0.0, share))


def _normal(deviations: float) -> float:
    return math.erfc(-deviations / math.sqrt(2)) / 2
