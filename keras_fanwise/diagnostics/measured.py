"""A weight, measured, with what it should come from."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import ml_dtypes
import numpy as np

from keras_fanwise.diagnostics.statistics import (
    Evidence,
    blocks,
    correlation_tail,
    correlations,
    evidence,
)
from keras_fanwise.fans.counting import Fans
from keras_fanwise.initializers.base import (
    DISTRIBUTIONS,
    Distribution,
    FanwiseInitializer,
    Site,
)
from keras_fanwise.initializers.counterparts import counterpart, portable
from keras_fanwise.initializers.orthogonal import FanwiseOrthogonal
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling
from keras_fanwise.seam.weights import OwnedWeight, Role, role

# Scales that fit an activation: He's is 2, and the gain of a sigmoid 1.85, its square 3.4.
FAIR_SCALES = (0.25, 4.0)


class MeasuredWeight(NamedTuple):
    """A weight with what is known of it.

    Attributes:
        owned: the weight and its layer.
        role: what it does there.
        values: its values.
        fans: as `layer_fans` counts them.
        initializer: that fills it; `None` if nobody knows.
        drawn: the distribution that its initializer draws from, with the fans that it
            counts; `None` if it is not random or not known.
        asked: the distribution that its initializer would draw from with the fans of the
            layer.
        scale: the variance times the fan, of initializers that know fans.
        evidence: how far the values are from `drawn`.
    """

    owned: OwnedWeight
    role: Role
    values: np.ndarray
    fans: Fans
    initializer: Any
    drawn: Distribution | None
    asked: Distribution | None
    scale: float | None
    evidence: Evidence

    @classmethod
    def of(cls, owned: OwnedWeight, initializer: Any) -> "MeasuredWeight":
        """Measures a weight that an initializer filled."""
        variable = owned.variable
        values = keras.ops.convert_to_numpy(variable.value)
        site = Site.of(owned.layer, variable.name, variable.shape)
        draws: FanwiseInitializer | None
        counts: FanwiseInitializer | None
        if isinstance(initializer, FanwiseInitializer):
            draws = counts = initializer
        else:
            draws = portable(initializer)
            counts = counterpart(initializer, axes=False) or draws
        drawn, asked = _expected(draws, site), _expected(counts, site)
        scale = counts.scale if isinstance(counts, FanwiseVarianceScaling) else None
        mean, std = (drawn.mean, drawn.std) if drawn else (0.0, 0.0)
        found = evidence(values, mean, std)
        return cls(
            owned, role(owned), values, site.fans, initializer, drawn, asked, scale, found
        )

    @property
    def name(self) -> str:
        return str(self.owned.variable.name)

    @property
    def is_kernel(self) -> bool:
        return self.role is Role.KERNEL

    @property
    def is_lookup(self) -> bool:
        return self.role is Role.LOOKUP

    @property
    def is_bias(self) -> bool:
        return self.role is Role.BIAS

    @property
    def is_gamma(self) -> bool:
        # Others, such as that of LayerScale, may begin as small as they like.
        return self.role is Role.SCALE and self.name.endswith("gamma")

    @property
    def is_dense(self) -> bool:
        """Whether none of its values are meant to be 0; initializers of others may."""
        return self.drawn is None or self.drawn.family in DISTRIBUTIONS

    @property
    def support(self) -> np.ndarray:
        """Its values without what is 0 all along an axis, where they are not dense.

        Of a delta-orthogonal kernel the central taps.
        """
        if self.is_dense or not np.any(self.values):
            return self.values
        axes = range(self.values.ndim)
        others = [tuple(other for other in axes if other != axis) for axis in axes]
        return self.values[np.ix_(*(np.any(self.values, axis=each) for each in others))]

    @property
    def is_random(self) -> bool:
        """Whether its values should look like draws: not those of, say, `identity`.

        Those of `zeros` should, too, if they are no zeros any more.
        """
        if self.drawn is not None or not self.is_kernel:
            return self.drawn is not None
        return self.initializer is None or isinstance(
            self.initializer, keras.initializers.Zeros
        )

    @property
    def is_fixed(self) -> bool:
        """Whether its values are made to be as they are."""
        return isinstance(self.initializer, keras.initializers.Identity)

    @property
    def positive_fans(self) -> tuple[float, float]:
        """Both fans, of which a variance is divided by none below 1."""
        return max(1.0, self.fans.fan_in), max(1.0, self.fans.fan_out)

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

        That of Glorot's initializer, where the weight's own knows no fans, or an unfair
        scale.
        """
        if self.has_fair_scale and self.asked and self.asked.std:
            return self.evidence.std / self.asked.std
        if self.is_kernel:
            return self.evidence.std * math.sqrt(sum(self.positive_fans) / 2)
        return None


def _expected(initializer: FanwiseInitializer | None, site: Site) -> Distribution | None:
    if initializer is None:
        return None
    expected = initializer.expected(site.shape, site)
    return expected if math.isfinite(expected.std) else None


# A weight of fewer values is compared bit for bit, and of others the first so many are.
COMPARED = 64

# Of two independent weights of one size, both uniform, the fingerprints differ in no
# number by more than a small d with a probability of 582 d**4, by the central limit
# theorem; of (truncated) normals and orthogonal matrices it is less.
_DENSITY = 582.0
# Relative differences below this are those of rounding.
_ONE_SIZE = 1e-6


