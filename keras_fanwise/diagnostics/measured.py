"""A weight, measured, with what it should come from."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import ml_dtypes
import numpy as np

from keras_fanwise.diagnostics.statistics import (
    Evidence,
    correlation_tail,
    correlations,
    evidence,
)
from keras_fanwise.initializers.base import (
    DISTRIBUTIONS,
    Distribution,
    FanwiseInitializer,
    Site,
)
from keras_fanwise.initializers.counterparts import counterpart, portable
from keras_fanwise.initializers.structured import FanwiseOrthogonal, FanwiseSubpixel
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling
from keras_fanwise.seam.weights import OwnedWeight, Role, role

# Scales that fit an activation: He's is 2, and the gain of a sigmoid 1.85, its square 3.4.
FAIR_SCALES = (0.25, 4.0)


class MeasuredWeight(NamedTuple):
    """A weight with what is known of it."""

    owned: OwnedWeight
    site: Site
    role: Role
    values: np.ndarray
    initializer: Any  # `None` if nobody knows
    # What its initializer draws from, with the fans that it counts, and with those of the
    # layer; `None` if it is not random or not known.
    drawn: Distribution | None
    asked: Distribution | None
    scale: float | None  # the variance times the fan, of initializers that know fans
    evidence: Evidence  # how far the values are from `drawn`

    @classmethod
    def of(cls, owned: OwnedWeight, initializer: Any) -> "MeasuredWeight":
        variable = owned.variable
        values = keras.ops.convert_to_numpy(variable.value)
        site = Site.of(owned.layer, variable.name, variable.shape)
        is_subpixel = isinstance(initializer, FanwiseSubpixel)
        if is_subpixel and (one := initializer.one_phase(values, site)):
            # Equal phases are meant so: one of them is what was drawn.
            (values, site), initializer = one, initializer.initializer
        draws = None if is_fixed(initializer) else portable(initializer)
        counts = draws
        if not isinstance(initializer, FanwiseInitializer):
            counts = counterpart(initializer, axes=False) or draws
        drawn, asked = _expected(draws, site), _expected(counts, site)
        scale = counts.scale if isinstance(counts, FanwiseVarianceScaling) else None
        found = evidence(values, *((drawn.mean, drawn.std) if drawn else (0.0, 0.0)))
        return cls(
            owned, site, role(owned), values, initializer, drawn, asked, scale, found
        )

    @property
    def path(self) -> str:
        return str(self.owned.variable.path)

    @property
    def is_kernel(self) -> bool:
        return self.role is Role.KERNEL

    @property
    def is_gamma(self) -> bool:
        # Others, such as that of LayerScale, may begin as small as they like.
        return self.role is Role.SCALE and self.site.name.endswith("gamma")

    @property
    def is_dense(self) -> bool:
        """Whether none of its values are meant to be 0; initializers of others may."""
        return self.drawn is None or self.drawn.family in DISTRIBUTIONS

    @property
    def support(self) -> np.ndarray:
        """Its values; of a delta-orthogonal kernel the central taps, without the zeros."""
        if self.is_dense or not np.any(self.values):
            return self.values
        axes = range(self.values.ndim)
        others = [tuple(other for other in axes if other != axis) for axis in axes]
        return self.values[np.ix_(*(np.any(self.values, axis=each) for each in others))]

    @property
    def is_random(self) -> bool:
        """Whether its values should look like draws: not with, say, `identity`.

        Those of `zeros` should, too, if they are no zeros any more.
        """
        if self.drawn is not None or not self.is_kernel:
            return self.drawn is not None
        return self.initializer is None or isinstance(
            self.initializer, keras.initializers.Zeros
        )

    @property
    def positive_fans(self) -> tuple[float, float]:
        """Both fans, of which a variance is divided by none below 1."""
        return max(1.0, self.site.fans.fan_in), max(1.0, self.site.fans.fan_out)

    @property
    def miscount(self) -> float:
        """The deviation that is drawn, by the one that the fans of the layer ask for."""
        if self.drawn and self.asked and self.drawn.std and self.asked.std:
            return self.drawn.std / self.asked.std
        return 1.0

    @property
    def has_fair_scale(self) -> bool:
        """Whether its initializer knows fans, and its scale fits an activation."""
        return self.scale is not None and FAIR_SCALES[0] <= self.scale <= FAIR_SCALES[1]

    @property
    def factor(self) -> float | None:
        """The deviation that is measured, by the one that the fans of the layer ask for.

        That of Glorot's initializer, where its own knows no fans, or has an unfair scale.
        """
        if self.has_fair_scale and self.asked and self.asked.std:
            return self.evidence.std / self.asked.std
        if self.is_kernel:
            return self.evidence.std * math.sqrt(sum(self.positive_fans) / 2)
        return None

    @property
    def rounding(self) -> float:
        """The relative distance of neighbours in the type of the values."""
        return float(ml_dtypes.finfo(self.values.dtype).eps)  # type: ignore[no-untyped-call]

    @property
    def random_digits(self) -> int:
        """How many binary digits of a value are random."""
        dtype = keras.backend.standardize_dtype(self.owned.variable.dtype)
        return _DIGITS.get(dtype, 1)


# Binary digits of a value that are random in a draw, less a few.
_DIGITS = {"float16": 8, "bfloat16": 5, "float32": 20, "float64": 48}


def is_fixed(initializer: Any) -> bool:
    """Whether it gives values that are not random, and are no constant."""
    return isinstance(initializer, keras.initializers.Identity) or (
        isinstance(initializer, FanwiseInitializer) and initializer.is_fixed
    )


def _expected(initializer: FanwiseInitializer | None, site: Site) -> Distribution | None:
    expected = initializer and initializer.expected(site.shape, site)
    return expected if expected and math.isfinite(expected.std) else None


# A weight of fewer values is compared bit for bit, and of others the first so many are.
COMPARED = 64


def equal_beginnings(weights: Sequence[np.ndarray], false_alarms: float) -> dict[int, int]:
    """Weights that begin as an earlier one, or as that transposed, times some factor.

    For the place of each that of the earlier one. They are of `COMPARED` values or more
    each, also of different sizes; independent ones give any with this probability.
    """
    tests = 3 * math.comb(len(weights), 2)
    if not tests:
        return {}
    orders = [weights]
    orders.append([np.swapaxes(v, -1, -2) if v.ndim > 1 else v for v in weights])
    orders.append([v.T for v in weights])
    first = np.array([[v.flat[:COMPARED] for v in order] for order in orders], np.float64)
    strengths = np.abs(correlations(first[0], first.reshape(-1, COMPARED)))
    strongest = strengths.reshape(len(weights), 3, len(weights)).max(axis=1)
    equal = {}
    for place in range(1, len(weights)):
        earlier = int(np.argmax(strongest[place, :place]))
        if tests * correlation_tail(strongest[place, earlier], COMPARED) < false_alarms:
            equal[place] = earlier
    return equal


def equal_bits(
    weights: Sequence[np.ndarray], digits: Sequence[int], false_alarms: float
) -> dict[int, int]:
    """Weights that are an earlier one of their shape bit for bit, however few the values.

    As `equal_beginnings`, with how many binary digits of a value of each are random.
    """
    allowed = false_alarms / max(1, math.comb(len(weights), 2))
    first: dict[tuple[Any, ...], int] = {}
    equal = {}
    for place, (values, random) in enumerate(zip(weights, digits, strict=True)):
        if 2.0 ** (-random * values.size) < allowed:
            key = values.dtype, values.shape, values.tobytes()
            earlier = first.setdefault(key, place)
            if earlier != place:
                equal[place] = earlier
    return equal


# Correlations are tested on so many values at least, and so many units at most.
_FEWEST_VALUES, _MOST_UNITS = 30, 512


class EqualUnits(NamedTuple):
    """Two units along an axis that are not independent."""

    axis: int
    first: int
    second: int
    correlation: float  # 1 of those that are equal bit for bit


def equal_units(weight: MeasuredWeight, false_alarms: float) -> EqualUnits | None:
    """Two units along any axis that are equal, or equal but for a factor and some noise."""
    false_alarms /= weight.values.ndim
    values = weight.support
    for axis, count in enumerate(values.shape):
        units = np.moveaxis(values, axis, 0).reshape(count, -1)
        size = units.shape[1]
        pairs = count * (count - 1) / 2
        # By chance alone two short units of a coarse type are equal.
        if pairs and pairs * 2.0 ** (-weight.random_digits * size) < false_alarms:
            seen: dict[bytes, int] = {}
            for index, unit in enumerate(units):
                first = seen.setdefault(unit.tobytes(), index)
                is_random = weight.is_random and weight.is_dense
                if first != index and (is_random or np.any(unit)):
                    return EqualUnits(axis, first, index, 1.0)
        if pairs and size >= _FEWEST_VALUES:
            # A few of many units, evenly spread, and of these the first values.
            chosen = _spread(count, _MOST_UNITS)
            size = min(size, _MOST_UNITS * 8)
            rows = units[chosen, :size].astype(np.float64)
            found = correlations(rows, rows)
            np.fill_diagonal(found, 0.0)
            one, two = np.unravel_index(np.argmax(np.abs(found)), found.shape)
            strongest = float(found[one, two])
            if pairs * correlation_tail(strongest, size) < false_alarms:
                return EqualUnits(axis, int(chosen[one]), int(chosen[two]), strongest)
    return None


# So far from the gain, relatively, a singular value may be: what a thousand layers do not
# feel, and LAPACK's rounding of float32 is below; and so many steps of the weight's type,
# whose rounding of a matrix moves its singular values by half a step, or by a few where
# it is small.
_SLACK, _STEPS = 1e-4, 4
# Of more matrices, or of more of their vectors, a few are looked at, evenly spread: those
# are orthonormal, too.
_MOST_MATRICES, _MOST_VECTORS = 64, 512


class BrokenIsometry(NamedTuple):
    """The ends of singular values that are not all the gain, as an initializer draws them.

    Or how many values beside the central taps are not 0; 0 if singular values differ.
    """

    smallest: float
    largest: float
    gain: float
    outside: int


def broken_isometry(weight: MeasuredWeight) -> BrokenIsometry | None:
    """`None` of what is as it is drawn, or not drawn orthogonal.

    Of Keras's `Orthogonal` the matrix counts that it draws, not that of the layer's map.
    """
    draws = portable(weight.initializer)
    if not isinstance(draws, FanwiseOrthogonal):
        return None
    shape = weight.values.shape
    matrices, place = draws.matrices(shape, weight.site)
    values = weight.values.reshape(-1)
    inside = values.reshape(draws.whole(shape, weight.site).shape)[place]
    stack = matrices.stack(inside)
    if stack.shape[1] < stack.shape[2]:
        stack = stack.transpose(0, 2, 1)
    stack = stack[_spread(len(stack), _MOST_MATRICES)]
    chosen = stack[:, :, _spread(stack.shape[2], _MOST_VECTORS)].astype(np.float64)
    squares = np.linalg.eigvalsh(chosen.transpose(0, 2, 1) @ chosen)
    singular = np.sqrt(np.maximum(squares, 0.0))
    low, high = float(singular.min()), float(singular.max())
    outside = int(np.count_nonzero(values) - np.count_nonzero(inside))
    slack = draws.gain * (_SLACK + _STEPS * weight.rounding)
    is_kept = max(abs(low - draws.gain), abs(high - draws.gain)) <= slack
    if is_kept and not outside:
        return None
    return BrokenIsometry(low, high, draws.gain, outside if is_kept else 0)


def _spread(count: int, most: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, most)).astype(int)
