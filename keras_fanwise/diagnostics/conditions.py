"""The conditions of a good start, of one weight by itself.

They hold whatever an initializer was asked for. What is an error, and what a note:

- A kernel whose variance is 20 times or more that of LeCun's initializer (ten times
  He's), in both directions, is an error: activations saturate, or the signal explodes.
- One whose variance is a tenth of LeCun's or less, in both directions, is an error where
  another layer with a kernel reads what it gives: such factors multiply over the depth,
  and ten of them leave nothing. It is a note where a normalization stands behind it,
  which undoes the factor; at the end of a branch that is added to others, or of the
  model, where small is a usual choice; and of a lookup, which starts a signal and is no
  link in a chain.
- A mean is an error where it is more than the signs of the kernel can hide: from
  `std / (fan_in · fan_out)^(1/4)` on, the common direction of all units outgrows the
  random ones (Benaych-Georges and Nadakuditi 2012, <https://arxiv.org/abs/1103.2221>).
- All units equal, or correlated, is an error, and so is what is not finite; zeros are a
  note where somebody chose them for the end of a branch or of the model, or for the last
  layer inside another, where a branch may end.
"""

import math
from collections.abc import Iterator, Set
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_fanwise.diagnostics.causes import (
    REPLACED,
    cause_of,
    counts,
    remedy_of,
    replacement,
)
from keras_fanwise.diagnostics.evidence import variance_deviation
from keras_fanwise.diagnostics.isometry import broken_isometry
from keras_fanwise.diagnostics.measured import FAIR_SCALES, MeasuredWeight
from keras_fanwise.diagnostics.shapes import shape_tail
from keras_fanwise.diagnostics.surroundings import END, LAST, NORMALIZATION, SUM
from keras_fanwise.diagnostics.units import equal_units
from keras_fanwise.initializers.scaling import DISTRIBUTIONS, Distribution
from keras_fanwise.reports.audit_report import ERROR, NOTE, AuditFinding, Condition
from keras_fanwise.seam.record import initializer_name

# Of the variance times the fan, where LeCun's is 1 and He's 2.
_SMALLEST, _LARGEST = 0.1, 20.0
# Of a bias, beside signals of deviation 1, and of γ.
_LARGEST_BIAS, _GAMMAS = 10.0, (0.1, 10.0)
# Initializers that draw with other fans differ by more than rounding.
_MISCOUNT = 1e-3


