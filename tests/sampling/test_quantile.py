"""The quantile against a reference in 40 digits."""

import functools

import mpmath as mp
import numpy as np
import pytest

from keras_fanwise.sampling import quantile
from keras_fanwise.sampling.quantile import fill_normal, fill_truncated, slope_32, slope_64

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


BITS = {slope_32: 24, slope_64: 53}


def filled(fill, slope, uniforms, scale=1.0):
    values = np.array(uniforms, np.float64)
    fill(values, scale, slope, np.empty((3, values.size)))
    return values


def largest_error(fill, slope, reference, dtype, count=400):
    bits = BITS[slope]
    integers = odd_integers(bits, count)
    values = filled(fill, slope, [k / 2**bits for k in integers]).astype(dtype)
    exact = [reference(mp.mpf(k) / 2**bits) for k in integers]
    pairs = zip(values.tolist(), exact, strict=True)
    return max(float(abs(mp.mpf(value) / z - 1)) for value, z in pairs)


CASES = {
    "truncated, float32": (fill_truncated, slope_32, truncated_reference, np.float32, 1e-7),
    "truncated, float64": (
        fill_truncated,
        slope_64,
        truncated_reference,
        np.float64,
        1e-14,
    ),
    "normal, float32": (fill_normal, slope_32, normal_reference, np.float32, 1e-7),
    "normal, float64": (fill_normal, slope_64, normal_reference, np.float64, 1e-14),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_relative_error(case):
    *arguments, allowed = case
    assert largest_error(*arguments) < allowed


def every_uniform():
    """All that a 32-bit word can become, but for the sign."""
    return np.arange(1, 2**24, 2) * 2.0**-24


def largest_error_of_all(fill):
    """Before float32's rounding, against float64's quantile, which is right to 1e-14."""
    values = filled(fill, slope_32, every_uniform())
    return np.max(np.abs(values / exact_quantiles(fill) - 1))


@functools.cache
def exact_quantiles(fill):
    return filled(fill, slope_64, every_uniform())


# What rounding to float32, at most 2**-24, leaves of 1e-7, whatever the scale.
ALLOWED_BEFORE_ROUNDING = 1e-7 - 2.0**-24


@pytest.mark.parametrize("fill", [fill_truncated, fill_normal])
def test_relative_error_of_every_float32_draw(fill):
    assert largest_error_of_all(fill) < ALLOWED_BEFORE_ROUNDING


def planted(rational, place, factor):
    """A rational function with one coefficient of its numerator changed."""
    numerator = list(rational[0])
    numerator[place] = (numerator[place] * factor).astype(numerator[place].dtype)
    return tuple(numerator), rational[1]


@pytest.mark.few(3)
@pytest.mark.parametrize("place", range(len(quantile.REST[0])))
def test_a_wrong_digit_in_a_coefficient_is_caught(monkeypatch, place):
    monkeypatch.setattr(quantile, "REST", planted(quantile.REST, place, 1 + 1e-5))
    assert largest_error_of_all(fill_truncated) > ALLOWED_BEFORE_ROUNDING


def test_a_line_in_float32_is_caught(monkeypatch):
    line = tuple(np.float64(np.float32(c)) for c in quantile.LINE)
    monkeypatch.setattr(quantile, "LINE", line)
    assert largest_error_of_all(fill_truncated) > ALLOWED_BEFORE_ROUNDING


def test_a_wrong_digit_in_the_tail_is_caught(monkeypatch):
    monkeypatch.setattr(quantile, "TAIL", planted(quantile.TAIL, 0, 1 + 1e-6))
    assert largest_error(fill_normal, slope_64, normal_reference, np.float64) > 1e-14


@pytest.mark.parametrize("slope", [slope_32, slope_64])
@pytest.mark.parametrize("fill", [fill_truncated, fill_normal])
def test_symmetric_about_zero_and_never_decreasing(fill, slope):
    bits = BITS[slope]
    uniforms = np.array(odd_integers(bits, 20_001), np.float64) * 2.0**-bits
    both = filled(fill, slope, np.concatenate([-uniforms[::-1], uniforms]))
    assert np.array_equal(both, -both[::-1])
    assert np.all(np.diff(both) >= 0)


def test_the_scale_is_a_factor():
    uniforms = [12345 * 2.0**-24, 2.0**-24 - 1]
    one, half = (filled(fill_truncated, slope_32, uniforms, scale) for scale in (1.0, 0.5))
    assert np.array_equal(one * 0.5, half)
