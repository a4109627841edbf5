"""How many inputs feed a unit, and how many units an input feeds.

Pure Python: nothing here knows Keras.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras_fanwise.arguments import fail, integers


class Fans(NamedTuple):
    """The fans of one weight.

    For the linear map that the weight is part of, `fan_in` is the mean number
    of weights that feed one output unit and `fan_out` the mean number of output
    units that one input unit feeds. Both may be fractions.

    Example:

    >>> Fans(fan_in=9, fan_out=9)
    Fans(fan_in=9, fan_out=9)
    """

    fan_in: float
    fan_out: float


def shape_fans(shape: Sequence[int]) -> Fans:
    """The fans by Keras's shape rule, from nothing but a shape.

    The last axis is taken as outputs, the one before it as inputs, and all
    others as a receptive field that counts in both. This is right for dense and
    for plain convolution kernels.

    Args:
        shape: tuple of integers.

    Example:

    >>> shape_fans((3, 4))
    Fans(fan_in=3, fan_out=4)
    >>> shape_fans((1, 2, 3, 4))
    Fans(fan_in=6, fan_out=8)
    """
    if not shape:
        return Fans(1, 1)
    if len(shape) == 1:
        return Fans(shape[0], shape[0])
    receptive_field = math.prod(shape[:-2])
    return Fans(receptive_field * shape[-2], receptive_field * shape[-1])


def axes_fans(
    shape: Sequence[int], input_axes: Sequence[int], output_axes: Sequence[int]
) -> Fans:
    """The fans from the axes that count as inputs and those that count as outputs.

    `fan_in` is the product of the dimensions at `input_axes`, `fan_out` that of
    the dimensions at `output_axes`. An axis may stand in both lists (the
    receptive field of a convolution does) or in none (a batch axis).

    Args:
        shape: tuple of integers.
        input_axes: axes of `shape`; negative ones count from the end.
        output_axes: likewise.

    Raises:
        ValueError: an axis is out of range for `shape`, or is named twice in
            one list.

    Example: eight experts, each a 16 to 32 dense map.

    >>> axes_fans((8, 16, 32), input_axes=[1], output_axes=[2])
    Fans(fan_in=16, fan_out=32)
    """
    return Fans(
        _product(shape, "input_axes", input_axes),
        _product(shape, "output_axes", output_axes),
    )


def _product(shape: Sequence[int], name: str, axes: Sequence[int]) -> int:
    rank = len(shape)
    if any(not -rank <= axis < rank for axis in axes):
        allowed = f"axes of a shape of rank {rank}, here {tuple(shape)}"
        raise fail(ValueError, name, allowed, list(axes))
    if len({axis % rank for axis in axes}) < len(axes):
        allowed = f"axes that differ from each other in the shape {tuple(shape)}"
        raise fail(ValueError, name, allowed, list(axes))
    return math.prod(shape[axis] for axis in axes)


def validated_axes(
    input_axes: Any, output_axes: Any
) -> tuple[list[int] | None, list[int] | None]:
    """Both lists of axes as lists of ints, or both `None`.

    Raises:
        TypeError: an argument is not a list or tuple of integers.
        ValueError: one is given without the other, or one names an axis twice.
    """
    both = {"input_axes": input_axes, "output_axes": output_axes}
    if input_axes is None and output_axes is None:
        return None, None
    for name, axes in both.items():
        if axes is None:
            other = next(key for key in both if key != name)
            raise fail(ValueError, name, f"given together with `{other}`", None)
    return _axes("input_axes", input_axes), _axes("output_axes", output_axes)


def _axes(name: str, axes: Any) -> list[int]:
    result = list(integers(name, axes, "a list or tuple of integers"))
    if len(set(result)) < len(result):
        raise fail(ValueError, name, "axes that differ from each other", axes)
    return result