class Conditions:
    """The tests of an audit.

    Args:
        allowed: how many standard errors.
        false_alarms: of one weight, for tests that know probabilities.
    """

    def __init__(self, allowed: float, false_alarms: float) -> None:
        self._allowed = allowed
        self._false_alarms = false_alarms

    def of(self, weight: MeasuredWeight, behind: Set[str]) -> Iterator[AuditFinding]:
        """What is wrong with a weight that has this behind it."""
        values = weight.values
        if not np.all(np.isfinite(values)):
            numbers = "values that are not finite"
            yield finding(weight, Condition.SCALE, ERROR, numbers, "overflow")
        elif weight.is_bias or weight.is_gamma:
            found = list((_bias if weight.is_bias else _gamma)(weight, behind))
            yield from found or self._initializer(weight)
        elif values.size < 2 or not (
            weight.is_random or weight.is_kernel or weight.is_lookup
        ):
            return
        elif values.min() == values.max():
            yield _constant(weight, behind)
        elif not weight.is_fixed:
            yield from self._of_values(weight, behind)

    def _of_values(
        self, weight: MeasuredWeight, behind: Set[str]
    ) -> Iterator[AuditFinding]:
        if weight.is_random:
            equal = equal_units(weight, self._false_alarms)
            if equal:
                yield finding(weight, Condition.SYMMETRY, ERROR, equal, REPLACED)
        balance = list(self._balance(weight))
        scale = list(self._scale(weight, behind))
        yield from balance
        yield from scale
        # Of another mean the shape is another, too, and an error says enough.
        if not balance and not any(found.severity == ERROR for found in scale):
            yield from self._initializer(weight)

    def _balance(self, weight: MeasuredWeight) -> Iterator[AuditFinding]:
        expected = weight.drawn.mean if weight.drawn else 0.0
        found = weight.evidence
        root = math.sqrt(weight.values.size)
        largest = max(found.std, weight.drawn.std if weight.drawn else 0.0)
        mean, signs = found.mean / largest * root, (2 * found.positive - 1) * root
        if max(abs(mean), abs(signs)) <= self._allowed:
            return
        fan_in, fan_out = weight.positive_fans
        outgrows = abs(found.mean) * (fan_in * fan_out) ** 0.25 > found.std
        outgrows = outgrows and abs(mean) > self._allowed
        if weight.is_kernel and outgrows:
            severity = ERROR
        elif (weight.is_random and not expected) or (weight.is_lookup and outgrows):
            severity = NOTE
        else:
            return  # as it was asked for, and of no harm
        numbers = (
            f"mean {found.mean:.3g} where std is {found.std:.3g}, {found.positive:.1%} "
            f"positive: {mean:+.1f} and {signs:+.1f} standard errors"
        )
        departed = self._departed(weight) or not expected
        cause = cause_of(weight, departed and weight.drawn is not None)
        yield finding(weight, Condition.BALANCE, severity, numbers, cause)

    def _scale(self, weight: MeasuredWeight, behind: Set[str]) -> Iterator[AuditFinding]:
        departed = self._departed(weight)
        miscounted = not departed and abs(math.log(weight.miscount)) > _MISCOUNT
        if not weight.is_kernel and len(weight.values.shape) < 2:
            return
        undone = behind and behind <= {NORMALIZATION, SUM, END, LAST}
        low = 0.0 if undone or not weight.is_kernel else _SMALLEST
        if self._outside(weight, low, _LARGEST):
            condition, severity = Condition.SCALE, ERROR
        elif (
            miscounted
            or (weight.is_kernel and self._outside(weight, *_fair(weight)))
            or self._explodes(weight, departed)
        ):
            condition, severity = Condition.GLOROT, NOTE
        else:
            return
        std = weight.evidence.std
        forward, backward = (fan * std**2 for fan in weight.fans)
        numbers = f"variance × {forward:.3g} forward, × {backward:.3g} backward"
        if weight.factor is not None:
            numbers = f"std × {weight.factor:.3g}, {numbers}"
        if miscounted:
            numbers += f"; {counts(weight)}"
        cause = cause_of(weight, departed)
        yield finding(weight, condition, severity, numbers, cause)

    def _departed(self, weight: MeasuredWeight) -> bool:
        """Whether the deviation is not the one that the initializer draws with."""
        return abs(weight.evidence.std_deviation) > self._allowed

    def _explodes(self, weight: MeasuredWeight, departed: bool) -> bool:
        """Whether a signal does, or gradients, though not both.

        One of them may from an initializer of a fair scale: He's keeps the signal, and lets
        gradients grow where a layer has more outputs than inputs. Of others than such an
        initializer, and one that asks for too much, only signals tell.
        """
        if not weight.is_kernel or (weight.has_fair_scale and not departed):
            return False
        asked = weight.drawn is not None and not departed
        fan = max(weight.positive_fans) if asked else weight.positive_fans[0]
        ratio = fan * weight.evidence.std**2 / _LARGEST
        return variance_deviation(ratio, weight.values.size) > self._allowed

    def _outside(self, weight: MeasuredWeight, low: float, high: float) -> bool:
        """Whether the variance is beyond `low / fan` or `high / fan`, of either fan."""
        fans, found = weight.positive_fans, weight.evidence
        bound = min(max(found.std, math.sqrt(low / max(fans))), math.sqrt(high / min(fans)))
        if bound in (0.0, found.std):
            return False
        deviation = variance_deviation((found.std / bound) ** 2, weight.values.size)
        return abs(deviation) > self._allowed

    def _initializer(self, weight: MeasuredWeight) -> Iterator[AuditFinding]:
        drawn, found = weight.drawn, weight.evidence
        if drawn is None or not drawn.std or weight.values.size < 2:
            return
        broken = broken_isometry(weight)
        if broken:
            numbers = broken
        elif self._departed(weight):
            ratio = found.std / drawn.std
            numbers = f"std {found.std:.4g} where {drawn.std:.4g} is drawn, × {ratio:.3g}"
        elif max(abs(found.mean_deviation), abs(found.sign_deviation)) > self._allowed:
            numbers = f"mean {found.mean:.3g} where {drawn.mean:g} is drawn"
        elif drawn.family in DISTRIBUTIONS and self._strays(weight.values, drawn):
            kind = drawn.family.replace("_", " ")
            numbers = f"the values are not distributed as a {kind} with their deviation"
        else:
            return
        remedy = Condition.INITIALIZER.remedy
        yield AuditFinding(
            weight.owned.variable.path,
            Condition.INITIALIZER,
            NOTE,
            numbers,
            REPLACED,
            remedy,
            found.std / drawn.std,
        )

    def _strays(self, values: np.ndarray, drawn: Distribution) -> bool:
        """Whether values have another shape than their distribution."""
        rounding = float(ml_dtypes.finfo(values.dtype).eps)  # type: ignore[no-untyped-call]
        return shape_tail(values, drawn, rounding) < self._false_alarms


