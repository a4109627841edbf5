"""From scale, mode, distribution and fans to a standard deviation or a limit.

Pure Python: nothing here knows Keras.
"""

import math
from typing import NamedTuple

from keras_fanwise.fans.counting import Fans

MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
DISTRIBUTIONS = ("truncated_normal", "untruncated_normal", "uniform")

# Standard deviation of a standard normal truncated at two standard deviations,
# sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)), to the digits that Keras has: one more or
# fewer would break the bit-equality of `sampler="backend"` with the built-ins.
TRUNCATED_STD = 0.87962566103423978


def effective_fan(fans: Fans, mode: str) -> float:
    """The number that the variance is divided by; below 1 it counts as 1.

    Args:
        fans: the fans of the weight.
        mode: `"fan_in"`, `"fan_out"`, `"fan_avg"` (their arithmetic mean, Glorot
            and Bengio 2010, equation 12) or `"fan_geo_avg"` (their geometric
            mean).

    Example:

    >>> effective_fan(Fans(4, 16), "fan_geo_avg")
    8.0
    """
    fan = {
        "fan_in": fans.fan_in,
        "fan_out": fans.fan_out,
        "fan_avg": (fans.fan_in + fans.fan_out) / 2.0,
        "fan_geo_avg": math.sqrt(fans.fan_in * fans.fan_out),
    }[mode]
    return max(1.0, fan)


def weight_std(scale: float, mode: str, fans: Fans) -> float:
    """The standard deviation asked for: `sqrt(scale / fan)`.

    Example: He et al. 2015, equation 10, for a fan of 8.

    >>> weight_std(2.0, "fan_in", Fans(8, 1))
    0.5
    """
    return math.sqrt(scale / effective_fan(fans, mode))


def spread(scale: float, mode: str, distribution: str, fans: Fans) -> float:
    """The parameter of the distribution whose standard deviation is the one asked for.

    Args:
        scale: the variance times the fan; He's is 2, Glorot's and LeCun's 1.
        mode: see `effective_fan`.
        distribution: `"truncated_normal"`, `"untruncated_normal"` or `"uniform"`.
        fans: the fans of the weight.

    Returns:
        For `"truncated_normal"` the standard deviation before truncation at
        twice that value, for `"untruncated_normal"` the standard deviation, for
        `"uniform"` the limit: the draw is in `(-limit, limit)`.

    Example: Glorot and Bengio 2010, equation 16, `sqrt(6 / (fan_in + fan_out))`.

    >>> spread(1.0, "fan_avg", "uniform", Fans(2, 4))
    1.0
    """
    # The order of the operations is Keras's, for the same bits.
    variance = scale / effective_fan(fans, mode)
    if distribution == "uniform":
        return math.sqrt(3.0 * variance)
    if distribution == "truncated_normal":
        return math.sqrt(variance) / TRUNCATED_STD
    return math.sqrt(variance)


class Distribution(NamedTuple):
    """What is drawn: a family, its spread and its mean.

    Attributes:
        family: `"uniform"`, `"truncated_normal"`, `"untruncated_normal"`, or the name of
            another, for an initializer with a `sample` of its own.
        spread: of a uniform, the limit: it is in `(mean - spread, mean + spread)`; of a
            truncated normal, the standard deviation before truncation at twice that
            value; of all others the standard deviation, infinite if there is none.
        mean: what it is centred on.

    Example:

    >>> import math
    >>> Distribution("uniform", math.sqrt(3)).std
    1.0
    """

    family: str
    spread: float
    mean: float = 0.0

    @property
    def std(self) -> float:
        """The standard deviation of what is drawn."""
        if self.family == "uniform":
            return self.spread / math.sqrt(3.0)
        if self.family == "truncated_normal":
            return self.spread * TRUNCATED_STD
        return self.spread

    def reach(self, dtype: str) -> float:
        """What no value drawn in `dtype` is beyond, on either side of 0.

        For a family that is not known here, 0.
        """
        # The normal's are those of 24-bit uniforms, 5.5, and of 53-bit ones, 8.3, with
        # some room for the backends' own.
        normal = 9.0 if dtype == "float64" else 6.0
        spreads = {"uniform": 1.0, "truncated_normal": 2.0, "untruncated_normal": normal}
        if self.family not in spreads:
            return 0.0
        return abs(self.mean) + spreads[self.family] * self.spread
