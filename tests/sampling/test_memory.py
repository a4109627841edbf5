"""Values in the type of the weight."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_fanwise.sampling.sampler import DTYPES, owned

# With the bit that the point is behind: bfloat16 has 8 digits.
DIGITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}


def rounded(value: float, dtype: str) -> float:
    """The nearest number of so many digits, the even one of two, by whole numbers."""
    _, exponent = math.frexp(value)
    unit = Fraction(2) ** (exponent - DIGITS[dtype])
    return float(round(Fraction(value) / unit) * unit)


@st.composite
def near_ties(draw):
    """Values a little off the middle of two numbers of 8 digits, and any others."""
    if draw(st.booleans()):
        return draw(st.floats(-60000, 60000).filter(lambda x: abs(x) > 1e-4))
    half = draw(st.integers(2**8, 2**9 - 1)) / 2**8
    off = draw(st.sampled_from([0, 2.0**-24, 2.0**-25, 2.0**-40, 2.0**-52]))
    return draw(st.sampled_from([1, -1])) * (half + draw(st.sampled_from([1, -1])) * off)


@given(near_ties(), st.sampled_from(sorted(DTYPES)))
def test_float64_is_rounded_once(value, dtype):
    result = owned(np.array([value]), dtype)
    assert result.dtype == DTYPES[dtype]
    assert float(result[0]) == rounded(value, dtype)


def test_what_numpy_rounds_twice():
    value = np.array([1 + 2.0**-8 + 2.0**-40, -(1 + 3 * 2.0**-8 - 2.0**-40)])
    once = [1 + 2.0**-7, -(1 + 2.0**-7)]
    assert value.astype(DTYPES["bfloat16"]).astype(float).tolist() != once
    assert owned(value, "bfloat16").astype(float).tolist() == once


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-50, 2.0**-140])
def test_what_is_next_to_nothing_keeps_its_sign(value):
    [result] = owned(np.array([-value]), "bfloat16").astype(float)
    assert math.copysign(1, result) == math.copysign(1, -value)
    assert abs(result) <= 2.0**-133
