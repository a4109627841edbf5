"""A weight, measured: how far its values are from what its initializer draws.

And what chance alone gives: tails of distributions, by which that is judged.
"""

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import keras
import ml_dtypes
import numpy as np

from keras_fanwise.backends.arrays import moments
from keras_fanwise.fans.layers import Matrices, known_matrices
from keras_fanwise.graph.graph import Call, Graph
from keras_fanwise.initializers.base import (
    DISTRIBUTIONS,
    Distribution,
    FanwiseInitializer,
    Site,
)
from keras_fanwise.initializers.counterparts import counterpart, portable
from keras_fanwise.initializers.structured import FanwiseOrthogonal, FanwiseSubpixel
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling
from keras_fanwise.seam.weights import OwnedWeight, Role, role, weights_within

_NORMAL = NormalDist()
# The share of healthy models in which chance may give a finding.
FALSE_ALARMS = 0.001


def limit(false_alarms: float, tests: int) -> float:
    """How many standard deviations to allow each of many tests, such that none alarms.

    >>> round(limit(0.05, 1), 2)
    1.96
    """
    return -_NORMAL.inv_cdf(false_alarms / (2 * max(1, tests)))


def correlation_tail(correlation: float, count: int) -> float:
    """Two-sided p-value of the correlation r of two normal samples, or up to 1/|r| of it.

    r² of `count` pairs has the distribution Beta(1/2, a) with a = (count - 2) / 2 (Fisher
    1915); the bound is (1 - r²)^a / (|r| a B(a, 1/2)). Of uniforms large correlations are
    more frequent, by simulation up to 1.5 times for 30 values and more.
    """
    size, half = abs(correlation), (count - 2) / 2
    rest = (1 - size) * (1 + size)
    if size == 0 or rest <= 0:
        return float(size == 0)
    beta = math.lgamma(half) + math.lgamma(0.5) - math.lgamma(half + 0.5)
    return min(1.0, math.exp(half * math.log(rest) - beta) / (half * size))


def deviation_tail(distance: float, count: int) -> float:
    """At most so often does a distribution function stray so far (Massart 1990)."""
    return min(1.0, 2 * math.exp(-2 * count * distance**2))


def rare_events_tail(events: int, expected: float) -> float:
    """At most so often are there so many independent rare events (Chernoff 1952)."""
    if events <= expected:
        return 1.0
    return math.exp(events - expected - events * math.log(events / expected))


def variance_deviation(ratio: float, count: int) -> float:
    """In standard errors, of a sum of squares of normals (Wilson and Hilferty 1931)."""
    variance = 2 / (9 * count)
    return float((ratio ** (1 / 3) - 1 + variance) / math.sqrt(variance))


