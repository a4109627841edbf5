"""Rates of what changes with depth."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_fanwise.diagnostics import verdicts as trends
from keras_fanwise.diagnostics.verdicts import rate


@given(
    st.floats(0.3, 3.0),
    st.lists(st.integers(1, 3), min_size=1, max_size=80),
    st.floats(1e-3, 1e3),
    st.booleans(),
)
def test_a_pure_exponential_is_found(one, steps, level, backward):
    depths = [1 + sum(steps[:i]) for i in range(len(steps) + 1)]
    values = [level * one ** (depth - depths[0]) for depth in depths]
    if backward:  # the way back is counted from the last layer
        depths = [depths[-1] - depth + 1 for depth in depths]
    found = rate(depths, values)
    assert found == (pytest.approx(one, rel=1e-9) if len(depths) >= 5 else None)


@given(st.lists(st.floats(1e-12, 1e12), min_size=5, max_size=40))
def test_a_rate_is_what_the_ends_show(values):
    found = rate(range(len(values)), values)
    shown = (values[-1] / values[0]) ** (1 / (len(values) - 1))
    assert found is None or found == pytest.approx(shown, rel=1e-6)


def test_residual_branches_are_steps_of_two():
    """Within a branch another size, and at the additions a steady growth."""
    values = [2.0 ** (i // 2) * (0.1 if i % 2 else 1.0) for i in range(21)]
    assert rate(range(21), values) == pytest.approx(math.sqrt(2))


JUMPS = {
    "in the middle": [1.0] * 4 + [1e-6] * 4,
    "early": [1.0] * 2 + [1e-6] * 5,
    "at the end": [1.0] * 7 + [1e-6],
    "at the beginning": [1e6] + [1.0] * 7,
    "deep": [1.0] * 15 + [1e-6] * 15,
    "of a single layer": [1.0] * 14 + [1e-6],
}


@pytest.mark.parametrize("case", JUMPS)
def test_a_jump_is_no_rate(case, monkeypatch):
    values = JUMPS[case]
    assert rate(range(len(values)), values) is None
    monkeypatch.setattr(trends, "_SUPPORTED", math.inf)
    assert rate(range(len(values)), values) is not None


def test_what_float32_can_hold_and_more():
    found = rate(range(1, 40), [10.0 ** (-8 * i) for i in range(39)])
    assert math.isclose(found, 1e-8, rel_tol=1e-6)
