"""Trends of what changes with depth."""

import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_fanwise.diagnostics import trends
from keras_fanwise.diagnostics.trends import trend


@given(
    st.floats(0.3, 3.0),
    st.lists(st.integers(0, 3), min_size=2, max_size=80),
    st.floats(1e-3, 1e3),
    st.booleans(),
)
def test_a_pure_exponential_is_found(rate, steps, level, backward):
    depths = [1 + sum(steps[: i + 1]) for i in range(len(steps))]
    values = [level * rate ** (depth - depths[0]) for depth in depths]
    if backward:  # the way back is counted from the last layer
        depths = [depths[-1] - depth + 1 for depth in depths]
    found = trend(depths, values)
    third = -(-len(depths) // 3)
    if median(depths[:third]) == median(depths[-third:]):
        assert found is None
    else:
        assert found.rate == pytest.approx(rate, rel=1e-9)
        assert found.layers == abs(depths[-1] - depths[0])
        assert found.total == pytest.approx(found.rate**found.layers)


def test_a_level_between_two_values_on_another_scale_is_noticed(monkeypatch):
    """Thirds of an even number of layers: half way is the geometric mean."""
    check = test_a_pure_exponential_is_found.hypothesis.inner_test
    example = 0.5, [1, 1, 1, 1, 1, 3], 1.0, False
    check(*example)
    monkeypatch.setattr(trends, "_level", median)
    with pytest.raises(AssertionError):
        check(*example)


def test_single_layers_do_not_matter():
    values = [1.0] * 30
    for outlier in (3, 11, 17, 26):
        values[outlier] = 1e-6
    assert trend(range(30), values).total == pytest.approx(1.0)
    # But a level that lasts does.
    assert trend(range(30), [1.0] * 15 + [1e-6] * 15).total < 1e-5


def test_zeros():
    assert trend([1, 2, 3], [0.0, 0.0, 1.0]) is None
    assert trend([1, 2, 3], [1.0, 1.0, 0.0]).total == 0
    assert trend([1, 2, 3], [0.0, 0.0, 0.0]).total == 0
    assert trend([], []) is None
    assert trend([1], [1.0]) is None


def test_what_float32_can_hold_and_more():
    found = trend(range(1, 40), [10.0 ** (-8 * i) for i in range(39)])
    assert math.isclose(found.rate, 1e-8, rel_tol=1e-6)
