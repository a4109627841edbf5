"""Whether the weights of a model meet the conditions of a good start."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.audit_report import AuditReport, Condition, Finding, WeightAudit
from keras_fanwise.base import RandomInitializer
from keras_fanwise.counterparts import counterpart, portable
from keras_fanwise.evidence import (
    Evidence,
    correlation_deviations,
    evidence,
    limit,
    variance_deviation,
)
from keras_fanwise.fans import Fans
from keras_fanwise.fans_table import keras_fans
from keras_fanwise.given import given_initializers
from keras_fanwise.initializers import FanwiseVarianceScaling
from keras_fanwise.layer_fans import layer_fans
from keras_fanwise.private_keras import OwnedWeight, owned_weights
from keras_fanwise.scaling import standard_deviation

_REPLACED = "its values are not those that its initializer draws"
# In how many audits of well-started models there may be a finding.
FALSE_ALARMS = 0.001
# Of a weight: mean, signs, standard deviation, and that against either fan.
_TESTS = 5
# Correlations are tested on so many values at least, and so many units at most.
_FEWEST_VALUES, _MOST_UNITS = 30, 512
# Of each of two weights that are compared.
_COMPARED = 64
# Binary digits of a value that are random in a draw, less a few.
_DIGITS = {"float16": 8, "bfloat16": 5, "float32": 20, "float64": 48}


class _Asked(NamedTuple):
    """The distribution that a weight should come from.

    `scale` is the variance times the fan, `None` if the initializer knows no fans.
    """

    mean: float
    std: float
    scale: float | None


class _Measured(NamedTuple):
    """A weight with what is known of it."""

    owned: OwnedWeight
    values: np.ndarray
    fans: Fans
    given: Any
    asked: _Asked | None
    evidence: Evidence

    @property
    def is_random(self) -> bool:
        """Whether it should differ from value to value."""
        return self.asked is not None or self.owned.variable.name.endswith("kernel")


def audit(model: keras.Layer) -> AuditReport:
    """Checks whether the weights of a model meet the four conditions of a good start.

    - Symmetry is broken: no weight that should be random is constant, no two of its
      units are equal or correlated, and no two weights have equal values.
    - Balance: the mean is 0 within its standard error, and about as many values are
      positive as negative. (γ-noise: about its mean.)
    - Scale: the standard deviation is the one that the weight's initializer asks for with
      the fans of the layer.
    - Glorot's condition: with `scale` the initializer's, the variance lies between
      `scale / fan_in`, which keeps that of a signal, and `scale / fan_out`, which keeps
      that of gradients. For weights of unknown initializers from 1 to 2 is allowed for
      the scale.

    What a weight is compared with is the initializer that its layer was given, by name or
    by `initialize`. Constant weights of constant initializers (biases, γ, moving
    statistics) are not tested, but kernels are. Tolerances come from the sizes of the
    weights, such that of a thousand well-started models about one has a finding. A model
    that was trained is no longer at its start, and has findings.

    Args:
        model: a built model, or a built layer.

    Returns:
        An `AuditReport`: print it, or read its `rows` and `findings`.

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
        for owned, given in zip(weights, given_initializers(weights), strict=True)
        if "float" in keras.backend.standardize_dtype(owned.variable.dtype)
    ]
    findings: list[Finding] = []
    allowed = limit(FALSE_ALARMS / 2, _TESTS * len(measured))
    for weight in measured:
        findings += _of_weight(weight, allowed, len(measured))
    findings += _between_weights([weight for weight in measured if weight.is_random])
    order = {weight.owned.variable.path: i for i, weight in enumerate(measured)}
    findings.sort(key=lambda finding: order[finding.path])
    return AuditReport([_row(weight, findings) for weight in measured], findings)


def _measured(owned: OwnedWeight, given: Any) -> _Measured:
    variable = owned.variable
    values = keras.ops.convert_to_numpy(variable.value)
    fans = layer_fans(owned.layer, variable.name, tuple(variable.shape))
    asked = _asked(owned, given)
    mean, std = (asked.mean, asked.std) if asked else (0.0, 0.0)
    return _Measured(owned, values, fans, given, asked, evidence(values, mean, std))


def _asked(owned: OwnedWeight, given: Any) -> _Asked | None:
    ours = given
    if not isinstance(given, RandomInitializer):
        ours = counterpart(given) or portable(given)
    if ours is None:
        return None
    if isinstance(ours, FanwiseVarianceScaling) and ours is not given:
        # From Keras 3.15 on EinsumDense sets them, and counts its batch labels.
        ours.input_axes = ours.output_axes = None
    shape = tuple(owned.variable.shape)
    bound = ours._bound_to(owned.layer, owned.variable.name, shape)
    distribution, spread, mean = bound._parameters(shape)
    scale = ours.scale if isinstance(ours, FanwiseVarianceScaling) else None
    return _Asked(mean, standard_deviation(distribution, spread), scale)


def _row(weight: _Measured, findings: Sequence[Finding]) -> WeightAudit:
    path, found = weight.owned.variable.path, weight.evidence
    variance = found.std**2
    return WeightAudit(
        path=path,
        layer=type(weight.owned.layer).__name__,
        shape=tuple(weight.owned.variable.shape),
        fans=weight.fans,
        initializer=_name(weight.given),
        mean=found.mean,
        positive=found.positive,
        std_asked=weight.asked.std if weight.asked else None,
        std=found.std,
        forward=weight.fans.fan_in * variance,
        backward=weight.fans.fan_out * variance,
        findings=tuple(f.condition for f in findings if f.path == path),
    )


