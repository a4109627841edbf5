"""Tails of distributions: how often chance alone gives so much. Pure Python."""

import math
from collections.abc import Iterable, Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from keras_fanwise.backends.arrays import moments
from keras_fanwise.initializers.base import Distribution

# Relative, of a continued fraction.
_PRECISION = 1e-15
_MOST_TERMS = 10_000


def correlation_tail(correlation: float, count: int) -> float:
    """How often two independent samples of a normal are correlated so much, or more.

    Their squared correlation has the distribution Beta(1/2, (count - 2) / 2), exactly.
    Of uniforms large correlations are more frequent, by simulation up to 1.5 times for 30
    values and more.

    Reference: Fisher 1915, "Frequency distribution of the values of the correlation
    coefficient in samples from an indefinitely large population".

    Args:
        correlation: of either sign.
        count: how many pairs of values it is of; 3 or more.

    Example: t = 2.306 with 8 degrees of freedom.

    >>> round(correlation_tail(0.6319, 10), 4)
    0.05
    """
    rest = max(0.0, (1 - abs(correlation)) * (1 + abs(correlation)))
    return incomplete_beta(rest, (count - 2) / 2, 0.5)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function, I_x(a, b).

    Reference: Abramowitz and Stegun 1964, 26.5.8, evaluated as by Lentz 1976, "Generating
    Bessel functions in Mie scattering calculations using continued fractions".

    Args:
        x: from 0 to 1.
        a: above 0.
        b: above 0.

    Example: I_x(1, b) is 1 - (1 - x)**b.

    >>> round(incomplete_beta(0.5, 1.0, 2.0), 12)
    0.75
    """
    if not 0 < x < 1:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1.0 - incomplete_beta(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    logarithm += a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...))."""
    value, numerator, denominator = 1.0, 1.0, 0.0
    for term in range(1, _MOST_TERMS):
        half = term // 2
        if term % 2:
            d = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            d = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        denominator = 1 / (1 + d * denominator)
        numerator = 1 + d / numerator
        value *= numerator * denominator
        if abs(numerator * denominator - 1) < _PRECISION:
            break
    return value


def deviation_tail(distance: float, count: int) -> float:
    """At most so often does the distribution function of a sample stray so far.

    From the true one, whatever that is.

    Reference: Massart 1990, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz
    inequality", corollary 1.
    """
    return min(1.0, 2 * math.exp(-2 * count * distance**2))


def rare_events_tail(events: int, expected: float) -> float:
    """At most so often are there so many of independent rare events, or more.

    Reference: Chernoff 1952, "A measure of asymptotic efficiency for tests of a
    hypothesis based on the sum of observations", for a sum of Poisson's limit.

    Args:
        events: how many there are.
        expected: how many there should be.
    """
    if events <= expected:
        return 1.0
    return math.exp(events - expected - events * math.log(events / expected))


# Elements that are turned into float64 at a time.
_BLOCK = 2**18


def blocks(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The values of the parts in float64, so many at a time."""
    for part in parts:
        flat = part.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            yield flat[start : start + _BLOCK].astype(np.float64)


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


class Evidence(NamedTuple):
    """How far a sample is from what is expected of it, in standard deviations.

    Attributes:
        mean: of the sample.
        std: of the sample.
        positive: the share of positive values, zeros counted half.
        mean_deviation: of the mean.
        sign_deviation: of the share of values above the mean that is expected from a half.
        std_deviation: of the standard deviation, around the mean that is expected.
    """

    mean: float
    std: float
    positive: float
    mean_deviation: float
    sign_deviation: float
    std_deviation: float


def evidence(values: np.ndarray, mean: float, std: float) -> Evidence:
    """Compares a sample with a symmetric distribution of this mean and this deviation."""
    sample = moments(values)
    count = values.size
    above = _above(values, mean) if mean else sample.positive * count
    around = math.hypot(sample.std, sample.mean - mean)
    # By the larger deviation: values that are k times too large have a mean k times as far
    # off as well, and only their standard deviation is to be blamed for it.
    error = max(std, sample.std) / math.sqrt(count)
    return Evidence(
        mean=sample.mean,
        std=sample.std,
        positive=sample.positive,
        mean_deviation=(sample.mean - mean) / error if error else 0.0,
        sign_deviation=(2 * above - count) / math.sqrt(count),
        std_deviation=variance_deviation(around**2 / std**2, count) if std else 0.0,
    )


def _above(values: np.ndarray, edge: float) -> float:
    """How many values are above an edge; those that are on it count half."""
    return float(np.count_nonzero(values > edge) + np.count_nonzero(values == edge) / 2)


def variance_deviation(ratio: float, count: int) -> float:
    """Of a sum of `count` squares of normals, by its ratio to what is expected of it.

    Reference: Wilson and Hilferty 1931, "The distribution of chi-square".
    """
    variance = 2 / (9 * count)
    cube_root: float = ratio ** (1 / 3)
    return (cube_root - 1 + variance) / math.sqrt(variance)


def correlations(rows: np.ndarray) -> np.ndarray:
    """The correlations of each two rows; 0 for a row with itself, or of equal values.

    Args:
        rows: shape (rows, values).
    """
    centred = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    directions = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    result: np.ndarray = np.clip(directions @ directions.T, -1.0, 1.0)
    np.fill_diagonal(result, 0.0)
    return result


def limit(false_alarms: float, tests: int) -> float:
    """How many standard deviations to allow each of many tests.

    Args:
        false_alarms: the probability that any of the tests gives one.
        tests: how many there are.

    Example:

    >>> round(limit(0.05, 1), 2)
    1.96
    """
    return -NormalDist().inv_cdf(false_alarms / (2 * max(1, tests)))
