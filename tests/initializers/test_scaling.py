import inspect
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import keras_fanwise as kf
from keras_fanwise.fans.counting import Fans
from keras_fanwise.initializers.base import DISTRIBUTIONS, TRUNCATED_STD
from keras_fanwise.initializers.variance_scaling import (
    MODES,
    FanwiseVarianceScaling,
    effective_fan,
)

positive = st.floats(1e-3, 1e6)


def test_the_truncation_constant():
    assert pytest.approx(stats.truncnorm.std(-2, 2), rel=1e-14) == TRUNCATED_STD


@given(positive, positive, positive, st.sampled_from(MODES))
def test_the_spread_has_the_standard_deviation_asked_for(scale, fan_in, fan_out, mode):
    std = math.sqrt(scale / effective_fan(Fans(fan_in, fan_out), mode))
    deviations = {
        "uniform": lambda x: stats.uniform.std(-x, 2 * x),
        "untruncated_normal": lambda x: x,
        "truncated_normal": lambda x: stats.truncnorm.std(-2, 2, scale=x),
    }
    for distribution in DISTRIBUTIONS:
        initializer = FanwiseVarianceScaling(
            scale, mode, distribution, fans=(fan_in, fan_out)
        )
        spread = initializer.expected((1, 1)).spread
        assert deviations[distribution](spread) == pytest.approx(std, rel=1e-9)


@pytest.mark.parametrize(
    ("mode", "fan"), [("fan_in", 4), ("fan_out", 16), ("fan_avg", 10), ("fan_geo_avg", 8)]
)
def test_modes(mode, fan):
    assert effective_fan(Fans(4, 16), mode) == fan


def test_a_fan_below_one_counts_as_one():
    for mode in MODES:
        assert effective_fan(Fans(0.5, 0.25), mode) == 1.0
        assert effective_fan(Fans(0, 0), mode) == 1.0


def test_members_of_the_family_explain_every_argument():
    for cls in kf.FanwiseGlorotNormal, kf.FanwiseLecunUniform, kf.FanwiseHeNormal:
        for argument in inspect.signature(cls).parameters:
            assert f"\n    {argument}: " in cls.__doc__, (cls, argument)
        assert "Raises:" in cls.__doc__
        assert "Reference: " in cls.__doc__