def _name(initializer: Any) -> str:
    if initializer is None:
        return ""
    return getattr(initializer, "__name__", type(initializer).__name__)


def _of_weight(weight: _Measured, allowed: float, weights: int) -> Iterator[Finding]:
    """What is wrong with a weight by itself, the gravest first and nothing after that."""
    if not np.all(np.isfinite(weight.values)):
        yield _finding(weight, Condition.SCALE, "values that are not finite", "overflow")
        return
    if not weight.is_random or weight.values.size < 2:
        return
    if weight.values.min() == weight.values.max():
        cause = _REPLACED if weight.asked else f"it was given {_name(weight.given)}"
        constant = f"all values are {float(weight.values.flat[0]):.4g}"
        yield _finding(weight, Condition.SYMMETRY, constant, cause)
        return
    equal = _equal_units(weight, FALSE_ALARMS / (2 * weights))
    if equal:
        yield _finding(weight, Condition.SYMMETRY, equal, _REPLACED)
    yield from _balance(weight, allowed)
    yield from _scale(weight, allowed)
    yield from _glorot(weight, allowed)


def _finding(
    weight: _Measured, condition: Condition, numbers: str, cause: str, remedy: str = ""
) -> Finding:
    path = weight.owned.variable.path
    return Finding(path, condition, numbers, cause, remedy or condition.remedy)


def _equal_units(weight: _Measured, false_alarms: float) -> str:
    """What two units, along any axis, have in common; `""` if nothing."""
    dtype = keras.backend.standardize_dtype(weight.owned.variable.dtype)
    for axis, count in enumerate(weight.values.shape):
        units = np.moveaxis(weight.values, axis, 0).reshape(count, -1)
        size = units.shape[1]
        pairs = count * (count - 1) / 2
        # By chance alone two short units of a coarse type are equal.
        if pairs and pairs * 2.0 ** (-_DIGITS[dtype] * size) < false_alarms:
            seen: dict[bytes, int] = {}
            for index, unit in enumerate(units):
                first = seen.setdefault(unit.tobytes(), index)
                if first != index:
                    return f"units {first} and {index} of axis {axis} are equal"
        if pairs and size >= _FEWEST_VALUES:
            # A few of many units, evenly spread, and of these the first values.
            chosen = np.linspace(0, count - 1, min(count, _MOST_UNITS)).astype(int)
            rows = units[chosen, : _MOST_UNITS * 8].astype(np.float64)
            deviations = np.abs(correlation_deviations(rows))
            one, two = np.unravel_index(np.argmax(deviations), deviations.shape)
            if deviations[one, two] > limit(false_alarms, int(pairs)):
                one, two = chosen[one], chosen[two]
                return f"units {one} and {two} of axis {axis} are correlated"
    return ""


def _balance(weight: _Measured, allowed: float) -> Iterator[Finding]:
    found = weight.evidence
    if max(abs(found.mean_deviation), abs(found.sign_deviation)) > allowed:
        mean = weight.asked.mean if weight.asked else 0.0
        deviations = f"{found.mean_deviation:+.1f} and {found.sign_deviation:+.1f}"
        numbers = (
            f"mean {found.mean:.3g} where {mean:g} is asked for, and {found.positive:.1%} "
            f"of the values above that: {deviations} standard errors"
        )
        yield _finding(weight, Condition.BALANCE, numbers, _REPLACED)


def _scale(weight: _Measured, allowed: float) -> Iterator[Finding]:
    found, asked = weight.evidence, weight.asked
    if asked and asked.std and abs(found.std_deviation) > allowed:
        ratio = found.std / asked.std
        numbers = f"std {found.std:.4g} where {asked.std:.4g} is asked for, × {ratio:.3g}"
        yield _finding(weight, Condition.SCALE, numbers, *_cause_of_scale(weight))


def _glorot(weight: _Measured, allowed: float) -> Iterator[Finding]:
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
    theirs = keras_fans(owned.layer, owned.variable.name, weight.values.shape)
    if given is None:
        return "its initializer is unknown", ""
    if counterpart(given) and theirs != weight.fans:
        counted = f"fan_in {theirs.fan_in:g} and fan_out {theirs.fan_out:g}"
        right = f"{weight.fans.fan_in:g} and {weight.fans.fan_out:g}"
        cause = f"{_name(given)} counts {counted} in place of {right}"
        return cause, Condition.GLOROT.remedy
    return _REPLACED, ""


def _between_weights(weights: Sequence[_Measured]) -> Iterator[Finding]:
    """Weights whose values are those of another, perhaps times a factor."""
    long = [weight for weight in weights if weight.values.size >= _COMPARED]
    if len(long) < 2:
        return
    rows = np.stack(
        [weight.values.reshape(-1)[:_COMPARED].astype(np.float64) for weight in long]
    )
    deviations = np.abs(correlation_deviations(rows))
    allowed = limit(FALSE_ALARMS / 2, len(long) * (len(long) - 1) // 2)
    for index, weight in enumerate(long):
        other = int(np.argmax(deviations[index, :index])) if index else 0
        if index and deviations[index, other] > allowed:
            path = long[other].owned.variable.path
            yield _finding(
                weight,
                Condition.SYMMETRY,
                f"its values are those of {path}",
                "one initializer and seed for several weights",
            )
