"""Whether the weights of a model meet the conditions of a good start."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import ml_dtypes
import numpy as np

from keras_fanwise.diagnostics.copies import COMPARED, equal_beginnings, equal_values
from keras_fanwise.diagnostics.evidence import (
    Evidence,
    correlations,
    evidence,
    limit,
    variance_deviation,
)
from keras_fanwise.diagnostics.shapes import shape_tail
from keras_fanwise.diagnostics.tails import correlation_tail
from keras_fanwise.fans.counting import Fans
from keras_fanwise.fans.keras_rule import keras_fans
from keras_fanwise.initializers.base import FanwiseInitializer
from keras_fanwise.initializers.counterparts import counterpart, portable
from keras_fanwise.initializers.randomness import random_state_kept
from keras_fanwise.initializers.scaling import DISTRIBUTIONS, Distribution
from keras_fanwise.initializers.site import Site
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling
from keras_fanwise.reports.audit_report import (
    AuditFinding,
    AuditReport,
    Condition,
    WeightAudit,
)
from keras_fanwise.seam.owners import OwnedWeight, owned_weights
from keras_fanwise.seam.record import initializer_name, weight_initializers

_REPLACED = "its values are not those that its initializer draws"
# The share of audits of well-started models that may have a finding.
FALSE_ALARMS = 0.001
# Divided equally: single numbers of weights, equal units, correlated units, shapes of
# distributions, weights with equal beginnings, weights with equal values.
_SHARE = FALSE_ALARMS / 6
# Of a weight: mean, signs, standard deviation, and that against either fan.
_TESTS = 5
# Correlations are tested on so many values at least, and so many units at most.
_FEWEST_VALUES, _MOST_UNITS = 30, 512
# Binary digits of a value that are random in a draw, less a few.
_DIGITS = {"float16": 8, "bfloat16": 5, "float32": 20, "float64": 48}


class _Asked(NamedTuple):
    """The distribution that a weight should come from.

    `scale` is the variance times the fan, `None` if the initializer knows no fans.
    """

    drawn: Distribution
    scale: float | None

    @property
    def mean(self) -> float:
        return self.drawn.mean

    @property
    def std(self) -> float:
        return self.drawn.std


class _Measured(NamedTuple):
    """A weight with what is known of it."""

    owned: OwnedWeight
    values: np.ndarray
    fans: Fans
    given: Any
    asked: _Asked | None
    evidence: Evidence

    @property
    def is_kernel(self) -> bool:
        return bool(self.owned.variable.name.endswith("kernel"))

    @property
    def is_random(self) -> bool:
        """Whether its values should look like draws: not those of, say, `identity`."""
        return self.asked is not None or (self.given is None and self.is_kernel)


@random_state_kept()
def audit(model: keras.Layer) -> AuditReport:
    """Checks whether the weights of a model meet the four conditions of a good start.

    - Symmetry is broken: no weight that should be random is constant, no two of its
      units are equal or correlated, and no two weights have equal values, in whatever
      order (transposed, rolled) and times whatever factor.
    - Balance: the mean is 0 within its standard error, and about as many values are
      positive as negative. (γ-noise: about its mean.)
    - Scale: the standard deviation is the one that the weight's initializer asks for with
      the fans of the layer.
    - Glorot's condition: with `scale` the initializer's, the variance lies between
      `scale / fan_in`, which keeps that of a signal, and `scale / fan_out`, which keeps
      that of gradients. For weights of unknown initializers from 1 to 2 is allowed for
      the scale.

    Values of the mean and the deviation that are asked for must also have the shape of
    their distribution: its limits, and its distribution function.

    What a weight is compared with is the initializer that its layer was given, by name or
    by `initialize`. Of weights whose initializers are not random (biases, γ, moving
    statistics), only kernels are tested, for being constant. Tolerances come from the
    sizes of the weights, such that of a thousand well-started models about one has a
    finding. A model that was trained is no longer at its start, and has findings.

    Args:
        model: a built model, or a built layer.

    Returns:
        An `AuditReport` of every weight of a float type that has values: print it, or
        read its `rows` and `findings`.

    Raises:
        TypeError: `model` is not a Keras model or layer.
        ValueError: `model` has no weights yet.

    Reference: Glorot and Bengio 2010, <https://proceedings.mlr.press/v9/glorot10a.html>,
    equations 10 to 12.

    Example:

    >>> import keras
    >>> layer = keras.layers.DepthwiseConv2D(3, depthwise_initializer="he_normal")
    >>> layer.build((None, 8, 8, 64))
    >>> [finding.condition.label for finding in audit(layer).findings]
    ['scale', 'Glorot']
    """
    weights = owned_weights(model)
    measured = [
        _measured(owned, given)
        for owned, given in zip(weights, weight_initializers(weights), strict=True)
        if "float" in keras.backend.standardize_dtype(owned.variable.dtype)
        and math.prod(owned.variable.shape)
    ]
    allowed = limit(_SHARE, _TESTS * len(measured))
    found = [list(_of_weight(weight, allowed, len(measured))) for weight in measured]
    for index, finding in _between_weights(measured):
        found[index].append(finding)
    rows = [_row(weight, own) for weight, own in zip(measured, found, strict=True)]
    return AuditReport(rows, list(itertools.chain(*found)))


def _measured(owned: OwnedWeight, given: Any) -> _Measured:
    variable = owned.variable
    values = keras.ops.convert_to_numpy(variable.value)
    site = Site.of(owned.layer, variable.name, variable.shape)
    asked = _asked(site, given)
    mean, std = (asked.mean, asked.std) if asked else (0.0, 0.0)
    return _Measured(owned, values, site.fans, given, asked, evidence(values, mean, std))


def _asked(site: Site, given: Any) -> _Asked | None:
    ours = given
    if not isinstance(given, FanwiseInitializer):
        ours = counterpart(given, axes=False) or portable(given)
    if ours is None:
        return None
    expected = ours.expected(site.shape, site)
    if not math.isfinite(expected.std):
        return None
    scale = ours.scale if isinstance(ours, FanwiseVarianceScaling) else None
    return _Asked(expected, scale)


def _row(weight: _Measured, findings: Sequence[AuditFinding]) -> WeightAudit:
    found = weight.evidence
    variance = found.std**2
    return WeightAudit(
        path=weight.owned.variable.path,
        layer=type(weight.owned.layer).__name__,
        shape=tuple(weight.owned.variable.shape),
        fans=weight.fans,
        initializer="" if weight.given is None else initializer_name(weight.given),
        mean=found.mean,
        positive=found.positive,
        std_asked=weight.asked.std if weight.asked else None,
        std=found.std,
        forward=weight.fans.fan_in * variance,
        backward=weight.fans.fan_out * variance,
        findings=tuple(finding.condition for finding in findings),
    )


def _of_weight(weight: _Measured, allowed: float, weights: int) -> Iterator[AuditFinding]:
    """What is wrong with a weight by itself."""
    if not np.all(np.isfinite(weight.values)):
        yield _finding(weight, Condition.SCALE, "values that are not finite", "overflow")
        return
    if weight.values.size < 2 or not (weight.is_random or weight.is_kernel):
        return
    if weight.values.min() == weight.values.max():
        cause = (
            _REPLACED if weight.asked else f"it was given {initializer_name(weight.given)}"
        )
        constant = f"all values are {float(weight.values.flat[0]):.4g}"
        yield _finding(weight, Condition.SYMMETRY, constant, cause)
        return
    if not weight.is_random:
        return
    equal = _equal_units(weight, _SHARE / weights)
    if equal:
        yield _finding(weight, Condition.SYMMETRY, equal, _REPLACED)
    findings = [*_balance(weight, allowed), *_scale(weight, allowed)]
    # Of another mean or deviation the shape is another, too.
    yield from findings or _shape(weight, _SHARE / weights)
    yield from _glorot(weight, allowed)


def _finding(
    weight: _Measured, condition: Condition, numbers: str, cause: str, remedy: str = ""
) -> AuditFinding:
    path = weight.owned.variable.path
    return AuditFinding(path, condition, numbers, cause, remedy or condition.remedy)


def _equal_units(weight: _Measured, false_alarms: float) -> str:
    """What two units, along any axis, have in common; `""` if nothing."""
    dtype = keras.backend.standardize_dtype(weight.owned.variable.dtype)
    false_alarms /= weight.values.ndim
    for axis, count in enumerate(weight.values.shape):
        units = np.moveaxis(weight.values, axis, 0).reshape(count, -1)
        size = units.shape[1]
        pairs = count * (count - 1) / 2
        # By chance alone two short units of a coarse type are equal.
        if pairs and pairs * 2.0 ** (-_DIGITS.get(dtype, 1) * size) < false_alarms:
            seen: dict[bytes, int] = {}
            for index, unit in enumerate(units):
                first = seen.setdefault(unit.tobytes(), index)
                if first != index:
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


def _balance(weight: _Measured, allowed: float) -> Iterator[AuditFinding]:
    found = weight.evidence
    if max(abs(found.mean_deviation), abs(found.sign_deviation)) > allowed:
        mean = weight.asked.mean if weight.asked else 0.0
        deviations = f"{found.mean_deviation:+.1f} and {found.sign_deviation:+.1f}"
        numbers = (
            f"mean {found.mean:.3g} where {mean:g} is asked for, and {found.positive:.1%} "
            f"of the values above that: {deviations} standard errors"
        )
        yield _finding(weight, Condition.BALANCE, numbers, _REPLACED)


def _scale(weight: _Measured, allowed: float) -> Iterator[AuditFinding]:
    found, asked = weight.evidence, weight.asked
    if asked and asked.std and abs(found.std_deviation) > allowed:
        ratio = found.std / asked.std
        numbers = f"std {found.std:.4g} where {asked.std:.4g} is asked for, × {ratio:.3g}"
        yield _finding(weight, Condition.SCALE, numbers, *_cause_of_scale(weight))


def _shape(weight: _Measured, false_alarms: float) -> Iterator[AuditFinding]:
    if weight.asked and weight.asked.std and weight.asked.drawn.family in DISTRIBUTIONS:
        rounding = float(ml_dtypes.finfo(weight.values.dtype).eps)  # type: ignore[no-untyped-call]
        if shape_tail(weight.values, weight.asked.drawn, rounding) < false_alarms:
            kind = weight.asked.drawn.family.replace("_", " ")
            numbers = f"the values are not distributed as a {kind} with their deviation"
            yield _finding(weight, Condition.DISTRIBUTION, numbers, _REPLACED)


def _glorot(weight: _Measured, allowed: float) -> Iterator[AuditFinding]:
    low, high = 1.0, 2.0  # of LeCun and Glorot, and of He
    if weight.asked:
        if weight.asked.scale is None:
            return
        low = high = weight.asked.scale
    fans = [max(1.0, fan) for fan in weight.fans]
    std, size = weight.evidence.std, weight.values.size
    bound = min(max(std, math.sqrt(low / max(fans))), math.sqrt(high / min(fans)))
    if abs(variance_deviation((std / bound) ** 2, size)) > allowed and std != bound:
        forward, backward = (fan * std**2 for fan in weight.fans)
        side = f"below {low:g}" if std < bound else f"above {high:g}"
        numbers = (
            f"fan_in · Var(w) = {forward:.3g} forward and "
            f"fan_out · Var(w) = {backward:.3g} backward, both {side}"
        )
        yield _finding(weight, Condition.GLOROT, numbers, *_cause_of_scale(weight))


def _cause_of_scale(weight: _Measured) -> tuple[str, str]:
    """The cause, and the remedy if it is another than that of the condition."""
    owned, given = weight.owned, weight.given
    if given is None:
        return "its initializer is unknown", ""
    theirs = keras_fans(owned.layer, owned.variable.name, weight.values.shape)
    if counterpart(given) and theirs != weight.fans:
        counted = f"fan_in {theirs.fan_in:g} and fan_out {theirs.fan_out:g}"
        right = f"{weight.fans.fan_in:g} and {weight.fans.fan_out:g}"
        cause = f"{initializer_name(given)} counts {counted} in place of {right}"
        return cause, Condition.GLOROT.remedy
    return _REPLACED, ""


def _between_weights(weights: Sequence[_Measured]) -> Iterator[tuple[int, AuditFinding]]:
    """Weights whose values are those of an earlier one, perhaps times a factor."""
    long = [
        index
        for index, weight in enumerate(weights)
        if weight.is_random
        and weight.values.size >= COMPARED
        and math.isfinite(weight.evidence.std)
    ]
    values = [weights[index].values for index in long]
    # Of values from nobody knows where few may be different, such as signs.
    means = [asked.mean if (asked := weights[index].asked) else math.nan for index in long]
    copies = equal_values(values, means, _SHARE) | equal_beginnings(values, _SHARE)
    for place, earlier in sorted(copies.items()):
        weight = weights[long[place]]
        numbers = f"its values are those of {weights[long[earlier]].owned.variable.path}"
        cause = "one initializer and seed for several weights"
        yield long[place], _finding(weight, Condition.SYMMETRY, numbers, cause)