def finding(
    weight: MeasuredWeight, condition: Condition, severity: str, numbers: str, cause: str
) -> AuditFinding:
    """A finding, with the remedy and the replacement for its weight."""
    return AuditFinding(
        weight.owned.variable.path,
        condition,
        severity,
        numbers,
        cause,
        remedy_of(weight, departed=cause == REPLACED),
        weight.factor,
        replacement(weight),
    )


def _chosen(weight: MeasuredWeight, numbers: str) -> AuditFinding:
    """A note on what somebody chose, which needs no remedy."""
    cause = f"{initializer_name(weight.initializer)} gives it so"
    condition = Condition.SCALE if weight.is_gamma or weight.is_bias else Condition.SYMMETRY
    path = weight.owned.variable.path
    return AuditFinding(path, condition, NOTE, numbers, cause, "none if it was meant so")


def _constant(weight: MeasuredWeight, behind: Set[str]) -> AuditFinding:
    value = float(weight.values.flat[0])
    numbers = f"all values are {value:.4g}"
    chosen = weight.initializer is not None and weight.drawn is None
    ends = LAST in behind or (behind and behind <= {SUM, END})
    # A matrix of another name may be a gate, or what is added to another.
    if chosen and value == 0 and (ends or not weight.owned.is_named_kernel):
        return _chosen(weight, numbers)
    cause = cause_of(weight, departed=not chosen)
    return finding(weight, Condition.SYMMETRY, ERROR, numbers, cause)


def _bias(weight: MeasuredWeight, behind: Set[str]) -> Iterator[AuditFinding]:
    largest = float(np.max(np.abs(weight.values), initial=0.0))
    if largest <= _LARGEST_BIAS:
        return
    numbers = f"values of up to {largest:.4g} beside a signal of deviation 1"
    if behind - {LAST} == {END} and _is_linear(weight.owned.layer) and weight.initializer:
        yield _chosen(weight, numbers)  # such as the mean of what is to be predicted
    else:
        cause = cause_of(weight, departed=_is_zeros(weight.initializer))
        yield finding(weight, Condition.SCALE, ERROR, numbers, cause)


def _gamma(weight: MeasuredWeight, _behind: Set[str]) -> Iterator[AuditFinding]:
    largest = float(np.max(np.abs(weight.values), initial=0.0))
    low, high = _GAMMAS
    if largest > high:
        numbers = f"values of up to {largest:.4g} where 1 is usual"
        cause = cause_of(weight, departed=not _is_constant(weight.initializer))
        yield finding(weight, Condition.SCALE, ERROR, numbers, cause)
    elif largest < low and weight.values.size:
        yield _chosen(weight, f"no value is above {largest:.4g}, where 1 is usual")


def _is_linear(layer: keras.Layer) -> bool:
    activation = getattr(layer, "activation", None)
    return activation is None or activation is keras.activations.linear


def _is_zeros(initializer: Any) -> bool:
    return isinstance(initializer, keras.initializers.Zeros)


def _is_constant(initializer: Any) -> bool:
    return isinstance(initializer, keras.initializers.Constant)


def _fair(weight: MeasuredWeight) -> tuple[float, float]:
    """What the variance times the fan may be without a word."""
    if weight.initializer is None:
        return 1.0, 2.0  # of LeCun and Glorot, and of He
    low, high = FAIR_SCALES
    if weight.scale is None:
        return _SMALLEST, high
    return min(1.0, max(weight.scale, low)), max(2.0, min(weight.scale, high))
