"""The quantile against a reference in 40 digits."""

import mpmath as mp
import numpy as np
import pytest

from keras_fanwise import quantile
from keras_fanwise.quantile import CENTRAL_32, CENTRAL_64, fill_normal, fill_truncated

mp.mp.dps = 40


def truncated_reference(p):
    """The normal truncated at two, where |Z| is below |z| with probability p."""
    return mp.sqrt(2) * mp.erfinv(p * mp.erf(mp.sqrt(2)))


def normal_reference(p):
    """z with P(|Z| < z) = p; from the upper tail, where p is near 1."""
    if p < 0.99:
        return mp.sqrt(2) * mp.erfinv(p)
    tail = (1 - p) / 2
    start = mp.sqrt(-2 * mp.log(tail))
    return mp.findroot(lambda z: mp.log(mp.erfc(z / mp.sqrt(2)) / 2) - mp.log(tail), start)


def odd_integers(bits, count):
    """Odd integers from 1 to 2**bits - 1: both ends, a grid, and close to the ends."""
    end = 2**bits
    grid = np.linspace(0, end, count).astype(object)
    near = [2**j for j in range(1, bits)]
    values = {int(v) | 1 for v in [*grid, *near, *(end - v for v in near), 1, end - 1]}
    return sorted(value for value in values if value < end)


def largest_error(fill, central, reference, dtype, count=400):
    integers = odd_integers(central.bits, count)
    values = np.array(integers, np.float64)
    fill(values, 1.0, central, np.empty((3, values.size)))
    values = values.astype(dtype)
    exact = [reference(mp.mpf(k) / 2**central.bits) for k in integers]
    pairs = zip(values.tolist(), exact, strict=True)
    return max(float(abs(mp.mpf(value) / z - 1)) for value, z in pairs)


CASES = {
    "truncated, float32": (
        fill_truncated,
        CENTRAL_32,
        truncated_reference,
        np.float32,
        1e-7,
    ),
    "truncated, float64": (
        fill_truncated,
        CENTRAL_64,
        truncated_reference,
        np.float64,
        1e-14,
    ),
    "normal, float32": (fill_normal, CENTRAL_32, normal_reference, np.float32, 1e-7),
    "normal, float64": (fill_normal, CENTRAL_64, normal_reference, np.float64, 1e-14),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_relative_error(case):
    *arguments, allowed = case
    assert largest_error(*arguments) < allowed


def test_a_wrong_digit_in_a_coefficient_is_caught():
    *most, last = CENTRAL_32.numerator
    planted = CENTRAL_32._replace(numerator=(*most, last * (1 + 1e-6)))
    assert largest_error(fill_truncated, planted, truncated_reference, np.float32) > 1e-7


def test_a_wrong_digit_in_the_tail_is_caught(monkeypatch):
    (first, *rest), denominator = quantile._TAIL
    monkeypatch.setattr(quantile, "_TAIL", ((first * (1 + 1e-6), *rest), denominator))
    assert largest_error(fill_normal, CENTRAL_64, normal_reference, np.float64) > 1e-14


@pytest.mark.parametrize("central", [CENTRAL_32, CENTRAL_64])
@pytest.mark.parametrize("fill", [fill_truncated, fill_normal])
def test_symmetric_about_zero_and_never_decreasing(fill, central):
    integers = np.array(odd_integers(central.bits, 20_001), np.float64)
    both = np.concatenate([-integers[::-1], integers])
    fill(both, 1.0, central, np.empty((3, both.size)))
    assert np.array_equal(both, -both[::-1])
    assert np.all(np.diff(both) >= 0)


def test_the_scale_is_a_factor():
    one, half = np.array([[12345.0, -(2.0**24) + 1]] * 2)
    fill_truncated(one, 1.0, CENTRAL_32, np.empty((3, 2)))
    fill_truncated(half, 0.5, CENTRAL_32, np.empty((3, 2)))
    assert np.array_equal(one * 0.5, half)
