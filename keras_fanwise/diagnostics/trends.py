"""Whether what changes with depth does so at a rate."""

import math
from collections.abc import Sequence
from statistics import median_high, median_low

# A rate is told of so many hidden kernels or more,
_ENOUGH = 5
# and if half of the steps are about of its size, within this factor. What the first and the
# last value alone support, such as a single jump, is no rate.
_SUPPORTED = 1.25
# A step is one kernel long, or as long as a residual branch, whose kernels differ.
_LONGEST = 3


def rate(depths: Sequence[int], values: Sequence[float]) -> float | None:
    """By what each layer multiplies, if the values support that there is such a number.

    It is the last value by the first, to the power of 1 / layers, as of a random walk.

    Args:
        depths: from one end to the other, each once.
        values: positive, one for each depth.

    Returns:
        The rate, or `None` of fewer than five depths, and where neither the median of the
        steps nor that of steps over two or three layers is within a factor of 1.25 of it.

    Example:

    >>> rate([1, 2, 3, 4, 5], [16.0, 8.0, 4.0, 2.0, 1.0])
    0.5
    >>> rate([1, 2], [1.0, 0.25]), rate([1, 2, 3, 4, 5, 6], [9.0, 9.0, 9.0, 1.0, 1.0, 1.0])
    (None, None)
    """
    if len(depths) < _ENOUGH:
        return None
    logarithms = [math.log(value) for value in values]
    layers = abs(depths[-1] - depths[0])
    slope = (logarithms[-1] - logarithms[0]) / layers
    pairs = list(zip(depths, logarithms, strict=True))
    for length in range(1, _LONGEST + 1):
        steps = [
            (after - before) / abs(there - here)
            for (here, before), (there, after) in zip(pairs, pairs[length:], strict=False)
        ]
        middle = median_low(steps), median_high(steps)
        if all(abs(step - slope) <= math.log(_SUPPORTED) for step in middle):
            return math.exp(slope)
    return None
