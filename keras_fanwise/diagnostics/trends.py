"""How a quantity changes with depth, whatever single layers do."""

import math
from collections.abc import Sequence
from statistics import median

from keras_fanwise.reports.signal_report import Trend


def trend(depths: Sequence[int], values: Sequence[float]) -> Trend | None:
    """The trend of positive values, or zeros, along a signal's way.

    The line through the medians of the first and the last third of the logarithms: some
    layers, such as gates and pooling, give values of another size without passing
    them on.

    Reference: Tukey 1977, Exploratory Data Analysis, the resistant line.

    Args:
        depths: from one end to the other.
        values: in the same order, finite.

    Returns:
        The trend, or `None` if there is only one depth, or if zeros at the beginning
        are followed by something.

    Example:

    >>> trend([1, 2, 3], [4.0, 2.0, 1.0])
    Trend(rate=0.5, layers=2, total=0.25, level=4.0)
    """
    third = -(-len(depths) // 3)
    if not third:
        return None
    first, last = (median(part) for part in (depths[:third], depths[-third:]))
    level, end = (_level(part) for part in (values[:third], values[-third:]))
    if first == last or (end and not level):
        return None
    rate = math.exp(math.log(end / level) / abs(last - first)) if end else 0.0
    layers = abs(depths[-1] - depths[0])
    return Trend(rate, layers, rate**layers, level)


def _level(values: Sequence[float]) -> float:
    """The median on a logarithmic scale."""
    low, high = sorted(values)[(len(values) - 1) // 2], sorted(values)[len(values) // 2]
    return math.sqrt(low) * math.sqrt(high)
