"""Whether units of a weight are equal, or correlated."""

import keras
import numpy as np

from keras_fanwise.diagnostics.evidence import correlations
from keras_fanwise.diagnostics.measured import MeasuredWeight
from keras_fanwise.diagnostics.tails import correlation_tail

# Correlations are tested on so many values at least, and so many units at most.
_FEWEST_VALUES, _MOST_UNITS = 30, 512
# Binary digits of a value that are random in a draw, less a few.
_DIGITS = {"float16": 8, "bfloat16": 5, "float32": 20, "float64": 48}


def random_digits(weight: MeasuredWeight) -> int:
    """How many binary digits of a value are random."""
    dtype = keras.backend.standardize_dtype(weight.owned.variable.dtype)
    return _DIGITS.get(dtype, 1)


def equal_units(weight: MeasuredWeight, false_alarms: float) -> str:
    """What two units, along any axis, have in common; `""` if nothing."""
    digits = random_digits(weight)
    false_alarms /= weight.values.ndim
    values = weight.support
    for axis, count in enumerate(values.shape):
        units = np.moveaxis(values, axis, 0).reshape(count, -1)
        size = units.shape[1]
        pairs = count * (count - 1) / 2
        # By chance alone two short units of a coarse type are equal.
        if pairs and pairs * 2.0 ** (-digits * size) < false_alarms:
            seen: dict[bytes, int] = {}
            for index, unit in enumerate(units):
                first = seen.setdefault(unit.tobytes(), index)
                if first != index and (weight.is_dense or np.any(unit)):
                    return f"units {first} and {index} of axis {axis} are equal"
        if pairs and size >= _FEWEST_VALUES:
            # A few of many units, evenly spread, and of these the first values.
            chosen = np.linspace(0, count - 1, min(count, _MOST_UNITS)).astype(int)
            size = min(size, _MOST_UNITS * 8)
            rows = units[chosen, :size].astype(np.float64)
            found = np.abs(correlations(rows))
            one, two = np.unravel_index(np.argmax(found), found.shape)
            if pairs * correlation_tail(found[one, two], size) < false_alarms:
                one, two = chosen[one], chosen[two]
                return f"units {one} and {two} of axis {axis} are correlated"
    return ""
