"""What chance alone gives: tails of distributions, and what values tell of theirs."""

import functools
import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from keras_fanwise.backends.arrays import moments
from keras_fanwise.initializers.base import Distribution

_NORMAL = NormalDist()
# The share of healthy models in which chance may give a finding.
FALSE_ALARMS = 0.001


def limit(false_alarms: float, tests: int) -> float:
    """How many standard deviations to allow each of many tests, such that none alarms.

    >>> round(limit(0.05, 1), 2)
    1.96
    """
    return -_NORMAL.inv_cdf(false_alarms / (2 * max(1, tests)))


def correlation_tail(correlation: float, count: int) -> float:
    """Two-sided p-value of the correlation r of two normal samples, or up to 1/|r| of it.

    r² of `count` pairs, 3 or more, has the distribution Beta(1/2, a) with
    a = (count - 2) / 2, exactly; the bound is (1 - r²)^a / (|r| a B(a, 1/2)). Of uniforms
    large correlations are more frequent, by simulation up to 1.5 times for 30 values and
    more.

    Reference: Fisher 1915, "Frequency distribution of the values of the correlation
    coefficient in samples from an indefinitely large population".
    """
    size, half = abs(correlation), (count - 2) / 2
    rest = (1 - size) * (1 + size)
    if size == 0 or rest <= 0:
        return float(size == 0)
    beta = math.lgamma(half) + math.lgamma(0.5) - math.lgamma(half + 0.5)
    return min(1.0, math.exp(half * math.log(rest) - beta) / (half * size))


def deviation_tail(distance: float, count: int) -> float:
    """At most so often does the distribution function of a sample stray so far.

    Reference: Massart 1990, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz
    inequality", corollary 1.
    """
    return min(1.0, 2 * math.exp(-2 * count * distance**2))


def rare_events_tail(events: int, expected: float) -> float:
    """At most so often are there so many of independent rare events, or more.

    Reference: Chernoff 1952, "A measure of asymptotic efficiency for tests of a
    hypothesis based on the sum of observations", for a sum of Poisson's limit.
    """
    if events <= expected:
        return 1.0
    return math.exp(events - expected - events * math.log(events / expected))


def variance_deviation(ratio: float, count: int) -> float:
    """Of a sum of `count` squares of normals, by its ratio to what is expected of it.

    Reference: Wilson and Hilferty 1931, "The distribution of chi-square".
    """
    variance = 2 / (9 * count)
    cube_root: float = ratio ** (1 / 3)
    return (cube_root - 1 + variance) / math.sqrt(variance)


def correlations(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The correlations of each two rows, 0 for rows of equal values."""
    result: np.ndarray = np.clip(_directions(rows) @ _directions(others).T, -1.0, 1.0)
    return result


def _directions(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    result: np.ndarray = centred / np.where(lengths > 0, lengths, 1.0)
    return result


# Of a large weight so many values are looked at, evenly spread, and at so many quantiles.
_MOST_VALUES, _PLACES = 2**16, 2**8
# How often a value may lie outside the limits of its distribution. PyTorch's truncated
# normal does so 4 times in a million, as Keras asks for it.
_OUTSIDE = 1e-5


def shape_tail(values: np.ndarray, expected: Distribution, rounding: float) -> float:
    """How rare it is, at most, that draws from a distribution look like these values.

    Two tests, so that the smaller of two bounds counts twice: how far the distribution
    function strays from the true one, and how many values lie outside its limits.
    `rounding` is the relative distance of neighbours in the type of the values, which
    rounds them, and may draw them on a grid that is so coarse.
    """
    step = max(1, values.size // _MOST_VALUES)
    sample = np.sort(values.reshape(-1)[::step].astype(np.float64)) - expected.mean
    shares, places = _quantiles(expected.family)
    places = places * expected.spread
    slack = rounding * np.maximum(abs(places + expected.mean), expected.spread)
    # What is certain of the share of values up to a place: at least and at most.
    least, most = (
        np.searchsorted(sample, place, "right") / sample.size
        for place in (places - slack, places + slack)
    )
    distance = float(max(0.0, (least - shares).max(), (shares - most).max()))
    tail = deviation_tail(distance, sample.size)
    if expected.family != "untruncated_normal":
        edge = expected.spread * (2.0 if expected.family == "truncated_normal" else 1.0)
        margin = rounding * (edge + abs(expected.mean))
        outside = int(np.count_nonzero(np.abs(sample) > edge + margin))
        tail = min(tail, rare_events_tail(outside, _OUTSIDE * sample.size))
    return min(1.0, 2 * tail)


@functools.cache
def _quantiles(family: str) -> tuple[np.ndarray, np.ndarray]:
    """Shares of draws, and below what they are, for a mean of 0 and a spread of 1."""
    shares = np.arange(1, _PLACES) / _PLACES
    if family == "uniform":
        return shares, 2 * shares - 1
    cut = _NORMAL.cdf(-2.0) if family == "truncated_normal" else 0.0
    return shares, np.array([_NORMAL.inv_cdf(cut + p * (1 - 2 * cut)) for p in shares])


class Evidence(NamedTuple):
    """How far a sample is from what is expected of it; deviations in standard errors."""

    mean: float
    std: float
    positive: float  # the share of positive values, zeros counted half
    mean_deviation: float
    sign_deviation: float  # of the share of values above the mean that is expected
    std_deviation: float  # around the mean that is expected


def evidence(values: np.ndarray, mean: float, std: float) -> Evidence:
    """Compares a sample with a symmetric distribution of this mean and this deviation."""
    sample = moments(values)
    count = values.size
    above = sample.positive * count
    if mean:
        above = np.count_nonzero(values > mean) + np.count_nonzero(values == mean) / 2
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
