"""Mean and standard deviation of a tensor of any size, in float64 and little memory."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

# Elements that are turned into float64 at a time.
_BLOCK = 2**18


class Moments(NamedTuple):
    """Of a tensor's values: their mean and their standard deviation."""

    mean: float
    std: float


def moments(parts: Iterable[np.ndarray]) -> Moments:
    """The moments of all values of the parts of a tensor, block by block.

    Reference: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm
    for computing sample variances", for the sum of two blocks.

    Example:

    >>> moments([np.array([1.0, 3.0])]), moments([np.array([1.0]), np.array([3.0])])
    (Moments(mean=2.0, std=1.0), Moments(mean=2.0, std=1.0))
    """
    count, mean, squares = 0, 0.0, 0.0
    with np.errstate(invalid="ignore"):  # infinite values have no deviation
        for block in blocks(parts):
            difference = float(block.mean()) - mean
            total = count + block.size
            block -= mean + difference
            squares += float(block @ block) + difference**2 * count * block.size / total
            mean += difference * block.size / total
            count = total
    return Moments(mean, math.sqrt(squares / count) if count else math.nan)


def blocks(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The values of the parts in float64, so many at a time."""
    for part in parts:
        flat = part.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            yield flat[start : start + _BLOCK].astype(np.float64)
