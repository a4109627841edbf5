import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from keras_fanwise.fans.counting import Fans
from keras_fanwise.initializers.base import (
    DISTRIBUTIONS,
    MODES,
    TRUNCATED_STD,
    spread,
    weight_std,
)

positive = st.floats(1e-3, 1e6)


def test_the_truncation_constant():
    assert pytest.approx(stats.truncnorm.std(-2, 2), rel=1e-14) == TRUNCATED_STD


@given(positive, positive, positive, st.sampled_from(MODES))
def test_the_spread_has_the_standard_deviation_asked_for(scale, fan_in, fan_out, mode):
    fans = Fans(fan_in, fan_out)
    std = weight_std(scale, mode, fans)
    deviations = {
        "uniform": lambda x: stats.uniform.std(-x, 2 * x),
        "untruncated_normal": lambda x: x,
        "truncated_normal": lambda x: stats.truncnorm.std(-2, 2, scale=x),
    }
    for distribution in DISTRIBUTIONS:
        parameter = spread(scale, mode, distribution, fans)
        assert deviations[distribution](parameter) == pytest.approx(std, rel=1e-9)


@pytest.mark.parametrize(
    ("mode", "fan"), [("fan_in", 4), ("fan_out", 16), ("fan_avg", 10), ("fan_geo_avg", 8)]
)
def test_modes(mode, fan):
    assert weight_std(2.0, mode, Fans(4, 16)) == math.sqrt(2.0 / fan)


def test_a_fan_below_one_counts_as_one():
    for mode in MODES:
        assert weight_std(1.0, mode, Fans(0.5, 0.25)) == 1.0
        assert weight_std(1.0, mode, Fans(0, 0)) == 1.0
