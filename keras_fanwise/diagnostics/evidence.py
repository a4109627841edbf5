"""What a sample tells about the distribution that it should come from.

Every test is two-sided and gives a number of standard deviations of a normal, so that
one limit serves all. None gives more false alarms than that number says for the
distributions of this package, whatever the size of the sample: their tails are no
heavier than a normal's.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from keras_fanwise.diagnostics.moments import moments


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
    sample = moments([values])
    count = values.size
    above = _above(values, mean)
    around = math.hypot(sample.std, sample.mean - mean)
    # By the larger deviation: values that are k times too large have a mean k times as far
    # off as well, and only their standard deviation is to be blamed for it.
    error = max(std, sample.std) / math.sqrt(count)
    return Evidence(
        mean=sample.mean,
        std=sample.std,
        positive=_above(values, 0.0) / count,
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
