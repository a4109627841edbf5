"""How many inputs feed a unit, and how many units an input feeds.

Pure Python: nothing here knows Keras.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

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


def keras_fans(layer: keras.Layer, weight_name: str, shape: Sequence[int]) -> Fans:
    """The fans that the initializers of the installed Keras count for a weight.

    They follow from the shape alone, but for the kernel of an `EinsumDense`: from 3.15
    on Keras counts all its labels that reach the output as outputs and the others as
    inputs.
    """
    if (
        isinstance(layer, keras.layers.EinsumDense)
        and weight_name == "kernel"
        and hasattr(keras.initializers.VarianceScaling(), "input_axes")
    ):
        equation = parse_equation(layer.equation)
        outputs = [i for i, label in enumerate(equation.kernel) if label in equation.output]
        inputs = [i for i in range(len(shape)) if i not in outputs]
        return axes_fans(shape, inputs, outputs)
    return shape_fans(shape)


# A label that no equation has: the rank of a low-rank update.
_RANK = "*"


class Equation(NamedTuple):
    """The labels of `inputs,kernel->output`, without the ellipses."""

    inputs: str
    kernel: str
    output: str


def parse_equation(equation: str) -> Equation:
    """Splits an equation of `keras.layers.EinsumDense` into its labels.

    The axes that an ellipsis stands for are in the input and in the output, never
    in the kernel, so they do not enter its fans.

    Example:

    >>> parse_equation("...c,cd->...d")
    Equation(inputs='c', kernel='cd', output='d')
    """
    operands, output = equation.replace("...", "").split("->")
    inputs, kernel = operands.split(",")
    return Equation(inputs, kernel, output)


def einsum_fans(equation: Equation, shape: Sequence[int]) -> Fans:
    """The fans of the kernel of an equation.

    `fan_in` is the product of the labels that the kernel shares with the input
    alone, `fan_out` that of the labels that it shares with the output alone. A
    label of all three is a batch label: each of its values has a kernel of its own,
    and it counts in neither.

    A label of the input alone is summed before the kernel sees it. Its length is
    not in the kernel's shape, and it counts in neither.

    Args:
        equation: from `parse_equation`.
        shape: of the kernel, one dimension for each of its labels.

    Example: eight experts, each a 16 to 32 dense map.

    >>> einsum_fans(parse_equation("ebd,edf->ebf"), (8, 16, 32))
    Fans(fan_in=16, fan_out=32)
    """
    # A label that stands twice in the kernel takes its diagonal: one dimension.
    dimensions = dict(zip(equation.kernel, shape, strict=True))
    inputs, output = set(equation.inputs), set(equation.output)
    return Fans(
        math.prod(dimensions[label] for label in dimensions.keys() & inputs - output),
        math.prod(dimensions[label] for label in dimensions.keys() & output - inputs),
    )


def lora_equations(equation: Equation) -> tuple[Equation, Equation]:
    """The equations of the two factors of a kernel's low-rank update.

    Keras adds `a @ b` to the kernel, with `a` of shape `(*kernel[:-1], rank)` and
    `b` of shape `(rank, kernel[-1])`. Each factor is the kernel of an einsum of its
    own, from the input to `rank` hidden units or from these to the output. Which of
    the two comes first depends on the kernel's last label: it is in `b`, which
    therefore reads the input if that label does not reach the output.

    Returns:
        The equation of `a` and that of `b`.

    Example: the query of an attention layer. Each head has hidden units of its own.

    >>> a, b = lora_equations(parse_equation("abc,cde->abde"))
    >>> einsum_fans(a, (64, 8, 4)), einsum_fans(b, (4, 16))
    (Fans(fan_in=64, fan_out=32), Fans(fan_in=4, fan_out=16))
    """
    inputs, kernel, output = equation
    rest, last = kernel[:-1], kernel[-1]
    if last not in output:
        hidden = inputs.replace(last, _RANK)
        return Equation(hidden, rest + _RANK, output), Equation(
            inputs, _RANK + last, hidden
        )
    # A batch label stays: `b` has values of its own for each.
    hidden = output + _RANK if last in inputs else output.replace(last, _RANK)
    return Equation(inputs, rest + _RANK, hidden), Equation(hidden, _RANK + last, output)
