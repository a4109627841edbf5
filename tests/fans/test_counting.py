import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_fanwise.fans.counting import Fans, axes_fans, shape_fans, validated_axes

dimensions = st.integers(1, 5)


@pytest.mark.parametrize(
    ("shape", "fans"),
    [
        ((), (1, 1)),
        ((2,), (2, 2)),
        ((3, 4), (3, 4)),
        ((1, 2, 3, 4), (6, 8)),
        ((0, 4), (0, 4)),
    ],
)
def test_shape_rule_at_known_shapes(shape, fans):
    # The figures that Keras and Haiku agree on.
    assert shape_fans(shape) == Fans(*fans)


def count_einsum_fans(equation, kernel_shape, input_shape):
    """Ones in, ones out: what an output receives, and what an input gives."""
    kernel = np.ones(kernel_shape)
    fan_in = np.einsum(equation, np.ones(input_shape), kernel)
    left, output = equation.split("->")
    first, second = left.split(",")
    back = np.einsum(f"{output},{second}->{first}", np.ones(fan_in.shape), kernel)
    return fan_in.mean(), back.mean()


@given(st.tuples(dimensions, dimensions))
def test_shape_rule_counts_a_dense_kernel(shape):
    assert shape_fans(shape) == count_einsum_fans("i,io->o", shape, shape[:1])


@given(st.tuples(dimensions, dimensions, dimensions))
def test_axes_rule_counts_a_batched_kernel(shape):
    counted = count_einsum_fans("bi,bio->bo", shape, shape[:2])
    assert axes_fans(shape, [1], [2]) == counted
    assert axes_fans(shape, [-2], [-1]) == counted


@given(st.tuples(dimensions, dimensions, dimensions, dimensions))
def test_axes_rule_counts_attention_projections(shape):
    # Query projection: model width to heads and head width.
    assert axes_fans(shape[:3], [0], [1, 2]) == count_einsum_fans(
        "i,ihd->hd", shape[:3], shape[:1]
    )
    # Output projection: heads and head width to model width.
    assert axes_fans(shape[:3], [0, 1], [2]) == count_einsum_fans(
        "hd,hdo->o", shape[:3], shape[:2]
    )


def test_the_count_catches_a_wrong_rule():
    shape = (8, 16, 32)
    assert shape_fans(shape) != count_einsum_fans("bi,bio->bo", shape, shape[:2])


def test_an_axis_may_stand_in_both_lists():
    assert axes_fans((3, 3, 16, 32), [0, 1, 2], [0, 1, 3]) == shape_fans((3, 3, 16, 32))


def test_no_axis_is_a_fan_of_one():
    assert axes_fans((3, 4), [], [1]) == Fans(1, 4)


@pytest.mark.parametrize("axes", [[2], [-3], [0, -2]])
def test_axes_that_do_not_fit_the_shape(axes):
    with pytest.raises(ValueError, match=r"`input_axes` must be .*\(3, 4\).* Received: "):
        axes_fans((3, 4), axes, [1])


def test_one_list_of_axes_without_the_other():
    with pytest.raises(ValueError, match="`output_axes` must be given together with"):
        validated_axes([0], None)
    with pytest.raises(ValueError, match="`input_axes` must be given together with"):
        validated_axes(None, [0])


@pytest.mark.parametrize("axes", [0, "0", [0.0], [True], {"a": 1}, [None]])
def test_axes_of_the_wrong_type(axes):
    with pytest.raises(
        TypeError, match=r"`input_axes` must be a list or tuple of integers"
    ):
        validated_axes(axes, [1])


def test_axes_named_twice():
    with pytest.raises(ValueError, match=r"`output_axes` .*differ.* Received: .*\[1, 1\]"):
        validated_axes([0], [1, 1])


def test_axes_become_plain_ints():
    axes, _ = validated_axes(np.array([0, 1]), (2,))
    assert axes == [0, 1]
    assert all(type(axis) is int for axis in axes)
