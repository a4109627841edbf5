"""The tests of a sample: how often they are wrong, against SciPy's distributions."""

import math

import numpy as np
import pytest
from scipy import stats

from keras_fanwise.diagnostics.measured import (
    correlations,
    evidence,
    limit,
    variance_deviation,
)
from keras_fanwise.initializers.base import DISTRIBUTIONS, Distribution
from keras_fanwise.sampling.sampler import Stream

NORMAL = stats.norm()


@pytest.mark.parametrize("count", [2, 9, 48, 1000, 10**6])
@pytest.mark.parametrize("deviation", [-5.0, -4.0, -2.0, 2.0, 4.0, 5.0])
def test_a_sum_of_squares_is_as_rare_as_its_deviation_says(count, deviation):
    """Never much rarer in truth than by the number: that would be a false alarm missed."""
    edge = math.sqrt(2 / (9 * count))
    ratio = (1 - 2 / (9 * count) + deviation * edge) ** 3
    if ratio <= 0:
        return  # of so few squares no sum is so small
    assert variance_deviation(ratio, count) == pytest.approx(deviation)
    chi = stats.chi2(count)
    true = chi.sf(ratio * count) if deviation > 0 else chi.cdf(ratio * count)
    assert true < 2 * NORMAL.sf(abs(deviation))


@pytest.mark.few(3)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("size", [4, 9, 100])
def test_false_alarms(distribution, size):
    std = Distribution(distribution, 0.1).std
    trials = 5_000
    values = Stream(7).draw(distribution, (trials, size), spread=0.1)
    found = [evidence(sample, 0.0, std) for sample in values]
    allowed = limit(0.01, 1)  # four standard errors of the share are 0.0056
    for name in ("mean_deviation", "sign_deviation", "std_deviation"):
        alarms = np.mean([abs(getattr(each, name)) > allowed for each in found])
        # The signs of a few values come in steps, which a normal only follows.
        assert alarms < (0.025 if name == "sign_deviation" else 0.015)


def test_what_is_wrong_is_seen():
    values = Stream(7).draw("truncated_normal", (1000,), spread=0.1).astype(float)
    std = Distribution("truncated_normal", 0.1).std
    assert evidence(values, 0.0, std * 1.2).std_deviation < -5
    assert evidence(values, 0.0, std * 0.8).std_deviation > 5
    assert evidence(values + std / 4, 0.0, std).mean_deviation > 5
    assert evidence(np.abs(values), 0.0, std).sign_deviation > 5
    # The share of positive values, whatever mean is expected.
    assert evidence(np.abs(values), 0.1, std).positive == 1.0
    # A factor alone leaves the mean in peace.
    assert abs(evidence(100 * values, 0.0, std).mean_deviation) < 5
    assert evidence(values, 0.0, std) == evidence(values.reshape(10, 100), 0.0, std)


def test_correlations():
    rows = Stream(7).draw("uniform", (200, 50)).astype(float)
    rows[3] = -2 * rows[8]
    rows[5] = 1.0
    assert np.array_equal(correlations(rows[:7], rows), correlations(rows, rows)[:7])
    found = correlations(rows, rows)
    true = np.corrcoef(np.delete(rows, 5, axis=0))
    assert np.allclose(np.delete(np.delete(found, 5, 0), 5, 1), true)
    assert np.allclose(np.diag(found), np.arange(200) != 5)
    np.fill_diagonal(found, 0.0)
    assert np.unravel_index(np.argmax(np.abs(found)), found.shape) == (3, 8)
    assert found[3, 8] == pytest.approx(-1)
    assert np.all(found[5] == 0)
