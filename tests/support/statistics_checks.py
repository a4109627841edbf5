"""Checks of draws, with tolerances that come from the sample size."""

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

# Standard errors allowed: a normal deviate passes five in all but 6e-7 of the cases.
K = 5.0


def check_moments(values: np.ndarray, mean: float, std: float, kurtosis: float) -> None:
    """Mean and standard deviation within K standard errors.

    Args:
        kurtosis: E[(x - mean)**4] / std**4 of the distribution asked for; it sets the
            standard error of the variance.
    """
    values = np.asarray(values, np.float64).ravel()
    assert abs(values.mean() - mean) < K * std / math.sqrt(values.size)
    # Around the known mean, so that the estimate is unbiased.
    variance = np.mean((values - mean) ** 2)
    error = std**2 * math.sqrt((kurtosis - 1) / values.size)
    assert abs(variance - std**2) < K * error


def check_distribution(values: np.ndarray, cdf: Callable) -> None:
    """Kolmogorov-Smirnov against `cdf`: p above 1e-4."""
    values = np.asarray(values, np.float64).ravel()
    result = stats.kstest(values, cdf)
    assert result.pvalue > 1e-4, result


def truncated_normal_cdf(std: float) -> Callable:
    """Of a normal truncated at two deviations whose deviation is then `std`."""
    parent = std / stats.truncnorm.std(-2, 2)
    return stats.truncnorm(-2, 2, scale=parent).cdf


# E[(x - mean)**4] / std**4, from SciPy's own moments.
KURTOSIS = {
    "uniform": 1.8,
    "truncated_normal": 3.0 + float(stats.truncnorm.stats(-2, 2, moments="k")),
    "untruncated_normal": 3.0,
}