def correlations(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The correlations of each two rows, 0 for rows of equal values."""
    result: np.ndarray = np.clip(_directions(rows) @ _directions(others).T, -1.0, 1.0)
    return result


def _directions(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    result: np.ndarray = centred / np.where(lengths > 0, lengths, 1.0)
    return result


# Of a large weight so many values are looked at, evenly spread, and at so many quantiles.
_MOST_VALUES, _PLACES = 2**16, 2**8
# How often a value may lie outside the limits of its distribution. PyTorch's truncated
# normal does so 4 times in a million, as Keras asks for it.
_OUTSIDE = 1e-5


def shape_tail(values: np.ndarray, expected: Distribution, rounding: float) -> float:
    """How rare it is, at most, that draws from a distribution look like these values.

    By how far the distribution function strays, and how many values lie outside its limits.
    `rounding` is the relative distance of neighbours in the type of the values.
    """
    step = max(1, values.size // _MOST_VALUES)
    sample = np.sort(values.reshape(-1)[::step].astype(np.float64)) - expected.mean
    shares, places = _quantiles(expected.family)
    places = places * expected.spread
    slack = rounding * np.maximum(abs(places + expected.mean), expected.spread)
    # What is certain of the share of values up to a place: at least and at most.
    least, most = (
        np.searchsorted(sample, place, "right") / sample.size
        for place in (places - slack, places + slack)
    )
    distance = float(max(0.0, (least - shares).max(), (shares - most).max()))
    tail = deviation_tail(distance, sample.size)
    if expected.family != "untruncated_normal":
        edge = expected.spread * (2.0 if expected.family == "truncated_normal" else 1.0)
        margin = rounding * (edge + abs(expected.mean))
        outside = int(np.count_nonzero(np.abs(sample) > edge + margin))
        tail = min(tail, rare_events_tail(outside, _OUTSIDE * sample.size))
    return min(1.0, 2 * tail)  # the smaller of two bounds


@functools.cache
def _quantiles(family: str) -> tuple[np.ndarray, np.ndarray]:
    """Shares of draws, and below what they are, for a mean of 0 and a spread of 1."""
    shares = np.arange(1, _PLACES) / _PLACES
    if family == "uniform":
        return shares, 2 * shares - 1
    cut = _NORMAL.cdf(-2.0) if family == "truncated_normal" else 0.0
    return shares, np.array([_NORMAL.inv_cdf(cut + p * (1 - 2 * cut)) for p in shares])


class Evidence(NamedTuple):
    """How far a sample is from what is expected of it; deviations in standard errors."""

    mean: float
    std: float
    positive: float  # the share of positive values, zeros counted half
    mean_deviation: float
    sign_deviation: float  # of the share of values above the mean that is expected
    std_deviation: float  # around the mean that is expected


def evidence(values: np.ndarray, mean: float, std: float) -> Evidence:
    """Compares a sample with a symmetric distribution of this mean and this deviation."""
    sample = moments(values)
    count = values.size
    above = sample.positive * count
    if mean:
        above = np.count_nonzero(values > mean) + np.count_nonzero(values == mean) / 2
    around = math.hypot(sample.std, sample.mean - mean)
    # By the larger deviation: values that are k times too large have a mean k times as far
    # off as well, and only their standard deviation is to be blamed for it.
    error = max(std, sample.std) / math.sqrt(count)
    return Evidence(
        mean=sample.mean,
        std=sample.std,
        positive=sample.positive,
        mean_deviation=(sample.mean - mean) / error if error else 0.0,
        sign_deviation=(2 * above - count) / math.sqrt(count),
        std_deviation=variance_deviation(around**2 / std**2, count) if std else 0.0,
    )


# Scales that fit an activation: He's is 2, and the gain of a sigmoid 1.85, its square 3.4.
FAIR_SCALES = (0.25, 4.0)


class MeasuredWeight:
    """A weight with what is known of it."""

    def __init__(self, owned: OwnedWeight, initializer: Any, graph: Graph) -> None:
        variable = owned.variable
        values: np.ndarray = keras.ops.convert_to_numpy(variable.value)
        site = Site.of(owned.layer, variable.name, variable.shape)
        is_subpixel = isinstance(initializer, FanwiseSubpixel)
        if is_subpixel and (one := initializer.one_phase(values, site)):
            # Equal phases are meant so: one of them is what was drawn.
            (values, site), initializer = one, initializer.initializer
        self.owned, self.site, self.values = owned, site, values
        self.path = str(variable.path)
        self.initializer = initializer  # `None` if nobody knows
        # What its results go through; "" where none is known.
        self.activation = graph.activation_for(variable)
        self.role = role(owned)
        self.is_kernel = self.role is Role.KERNEL
        # Others, such as that of LayerScale, may begin as small as they like.
        self.is_gamma = self.role is Role.SCALE and site.name.endswith("gamma")
        draws = None if is_fixed(initializer) else portable(initializer)
        counts = draws
        if not isinstance(initializer, FanwiseInitializer):
            counts = counterpart(initializer, axes=False) or draws
        # What its initializer draws from, with the fans that it counts, and with those of
        # the layer; `None` if it is not random or not known.
        self.drawn, self.asked = _expected(draws, site), _expected(counts, site)
        # The variance times the fan, of initializers that know fans.
        self.scale = counts.scale if isinstance(counts, FanwiseVarianceScaling) else None
        mean, std = (self.drawn.mean, self.drawn.std) if self.drawn else (0.0, 0.0)
        self.evidence = evidence(values, mean, std)
        # By what it multiplies the variance of a signal, and that of gradients.
        variance = self.evidence.std**2
        self.products = site.fans.fan_in * variance, site.fans.fan_out * variance
        # A variance is divided by no fan below 1.
        self.positive_fans = max(1.0, site.fans.fan_in), max(1.0, site.fans.fan_out)

    @property
    def matrices(self) -> Matrices | None:
        """Those that it is made of, where its layer is known."""
        return known_matrices(self.owned.layer, self.site.name, self.site.shape)

    @property
    def is_dense(self) -> bool:
        """Whether none of its values are meant to be 0; initializers of others may."""
        return self.drawn is None or self.drawn.family in DISTRIBUTIONS

    @property
    def support(self) -> np.ndarray:
        """Its values; of a delta-orthogonal kernel the central taps, without the zeros."""
        if self.is_dense or not np.any(self.values):
            return self.values
        return self.values[np.ix_(*map(np.unique, np.nonzero(self.values)))]

    @property
    def is_random(self) -> bool:
        """Whether its values should look like draws; "zeros" too, if they are none now."""
        if self.drawn is not None or not self.is_kernel:
            return self.drawn is not None
        return isinstance(self.initializer, (type(None), keras.initializers.Zeros))

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
        """The deviation by the one that the fans ask for, of Glorot's if not of its own."""
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


def stays_zero(graph: Graph, weight: keras.Variable) -> bool:
    """Whether a weight of 0 learns nothing: no gradient returns through its activation."""
    for call in graph.calls_of(weight):
        end = graph.activation_after(call)
        if end and end.is_flat_at_zero:
            way = [call, *graph.between(call, end)]
            if not any(one.kind in ("Add", "Subtract") or _shifts(one) for one in way):
                return True
    return False


def zero_by_choice(graph: Graph, weight: keras.Variable) -> list[Call]:
    """Of a weight of 0 that somebody may have chosen to begin so, what gives 0 with it.

    It is the end of a branch or of the model; of another one nothing.
    """
    return [] if stays_zero(graph, weight) else graph.alone_after(weight)


def _shifts(call: Call) -> bool:
    """Whether its bias makes something else of 0."""
    layer = call.operation
    return isinstance(layer, keras.Layer) and any(
        role(owned) is Role.BIAS and keras.ops.any(owned.variable.value)
        for owned in weights_within(layer)
    )


def _expected(initializer: FanwiseInitializer | None, site: Site) -> Distribution | None:
    expected = initializer and initializer.expected(site.shape, site)
    return expected if expected and math.isfinite(expected.std) else None


# A weight of fewer values is compared bit for bit, and of others the first so many are.
COMPARED = 64


def equal_beginnings(weights: Sequence[np.ndarray], false_alarms: float) -> dict[int, int]:
    """Of weights that begin as an earlier one, perhaps transposed or scaled, the places.

    Each has `COMPARED` values or more; independent ones give any with this probability.
    """
    tests = 3 * math.comb(len(weights), 2)
    if not tests:
        return {}
    swapped = [np.swapaxes(v, -1, -2) if v.ndim > 1 else v for v in weights]
    orders = weights, swapped, [v.T for v in weights]
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
    """As `equal_beginnings`, bit for bit; `digits` of a value of each are random."""
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


def broken_isometry(weight: MeasuredWeight) -> str:
    """What is not as an orthogonal initializer draws it; "" of any other one.

    Of Keras's `Orthogonal` the matrix counts that it draws, not that of the layer's map.
    """
    draws = portable(weight.initializer)
    if not isinstance(draws, FanwiseOrthogonal):
        return ""
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
    if max(abs(low - draws.gain), abs(high - draws.gain)) > slack:
        return f"singular values from {low:.3g} to {high:.3g} where {draws.gain:g} is drawn"
    return f"{outside} values beside the central taps, where 0 is drawn" if outside else ""


def _spread(count: int, most: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, most)).astype(int)
