"""The fans of an einsum kernel, from its equation.

Pure Python: nothing here knows Keras.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from keras_fanwise.fans.counting import Fans

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
