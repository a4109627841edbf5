"""What is likely to have led to a finding, and what to write in its place."""

import functools
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_fanwise.arguments import glob_matches, globs_of, snake_case
from keras_fanwise.diagnostics.measured import (
    COMPARED,
    FAIR_SCALES,
    MeasuredWeight,
    broken_isometry,
    equal_beginnings,
    equal_bits,
    equal_units,
    random_digits,
)
from keras_fanwise.diagnostics.statistics import limit, shape_tail, variance_deviation
from keras_fanwise.diagnostics.verdicts import own_gain
from keras_fanwise.fans.layers import keras_fans, known_matrices, layer_fans
from keras_fanwise.graph.branches import residual_branches
from keras_fanwise.graph.graph import END, NORMALIZATION, SUM, Graph, activation_of
from keras_fanwise.initializers.base import (
    DISTRIBUTIONS,
    Distribution,
    random_state_kept,
)
from keras_fanwise.initializers.counterparts import counterpart
from keras_fanwise.initializers.registration import CLASSES
from keras_fanwise.initializers.variance_scaling import (
    FanwiseVarianceScaling,
    effective_fan,
)
from keras_fanwise.reports.diagnosis import (
    ERROR,
    NOTE,
    AuditFinding,
    AuditReport,
    Condition,
    WeightAudit,
)
from keras_fanwise.reports.weights import FansTable, WeightFans
from keras_fanwise.seam.record import (
    initializer_attributes,
    initializer_name,
    weight_initializers,
)
from keras_fanwise.seam.weights import OwnedWeight, owned_weights, role

REPLACED = "its values are not those that its initializer draws"

