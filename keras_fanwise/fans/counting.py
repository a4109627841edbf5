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
    """The fans by Keras's shape rule, which dense and plain convolution kernels follow."""
    if len(shape) < 2:
        return Fans(*shape, *shape) if shape else Fans(1, 1)
    # The last axis are outputs, the one before it inputs; taps count in both.
    taps = math.prod(shape[:-2])
    return Fans(taps * shape[-2], taps * shape[-1])


def axes_fans(
    shape: Sequence[int], input_axes: Sequence[int], output_axes: Sequence[int]
) -> Fans:
    """The fans by axes: of inputs, of outputs, of both as taps are, or of none."""
    fans = []
    for name, axes in (("input_axes", input_axes), ("output_axes", output_axes)):
        if any(not -len(shape) <= axis < len(shape) for axis in axes):
            allowed = f"axes of a shape of rank {len(shape)}, here {tuple(shape)}"
            raise fail(ValueError, name, allowed, list(axes))
        if len({axis % len(shape) for axis in axes}) < len(axes):
            allowed = f"axes that differ from each other in the shape {tuple(shape)}"
            raise fail(ValueError, name, allowed, list(axes))
        fans.append(math.prod(shape[axis] for axis in axes))
    return Fans(*fans)


def validated_axes(
    input_axes: Any, output_axes: Any
) -> tuple[list[int] | None, list[int] | None]:
    """Both lists of axes as lists of ints, or both `None`."""
    if input_axes is None and output_axes is None:
        return None, None
    if input_axes is None:
        raise fail(ValueError, "input_axes", "given together with `output_axes`", None)
    if output_axes is None:
        raise fail(ValueError, "output_axes", "given together with `input_axes`", None)
    return _axes("input_axes", input_axes), _axes("output_axes", output_axes)


def _axes(name: str, axes: Any) -> list[int]:
    result = list(integers(name, axes, "a list or tuple of integers"))
    if len(set(result)) < len(result):
        raise fail(ValueError, name, "axes that differ from each other", axes)
    return result


class Equation(NamedTuple):
    """The labels of `inputs,kernel->output`, without the ellipses.

    The axes that an ellipsis stands for are in the input and in the output, never in the
    kernel, so they do not enter its fans.
    """

    inputs: str
    kernel: str
    output: str

    @classmethod
    def of(cls, equation: str) -> "Equation":
        """That of a `keras.layers.EinsumDense`."""
        return cls(*equation.replace("...", "").replace("->", ",").split(","))

    def of_lora(self) -> tuple["Equation", "Equation"]:
        """The equations of the two factors of a kernel's low-rank update, `a @ b`.

        `a` has the shape `(*kernel[:-1], rank)` and `b` `(rank, kernel[-1])`. Each is the
        kernel of an einsum of its own, from the input to `rank` hidden units or from these
        to the output; "*" is the label of the rank. Which comes first depends on the
        kernel's last label: if that does not reach the output, `b` reads the input.
        """
        inputs, kernel, output = self
        rest, last = kernel[:-1], kernel[-1]
        if last not in output:
            hidden = inputs.replace(last, "*")
            return Equation(hidden, rest + "*", output), Equation(
                inputs, "*" + last, hidden
            )
        # A batch label stays: `b` has values of its own for each.
        hidden = output + "*" if last in inputs else output.replace(last, "*")
        return Equation(inputs, rest + "*", hidden), Equation(hidden, "*" + last, output)