def fingerprint(values: np.ndarray, mean: float) -> np.ndarray:
    """Four numbers that neither order, nor scale, nor sign of a weight's values changes.

    Of values that are all of one size, such as orthogonal matrices of one row and one
    column, there are none: only signs tell such weights apart.

    Moments of the absolute deviations from `mean`, of orders 1/2, 1, 3 and 6, where that
    of order 2 is 1, in units of the size of their errors.

    Returns:
        Shape (4,); NaN if all values are as far from `mean`.
    """
    sums, smallest = np.zeros(5), math.inf
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # Scaled first, or high powers of small values would be lost.
        largest = max(float(np.max(values)) - mean, mean - float(np.min(values)))
        for block in blocks([values]):
            sizes = np.abs(block - mean) / largest
            smallest = min(smallest, float(sizes.min()))
            squares = sizes * sizes
            cubes = squares * sizes
            sums += (
                np.sqrt(sizes).sum(), sizes.sum(), squares.sum(), cubes.sum(), cubes @ cubes
            )  # fmt: skip
        halves, ones, squares, cubes, sixths = sums / values.size
        std = np.sqrt(squares)
        orders = [halves / np.sqrt(std), ones / std, cubes / std**3, sixths / std**6]
    if smallest > 1 - _ONE_SIZE:
        return np.full(4, math.nan)
    return math.sqrt(values.size) * np.array(orders)


def equal_values(
    weights: Sequence[np.ndarray], means: Sequence[float], false_alarms: float
) -> dict[int, int]:
    """Weights with the values of an earlier one, in another order such as transposed.

    Args:
        weights: of `COMPARED` values or more each.
        means: that of the distribution of each; those where it is NaN are left out.
        false_alarms: the probability that independent weights give any.

    Returns:
        For the place of a weight that of the earlier one.
    """
    by_size: dict[int, list[int]] = {}
    for place, (values, mean) in enumerate(zip(weights, means, strict=True)):
        if math.isfinite(mean):
            by_size.setdefault(values.size, []).append(place)
    allowed = false_alarms / max(1, sum(math.comb(len(g), 2) for g in by_size.values()))
    equal = {}
    for group in by_size.values():
        if len(group) < 2:
            continue
        marks = np.stack([fingerprint(weights[place], means[place]) for place in group])
        for number, place in enumerate(group[1:], 1):
            distances = np.abs(marks[:number] - marks[number]).max(axis=1)
            distances[np.isnan(distances)] = math.inf
            nearest = int(np.argmin(distances))
            if _DENSITY * distances[nearest] ** 4 < allowed:
                equal[place] = group[nearest]
    return equal


def equal_bits(
    weights: Sequence[np.ndarray], digits: Sequence[int], false_alarms: float
) -> dict[int, int]:
    """Weights that are an earlier one of their shape bit for bit, however few the values.

    Args:
        weights: of any sizes.
        digits: how many binary digits of a value of each are random.
        false_alarms: the probability that independent weights give any.

    Returns:
        As `equal_values`.
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


def equal_beginnings(weights: Sequence[np.ndarray], false_alarms: float) -> dict[int, int]:
    """Weights that begin with the values of an earlier one, also if that is larger.

    Args and returns: as `equal_values`, for any distributions.
    """
    if len(weights) < 2:
        return {}
    first = [values.reshape(-1)[:COMPARED].astype(np.float64) for values in weights]
    strengths = np.abs(correlations(np.stack(first)))
    allowed = false_alarms / math.comb(len(weights), 2)
    equal = {}
    for place in range(1, len(weights)):
        earlier = int(np.argmax(strengths[place, :place]))
        if correlation_tail(strengths[place, earlier], COMPARED) < allowed:
            equal[place] = earlier
    return equal


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


# So far from the gain, relatively, a singular value may be: what a thousand layers do not
# feel, and LAPACK's rounding of float32 is below; and so many steps of the weight's type,
# whose rounding of a matrix moves its singular values by half a step, or by a few where
# it is small.
_SLACK, _STEPS = 1e-4, 4
# Of more matrices, or of more of their vectors, a few are looked at, evenly spread: those
# are orthonormal, too.
_MOST_MATRICES, _MOST_VECTORS = 64, 512


def broken_isometry(weight: MeasuredWeight) -> str:
    """The singular values that are not as the initializer draws them; `""` if all are.

    Of Keras's `Orthogonal` those of the matrix that it draws, not those of the layer's map.
    """
    given = weight.initializer
    draws = given if isinstance(given, FanwiseOrthogonal) else portable(given)
    if not isinstance(draws, FanwiseOrthogonal):
        return ""
    shape = weight.values.shape
    site = Site.of(weight.owned.layer, weight.name, shape)
    matrices, place = draws.matrices(shape, site)
    step = float(ml_dtypes.finfo(weight.values.dtype).eps)  # type: ignore[no-untyped-call]
    values = weight.values.reshape(-1)
    inside = values.reshape(draws.whole(shape, site).shape)[place]
    low, high = _singular_values(matrices.stack(inside))
    if max(abs(low - draws.gain), abs(high - draws.gain)) > draws.gain * (
        _SLACK + _STEPS * step
    ):
        return f"singular values from {low:.3g} to {high:.3g} where {draws.gain:g} is drawn"
    outside = np.count_nonzero(values) - np.count_nonzero(inside)
    if outside:
        return f"{outside} values beside the central taps, where 0 is drawn"
    return ""


def _singular_values(stack: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest, over all matrices."""
    rows, columns = stack.shape[1:]
    if rows < columns:
        stack = stack.transpose(0, 2, 1)
    stack = stack[_spread(len(stack), _MOST_MATRICES)]
    chosen = stack[:, :, _spread(stack.shape[2], _MOST_VECTORS)].astype(np.float64)
    squares = np.linalg.eigvalsh(chosen.transpose(0, 2, 1) @ chosen)
    singular = np.sqrt(np.maximum(squares, 0.0))
    return float(singular.min()), float(singular.max())


def _spread(count: int, most: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, most)).astype(int)