_RECTIFIERS = ("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "swish", "mish")


_UNKNOWN = {
    "channels": "all channels as inputs of each",
    "groups": "all groups as one",
    "labels": "the labels that inputs and outputs share",
}


def miscounted(weight: MeasuredWeight) -> str:
    """What Keras's rule, by which its initializer counts, does not know of the layer."""
    matrices = known_matrices(weight.owned.layer, weight.name, weight.values.shape)
    strides = "no strides" if matrices and set(matrices.strides) - {1} else ""
    if matrices is None:
        what = "by the shape alone"
    elif matrices.is_lookup:
        what = "all rows, of which a token reads one"
    elif matrices.parts == "gates":
        kind = "kernel" if matrices.taps else "matrix"
        what = f"all gates as one {kind}{strides and f', and {strides}'}"
    elif matrices.is_transposed:
        what = f"inputs for outputs{strides and f', and {strides}'}"
    elif matrices.parts in _UNKNOWN and matrices.stack_shape[0] > 1:
        what = _UNKNOWN[matrices.parts]
    else:
        what = strides or "by the shape alone"
    return f"{initializer_name(weight.initializer)} counts {what}"


def counts(weight: MeasuredWeight) -> str:
    """Keras's fans and those of the layer."""
    theirs = keras_fans(weight.owned.layer, weight.name, weight.values.shape)
    own = f"{weight.fans.fan_in:g} and {weight.fans.fan_out:g}"
    return f"fans {theirs.fan_in:g} and {theirs.fan_out:g} in place of {own}"


def cause_of(weight: MeasuredWeight, departed: bool) -> str:
    """Why the deviation of a weight is what it is."""
    if weight.initializer is None:
        return "its initializer is unknown"
    if departed:
        return REPLACED
    if weight.miscount != 1.0:
        return miscounted(weight)
    return f"{initializer_name(weight.initializer)} gives it so"


def replacement(weight: MeasuredWeight) -> Any:
    """An initializer, by name if it has one, with which a weight starts well.

    Of the scale and distribution of its own, if that knows fans and its scale is fair.
    """
    if weight.is_bias:
        return "zeros"
    if weight.is_gamma:
        return "ones"
    ours = _own(weight)
    if ours is not None:
        name = snake_case(type(ours).__name__)
        if type(ours) is not FanwiseVarianceScaling and type(ours) in CLASSES:
            return name
        return FanwiseVarianceScaling(ours.scale, ours.mode, ours.distribution)
    rectified = activation_of(weight.owned.layer) in _RECTIFIERS
    return "fanwise_he_normal" if rectified else "fanwise_glorot_uniform"


def _own(weight: MeasuredWeight) -> FanwiseVarianceScaling | None:
    """What it was given, as this package's, if that knows fans and its scale is fair."""
    given = weight.initializer
    ours = given if isinstance(given, FanwiseVarianceScaling) else counterpart(given)
    return ours if weight.has_fair_scale else None


def _gain(weight: MeasuredWeight) -> str:
    """Where the scale is known from that an activation of the user's own needs."""
    if weight.is_bias or weight.is_gamma or _own(weight) is not None:
        return ""
    gain = own_gain(activation_of(weight.owned.layer))
    return (
        f"; the scale for its activation is {gain}, or calibrate(model, x)'s"
        if gain
        else ""
    )


def remedy_of(weight: MeasuredWeight, departed: bool) -> str:
    """What to write, in words: the argument of the layer and the initializer."""
    new = replacement(weight)
    shown = f'"{new}"' if isinstance(new, str) else repr(new)
    if departed:
        return f"draw it anew by {shown}, as initialize(model, report.remedies()) does"
    argument = _argument(weight)
    retrofit = ", or build inside retrofit()" if weight.miscount != 1.0 else ""
    return f"write {argument}={shown}{retrofit}{_gain(weight)}"


def _argument(weight: MeasuredWeight) -> str:
    """The argument of the layer, or of one that holds it, that holds the initializer."""
    owned = weight.owned
    stem = weight.name.rsplit("/", 1)[-1]
    names = [name.lstrip("_") for name in initializer_attributes(owned)]
    names = sorted(names, key=lambda name: not name.startswith(stem))
    for name in [*names, f"{stem}_initializer"]:
        for layer in reversed(owned.holders):
            if name in inspect.signature(type(layer).__init__).parameters:
                return name
    return "initializer"


# Of the variance times the fan, where LeCun's is 1 and He's 2.
_SMALLEST, _LARGEST = 0.1, 20.0
# Of a bias, beside signals of deviation 1, and of γ.
_LARGEST_BIAS, _GAMMAS = 10.0, (0.1, 10.0)
# Initializers that draw with other fans differ by more than rounding.
_MISCOUNT = 1e-3


class Conditions:
    """The tests of an audit.

    Args:
        graph: of the model.
        allowed: how many standard errors.
        false_alarms: of one weight, for tests that know probabilities.
    """

    def __init__(self, graph: Graph, allowed: float, false_alarms: float) -> None:
        self._graph = graph
        self._allowed = allowed
        self._false_alarms = false_alarms

    def of(self, weight: MeasuredWeight) -> Iterator[AuditFinding]:
        """What is wrong with a weight."""
        values = weight.values
        if not np.all(np.isfinite(values)):
            numbers = "values that are not finite"
            yield finding(weight, Condition.SCALE, ERROR, numbers, "overflow")
        elif weight.is_bias or weight.is_gamma:
            found = list(_gamma(weight) if weight.is_gamma else self._bias(weight))
            yield from found or self._initializer(weight)
        elif values.size < 2 or not (
            weight.is_random or weight.is_kernel or weight.is_lookup
        ):
            return
        elif values.min() == values.max():
            yield self._constant(weight)
        elif not weight.is_fixed:
            yield from self._of_values(weight)

    def _of_values(self, weight: MeasuredWeight) -> Iterator[AuditFinding]:
        if weight.is_random:
            equal = equal_units(weight, self._false_alarms)
            if equal:
                kind = "equal" if equal.correlation == 1 else "correlated"
                numbers = f"units {equal.first} and {equal.second} of axis {equal.axis}"
                numbers = f"{numbers} are {kind}"
                yield finding(weight, Condition.SYMMETRY, ERROR, numbers, REPLACED)
        balance = list(self._balance(weight))
        scale = list(self._scale(weight))
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

    def _scale(self, weight: MeasuredWeight) -> Iterator[AuditFinding]:
        departed = self._departed(weight)
        miscounted = not departed and abs(math.log(weight.miscount)) > _MISCOUNT
        if not weight.is_kernel and len(weight.values.shape) < 2:
            return
        if self._outside(weight, 0.0, _LARGEST) or self._vanishes(weight):
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

    def _vanishes(self, weight: MeasuredWeight) -> bool:
        """Whether a kernel is too small for what comes after it."""
        if not weight.is_kernel or not self._outside(weight, _SMALLEST, _LARGEST):
            return False
        variable = weight.owned.variable
        if id(variable) in self._in_branches:
            return False
        return not self._graph.after(variable) <= {NORMALIZATION, SUM, END}

    @functools.cached_property
    def _in_branches(self) -> set[int]:
        """The kernels of residual branches, where small is a choice."""
        branches = residual_branches(self._graph)
        return {id(kernel) for branch in branches for kernel in branch.kernels}

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
        if broken and broken.outside:
            numbers = f"{broken.outside} values beside the central taps, where 0 is drawn"
        elif broken:
            span = f"from {broken.smallest:.3g} to {broken.largest:.3g}"
            numbers = f"singular values {span} where {broken.gain:g} is drawn"
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

    def _constant(self, weight: MeasuredWeight) -> AuditFinding:
        value = float(weight.values.flat[0])
        numbers = f"all values are {value:.4g}"
        chosen = weight.initializer is not None and weight.drawn is None
        # A matrix of another name may be a gate, or what is added to another.
        is_end = self._graph.after(weight.owned.variable) <= {SUM, END}
        may_be_0 = is_end or not weight.name.endswith("kernel")
        if chosen and value == 0 and may_be_0:
            return _chosen(weight, numbers)
        cause = cause_of(weight, departed=not chosen)
        return finding(weight, Condition.SYMMETRY, ERROR, numbers, cause)

    def _bias(self, weight: MeasuredWeight) -> Iterator[AuditFinding]:
        largest = float(np.max(np.abs(weight.values), initial=0.0))
        if largest <= _LARGEST_BIAS:
            return
        numbers = f"values of up to {largest:.4g} beside a signal of deviation 1"
        is_output = self._graph.after(weight.owned.variable) == {END}
        if is_output and _is_linear(weight.owned.layer) and weight.initializer:
            yield _chosen(weight, numbers)  # such as the mean of what is to be predicted
        else:
            cause = cause_of(weight, departed=_is_zeros(weight.initializer))
            yield finding(weight, Condition.SCALE, ERROR, numbers, cause)


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


def _gamma(weight: MeasuredWeight) -> Iterator[AuditFinding]:
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


# The share of audits of well-started models that may have a finding.
FALSE_ALARMS = 0.001
# Divided equally: single numbers of weights, equal units, correlated units, shapes of
# distributions, weights with equal beginnings, short weights that are equal.
_SHARE = FALSE_ALARMS / 6
# Of a weight: mean and signs, about 0 and about what is drawn, standard deviation, and
# that against either end of two ranges.
_TESTS = 9


@random_state_kept()
def audit(model: keras.Layer, *, ignore: str | Sequence[str] | None = None) -> AuditReport:
    """Checks whether the weights of a model meet the four conditions of a good start.

    - Symmetry is broken: no kernel is constant, no two of its units are equal or
      correlated, and no two weights begin with equal values, also if one is transposed
      or multiplied by a factor.
    - Balance: the mean of a kernel is 0 within its standard error, and about as many
      values are positive as negative.
    - Scale: weights are neither too small nor too large: of a kernel `fan_in * Var(w)` and
      `fan_out * Var(w)` are not both below 1/10 or above 20; biases are up to 10, and γ
      from 1/10 to 10.
    - Glorot's condition: the variance lies between `scale / fan_in`, which keeps that of a
      signal, and `scale / fan_out`, which keeps that of gradients, for a scale from 1 to 2,
      or the initializer's own if that is from 1/4 to 4; if that is not, neither
      `fan_in * Var(w)` nor `fan_out * Var(w)` is above 20; and it is drawn with the fans
      of the layer.

    A kernel is what is called so, and of layers of one's own also a matrix with as many
    rows as the layer was built for input units; zeros of such a one are a note.

    These hold whatever an initializer was asked for. A fifth finding, "initializer", is
    that a weight is not what its own initializer draws: by its mean, its deviation or the
    shape of its distribution. A model that was trained is no longer at its start, and may
    have findings of any kind: they are no reason to draw it anew.

    Errors are findings with which the network will not start well. Notes are those with
    which it may: Keras counts other fans, by a factor that does not hurt or is undone by a
    normalization directly behind; zeros that somebody chose, for the last layer of a
    branch or of the model. Tolerances come from the sizes of the weights, such that of a
    thousand well-started models about one has a finding.

    Args:
        model: a built model, or a built layer.
        ignore: a glob on the paths of weights whose findings are known and accepted, or a
            list of them, such as `"head/*"`; see `Rule`. They are counted as ignored.

    Returns:
        An `AuditReport` of every weight of a float type that has values: print it, or
        read its `errors`, `notes` and `rows`.

    Raises:
        TypeError: `model` is not a Keras model or layer, or `ignore` no glob.
        ValueError: `model` has no weights yet, or a glob meets no weight.

    Reference: Glorot and Bengio 2010, <https://proceedings.mlr.press/v9/glorot10a.html>,
    equations 10 to 12.

    Example:

    >>> import keras
    >>> layer = keras.layers.DepthwiseConv2D(3, depthwise_initializer="he_normal")
    >>> layer.build((None, 8, 8, 256))
    >>> [(finding.condition.label, finding.replacement) for finding in audit(layer).errors]
    [('scale', 'fanwise_he_normal')]
    """
    weights = owned_weights(model)
    paths = [owned.variable.path for owned in weights]
    globs = [] if ignore is None else globs_of("ignore", ignore, paths)
    measured = [
        MeasuredWeight.of(owned, initializer)
        for owned, initializer in zip(weights, weight_initializers(weights), strict=True)
        if "float" in keras.backend.standardize_dtype(owned.variable.dtype)
        and math.prod(owned.variable.shape)
    ]
    count = len(measured)
    allowed = limit(_SHARE, _TESTS * count)
    conditions = Conditions(Graph(model), allowed, _SHARE / max(1, count))
    findings = [list(conditions.of(weight)) for weight in measured]
    for index, copy in _between_weights(measured):
        findings[index].append(copy)
    rows, heeded, ignored = [], [], []
    for weight, own in zip(measured, findings, strict=True):
        if any(glob_matches(glob, weight.owned.variable.path) for glob in globs):
            ignored += own
            own = []
        heeded += own
        rows.append(_row(weight, own))
    return AuditReport(rows, heeded, ignored, name=model.name)


def _row(weight: MeasuredWeight, findings: Sequence[AuditFinding]) -> WeightAudit:
    found = weight.evidence
    variance = found.std**2
    known = weight.initializer is not None
    return WeightAudit(
        path=weight.owned.variable.path,
        layer=type(weight.owned.layer).__name__,
        shape=tuple(weight.owned.variable.shape),
        fans=weight.fans,
        initializer=initializer_name(weight.initializer) if known else "",
        mean=found.mean,
        positive=found.positive,
        std_asked=weight.asked.std if weight.asked else None,
        std=found.std,
        forward=weight.fans.fan_in * variance,
        backward=weight.fans.fan_out * variance,
        findings=tuple(finding.condition for finding in findings),
        role=weight.role,
    )


def _between_weights(
    weights: Sequence[MeasuredWeight],
) -> Iterator[tuple[int, AuditFinding]]:
    """Weights whose values are those of an earlier one, perhaps times a factor."""
    random = [
        index
        for index, weight in enumerate(weights)
        if weight.is_random and math.isfinite(weight.evidence.std)
    ]
    long = [index for index in random if weights[index].support.size >= COMPARED]
    values = [weights[index].support for index in long]
    copies = equal_beginnings(values, _SHARE)
    found = {long[place]: long[earlier] for place, earlier in copies.items()}
    short = [
        index
        for index in sorted({*random} - {*long})
        if weights[index].is_kernel
        and weights[index].is_dense
        and weights[index].drawn
        and weights[index].evidence.std
    ]
    values = [weights[index].values for index in short]
    digits = [random_digits(weights[index]) for index in short]
    copies = equal_bits(values, digits, _SHARE)
    found |= {short[place]: short[earlier] for place, earlier in copies.items()}
    for place, earlier in sorted(found.items()):
        weight = weights[place]
        numbers = f"its values are those of {weights[earlier].owned.variable.path}"
        cause = "one initializer and seed for several weights"
        copy = finding(weight, Condition.SYMMETRY, ERROR, numbers, cause)
        anew = remedy_of(weight, departed=True)
        remedy = f"give each an initializer or a seed of its own, or {anew}"
        yield place, copy._replace(remedy=remedy)


@random_state_kept()
def fans_table(model: keras.Layer) -> FansTable:
    """The fans of every weight of a model, ours and Keras's.

    Args:
        model: a built model, or a built layer.

    Returns:
        A `FansTable`: print it, or read its `rows`.

    Raises:
        TypeError: `model` is not a Keras model or layer.
        ValueError: `model` has no weights yet.

    Example: in a depthwise kernel each output sees one channel, where Keras counts all.

    >>> import keras
    >>> layer = keras.layers.DepthwiseConv2D(3, use_bias=False)
    >>> layer.build((None, 8, 8, 64))
    >>> [row] = fans_table(layer).rows
    >>> row.fans, row.keras_fans, round(row.fan_in_ratio, 6)
    (Fans(fan_in=9, fan_out=9), Fans(fan_in=576, fan_out=9), 8.0)
    """
    rows = [_fans_row(owned) for owned in owned_weights(model)]
    return FansTable(rows, name=model.name)


def _fans_row(owned: OwnedWeight) -> WeightFans:
    layer, weight = owned.layer, owned.variable
    shape = tuple(weight.shape)
    ours = layer_fans(layer, weight.name, shape)
    theirs = keras_fans(layer, weight.name, shape)
    in_ratio, avg_ratio = (
        math.sqrt(effective_fan(theirs, mode) / effective_fan(ours, mode))
        for mode in ("fan_in", "fan_avg")
    )
    name = type(layer).__name__
    ratios = in_ratio, avg_ratio
    return WeightFans(weight.path, name, shape, ours, theirs, *ratios, role(owned))
