"""What is wrong with the weights of a model, what has led to it, and what to write."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import glob_matches, globs_of, snake_case
from keras_fanwise.diagnostics.measured import (
    COMPARED,
    FAIR_SCALES,
    FALSE_ALARMS,
    MeasuredWeight,
    broken_isometry,
    equal_beginnings,
    equal_bits,
    equal_units,
    is_fixed,
    limit,
    shape_tail,
    stays_zero,
    variance_deviation,
    zero_by_choice,
)
from keras_fanwise.diagnostics.paths import Paths, Total
from keras_fanwise.diagnostics.verdicts import flat_remedy
from keras_fanwise.fans.layers import keras_fans, layer_fans
from keras_fanwise.graph.graph import END, NORMALIZATION, Graph, activation_of
from keras_fanwise.initializers.activations import fitting, own_gain, rule_for
from keras_fanwise.initializers.base import DISTRIBUTIONS, random_state_kept
from keras_fanwise.initializers.counterparts import CLASSES, counterpart
from keras_fanwise.initializers.variance_scaling import (
    FanwiseSiren,
    FanwiseVarianceScaling,
    effective_fan,
)
from keras_fanwise.reports.report import ERROR, NOTE, WARNING
from keras_fanwise.reports.weights import (
    AuditFinding,
    AuditReport,
    Condition,
    FansTable,
    WeightAudit,
    WeightFans,
)
from keras_fanwise.seam.record import (
    initializer_argument,
    initializer_name,
    weight_initializers,
)
from keras_fanwise.seam.weights import Role, owned_weights, role

# Of all false alarms an equal share for each of: single numbers of weights, equal units,
# correlated units, shapes of distributions, weights with equal beginnings, short weights
# that are equal.
_SHARE = FALSE_ALARMS / 6
# Of a weight: mean and signs, about 0 and about what is drawn, standard deviation, and
# that against either end of two ranges.
_TESTS = 9


def audit(model: keras.Layer, *, ignore: str | Sequence[str] | None = None) -> AuditReport:
    """Checks whether the weights of a model meet the four conditions of a good start.

    It speaks of weights alone; what becomes of a signal is measured by `signal`.

    - Symmetry is broken: no kernel is constant, no two of its units are equal or
      correlated, and no two weights begin with equal values, also if one is transposed
      or multiplied by a factor.
    - Balance: the mean of a kernel is 0 within its standard error, and about as many
      values are positive as negative.
    - Scale: of a kernel `fan_in * Var(w)` and `fan_out * Var(w)` are not both below 1/10
      or above 20; biases are up to 10, and γ from 1/10 to 10.
    - Glorot's condition: the variance lies between `scale / fan_in`, which keeps the
      variance of a signal, and `scale / fan_out`, which keeps that of gradients, for a
      scale from 1 to 2, or the initializer's own if that is from 1/4 to 4; if that is not,
      neither product is above 20; and the fans that it is drawn with are the layer's.

    A kernel is a weight of that name, and in layers of your own also a matrix with as many
    rows as the layer has input units, or a stack of such matrices; zeros in these are a
    note. A fifth finding, "initializer", is that a weight is not what its own initializer
    draws: by its mean, its deviation or the shape of its distribution.

    With errors the network will not train as it is, with warnings slowly, or at few
    learning rates; notes do no harm. A scale weighs by what the kernels of one path do
    together, with the activations between them (E[φ²] of a signal and E[φ'²] of gradients),
    between normalizations, ends, and functions whose gain is not known: an error if
    gradients become less than 1/10,000 or more than 300 times as large, a warning if they
    or the signal are beyond 1/100 and 100, or if one kernel multiplies a variance by more
    than 20. What a normalization undoes, what is small in a residual branch, zeros that
    were chosen for the end of a branch or of the model and learn (not before a ReLU), and
    fans of Keras's that differ and do no harm, are notes. In a trained model, whose kernels
    and biases mostly are not what their initializers draw, every finding about finite
    values is a note.

    Tolerances come from the sizes of the weights: of a thousand well-started models about
    one has a finding.

    Args:
        model: a built model, or a built layer.
        ignore: a glob on the paths of weights whose findings are known and accepted, or a
            list of them, such as `"head/*"`; see `Rule`. They are counted as ignored.

    Returns:
        An `AuditReport` of every weight of a float type that has values.

    Raises:
        TypeError: `model` is not a Keras model or layer, or `ignore` no glob.
        ValueError: `model` has no weights yet, or a glob meets no weight.

    Reference: Glorot and Bengio 2010, <https://proceedings.mlr.press/v9/glorot10a.html>,
    equations 10 to 12; of signals through an activation, Schoenholz et al. 2017,
    <https://arxiv.org/abs/1611.01232>.

    Example:

    >>> import keras
    >>> layer = keras.layers.DepthwiseConv2D(3, depthwise_initializer="he_normal")
    >>> layer.build((None, 8, 8, 256))
    >>> [(found.condition.label, found.replacement) for found in audit(layer).findings]
    [('scale', 'fanwise_he_normal')]
    """
    return audit_of(Graph(model), ignore)


@random_state_kept()
def audit_of(
    graph: Graph,
    ignore: str | Sequence[str] | None = None,
    drawn: Mapping[int, Any] | None = None,
) -> AuditReport:
    """`audit` of a model whose wiring is known, and what weights were drawn by, by id."""
    weights = owned_weights(graph.model)
    every = [owned.variable.path for owned in weights]
    globs = [] if ignore is None else globs_of("ignore", ignore, every)
    measured = [
        MeasuredWeight(owned, (drawn or {}).get(id(owned.variable), initializer), graph)
        for owned, initializer in zip(weights, weight_initializers(weights), strict=True)
        if "float" in keras.backend.standardize_dtype(owned.variable.dtype)
        and math.prod(owned.variable.shape)
    ]
    conditions = _Conditions(graph, measured)
    departures = [conditions.departure(weight) for weight in measured]
    findings = [
        conditions.of(weight, departure)
        for weight, departure in zip(measured, departures, strict=True)
    ]
    for index, finding in (*_copies(measured), *conditions.of_paths(measured, findings)):
        findings[index].append(finding)
    is_trained = _looks_trained(measured, departures)
    rows: list[WeightAudit] = []
    heeded: list[AuditFinding] = []
    ignored: list[AuditFinding] = []
    for weight, own in zip(measured, findings, strict=True):
        if is_trained and math.isfinite(weight.evidence.std):
            own = [one._replace(severity=NOTE) for one in own]
        is_ignored = any(glob_matches(glob, weight.path) for glob in globs)
        (ignored if is_ignored else heeded).extend(own)
        rows.append(_row(weight, [] if is_ignored else own))
    return AuditReport(
        rows, findings=heeded, ignored=ignored, is_trained=is_trained, name=graph.model.name
    )


def _row(weight: MeasuredWeight, findings: Sequence[AuditFinding]) -> WeightAudit:
    found, (forward, backward) = weight.evidence, weight.products
    known = weight.initializer is not None
    return WeightAudit(
        path=weight.path,
        layer=type(weight.owned.layer).__name__,
        shape=tuple(weight.owned.variable.shape),
        fans=weight.site.fans,
        initializer=initializer_name(weight.initializer) if known else "",
        mean=found.mean,
        positive=found.positive,
        std_asked=weight.asked.std if weight.asked else None,
        std=found.std,
        forward=forward,
        backward=backward,
        findings=tuple(finding.condition for finding in findings),
        role=weight.role,
    )


def _copies(weights: Sequence[MeasuredWeight]) -> Iterator[tuple[int, AuditFinding]]:
    """Weights that repeat the values of an earlier one, perhaps times a factor."""
    long, short = [], []
    for index, weight in enumerate(weights):
        if not weight.is_random or not math.isfinite(weight.evidence.std):
            continue
        if weight.support.size >= COMPARED:
            long.append(index)
        is_drawn = weight.is_kernel and weight.is_dense and weight.drawn
        if is_drawn and weight.evidence.std and weight.values.size < COMPARED:
            short.append(index)
    equal = equal_beginnings([weights[index].support for index in long], _SHARE)
    found = {long[place]: long[earlier] for place, earlier in equal.items()}
    digits = [weights[index].random_digits for index in short]
    equal = equal_bits([weights[index].values for index in short], digits, _SHARE)
    found |= {short[place]: short[earlier] for place, earlier in equal.items()}
    for place, earlier in sorted(found.items()):
        numbers = f"it has the values of {weights[earlier].path}"
        cause = "one initializer and seed for several weights"
        copy = _finding(weights[place], Condition.SYMMETRY, ERROR, numbers, cause)
        _, again = _remedy(weights[place], is_replaced=True)
        remedy = f"give each its own initializer or seed, or {again}"
        yield place, copy._replace(remedy=remedy)


def _looks_trained(
    weights: Sequence[MeasuredWeight], departures: Sequence[AuditFinding | None]
) -> bool:
    """Whether most kernels, and most constant vectors, are no longer at their start."""
    kernels = [
        departure is not None
        for weight, departure in zip(weights, departures, strict=True)
        if weight.is_kernel and math.isfinite(weight.evidence.std) and weight.drawn
    ]
    vectors = [
        bool(weight.values.min() != weight.values.max())
        for weight in weights
        if weight.role in (Role.BIAS, Role.SCALE)
        and weight.values.size > 1
        and isinstance(weight.initializer, _CONSTANT)
    ]
    return sum(kernels) > len(kernels) / 2 and sum(vectors) >= len(vectors) / 2


# Of the variance times the fan, where LeCun's is 1 and He's 2.
_SMALLEST, _LARGEST = 0.1, 20.0
# Of a bias, beside signals of deviation 1, and of γ.
_LARGEST_BIAS, _GAMMAS = 10.0, (0.1, 10.0)
# Initializers that draw with other fans differ by more than rounding.
_MISCOUNT = 1e-3


class _Conditions:
    """The tests of an audit of some weights."""

    def __init__(self, graph: Graph, weights: Sequence[MeasuredWeight]) -> None:
        self._graph = graph
        self._allowed = limit(_SHARE, _TESTS * len(weights))  # standard errors
        self._false_alarms = _SHARE / max(1, len(weights))
        # What an identity makes of a signal its variance does not tell.
        factors = {
            id(weight.owned.variable): weight.products
            for weight in weights
            if weight.role.is_matrix
            and 0 < weight.evidence.std < math.inf
            and not is_fixed(weight.initializer)
        }
        self._paths = Paths(graph, factors)
        kernels = [weight for weight in weights if weight.is_kernel]
        # Where all are 0 nobody has chosen one, such as the last, to begin so.
        self._all_zero = len(kernels) > 1 and not any(np.any(one.values) for one in kernels)

    def of(
        self, weight: MeasuredWeight, departure: AuditFinding | None
    ) -> list[AuditFinding]:
        """What is wrong with a weight, of which it is known whether it was drawn so."""
        values = weight.values
        found: list[AuditFinding | None] = []
        if not np.all(np.isfinite(values)):
            numbers = "values that are not finite"
            found = [_finding(weight, Condition.SCALE, ERROR, numbers, "overflow")]
        elif weight.role is Role.BIAS or weight.is_gamma:
            found = [self._vector(weight) or departure]
        elif values.size < 2 or not (
            weight.is_random or weight.role in (Role.KERNEL, Role.LOOKUP)
        ):
            pass
        elif values.min() == values.max():
            found = [self._constant(weight)]
        elif not is_fixed(weight.initializer):
            found = [self._balance(weight), self._scale(weight)]
            # Of another mean or scale the shape is another, too.
            if not any(one and one.condition is not Condition.GLOROT for one in found):
                found.append(departure)
            found.insert(0, self._equal_units(weight))
        return [one for one in found if one]

    def _equal_units(self, weight: MeasuredWeight) -> AuditFinding | None:
        if not weight.is_random and not weight.is_kernel:
            return None
        equal = equal_units(weight, self._false_alarms)
        # An initializer of one's own may correlate what it draws.
        if equal is None or (not weight.is_random and equal.correlation != 1):
            return None
        kind = "equal" if equal.correlation == 1 else "correlated"
        numbers = f"units {equal.first} and {equal.second} of axis {equal.axis} are {kind}"
        severity, cause = ERROR, _REPLACED
        if not weight.is_random:
            cause = _drawn(weight)
            # Of a convolution they may be the phases of a sub-pixel one, meant to be equal.
            severity = NOTE if weight.matrices and weight.matrices.taps else ERROR
        return _finding(weight, Condition.SYMMETRY, severity, numbers, cause)

    def _balance(self, weight: MeasuredWeight) -> AuditFinding | None:
        found, drawn = weight.evidence, weight.drawn
        root = math.sqrt(weight.values.size)
        largest = max(found.std, drawn.std if drawn else 0.0)
        mean, signs = found.mean / largest * root, (2 * found.positive - 1) * root
        if max(abs(mean), abs(signs)) <= self._allowed:
            return None
        fan_in, fan_out = weight.positive_fans
        outgrows = abs(found.mean) * (fan_in * fan_out) ** 0.25 > found.std
        outgrows = outgrows and abs(mean) > self._allowed
        is_symmetric = drawn is None or not drawn.mean
        if weight.is_kernel and outgrows:
            severity = ERROR
        elif (weight.is_random and is_symmetric) or (
            weight.role is Role.LOOKUP and outgrows
        ):
            severity = NOTE
        else:
            return None  # as it was asked for, and of no harm
        numbers = (
            f"mean {found.mean:.3g} where std is {found.std:.3g}, {found.positive:.1%} "
            f"positive: {mean:+.1f} and {signs:+.1f} standard errors"
        )
        is_replaced = drawn is not None and (is_symmetric or self._departed(weight))
        cause = _cause(weight, is_replaced)
        return _finding(weight, Condition.BALANCE, severity, numbers, cause)

    def _scale(self, weight: MeasuredWeight) -> AuditFinding | None:
        departed = self._departed(weight)
        if not weight.is_kernel and weight.values.ndim < 2:
            return None
        if isinstance(weight.initializer, FanwiseSiren) and not departed:
            return None  # its sine multiplies by omega
        is_miscounted = not departed and abs(math.log(weight.miscount)) > _MISCOUNT
        cause = _cause(weight, departed)
        is_large = self._outside(weight, 0.0, _LARGEST)
        if is_large or (weight.is_kernel and self._outside(weight, _SMALLEST, _LARGEST)):
            kernel, condition = weight.owned.variable, Condition.SCALE
            after, paths = self._graph.after(kernel), self._paths
            is_undone = after == {NORMALIZATION} or paths.is_undone(kernel)
            severity = paths.level(kernel, explodes=is_large) or NOTE
            if severity == NOTE and is_undone:
                cause += _UNDONE if is_large else f"{_UNDONE}, but {_TURNS}"
            # Of a recurrent kernel, or in what could not be opened, the use is not known.
            elif is_large and severity == NOTE and paths.largest_step(kernel) > _LARGEST:
                severity = WARNING
            if severity != NOTE and (total := paths.worst(is_large)):
                cause += f"; with others of its path it makes {_total_text(total)}"
        elif (
            is_miscounted
            or (weight.is_kernel and self._outside(weight, *_fair(weight)))
            or self._explodes(weight, departed)
        ):
            condition, severity = Condition.GLOROT, NOTE
        else:
            return None
        fans, numbers = weight.site.fans, _scale_text(weight)
        if is_miscounted:
            theirs = keras_fans(weight.owned.layer, weight.site.name, weight.site.shape)
            numbers += f"; fans {theirs.fan_in:g} and {theirs.fan_out:g} in place of "
            numbers += f"{fans.fan_in:g} and {fans.fan_out:g}"
        return _finding(weight, condition, severity, numbers, cause)

    def of_paths(
        self, weights: Sequence[MeasuredWeight], findings: Sequence[Sequence[AuditFinding]]
    ) -> Iterator[tuple[int, AuditFinding]]:
        """What the kernels of a path do together that none of them does alone."""
        places = {id(weight.owned.variable): i for i, weight in enumerate(weights)}
        for explodes in (False, True):
            total = self._paths.worst(explodes)
            if total is None:
                continue
            on_path = [places[id(kernel)] for kernel in total.kernels]
            if any(
                finding.condition is Condition.SCALE and finding.severity != NOTE
                for place in on_path
                for finding in findings[place]
            ):
                continue
            cause = f"{_total_text(total)} over {len(on_path)} kernels, from "
            cause += f"{weights[on_path[-1]].path} to {weights[on_path[0]].path}, of which "
            cause += "none is far off by itself"
            for place in on_path:
                weight = weights[place]
                found = (
                    weight.path,
                    Condition.SCALE,
                    total.level,
                    _scale_text(weight),
                    cause,
                )
                new, remedy = _by_activation(weight)
                yield place, AuditFinding(*found, remedy, weight.factor, new)

    def _departed(self, weight: MeasuredWeight) -> bool:
        """Whether the deviation is not the one that the initializer draws with."""
        return abs(weight.evidence.std_deviation) > self._allowed

    def _explodes(self, weight: MeasuredWeight, departed: bool) -> bool:
        """Whether a signal does, or gradients, though not both."""
        # Of an initializer of a fair scale one may: He's keeps the signal, and gradients
        # grow where a layer has more outputs than inputs. Without one only signals tell.
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

    def departure(self, weight: MeasuredWeight) -> AuditFinding | None:
        """That a weight is not what its initializer draws."""
        drawn, found = weight.drawn, weight.evidence
        if drawn is None or not drawn.std or weight.values.size < 2:
            return None
        if not math.isfinite(found.std):
            return None
        ratio = found.std / drawn.std
        if broken := broken_isometry(weight):
            numbers = broken
        elif self._departed(weight):
            numbers = f"std {found.std:.4g} where {drawn.std:.4g} is drawn, × {ratio:.3g}"
        elif (
            abs(found.mean_deviation) > self._allowed
            # Other families need not be symmetric, such as the biases of chrono.
            or (weight.is_dense and abs(found.sign_deviation) > self._allowed)
        ):
            numbers = f"mean {found.mean:.3g} where {drawn.mean:g} is drawn"
        elif (
            drawn.family in DISTRIBUTIONS
            and shape_tail(weight.values, drawn, weight.rounding) < self._false_alarms
        ):
            family = drawn.family.replace("_", " ")
            numbers = f"the values are not distributed as a {family} with their deviation"
        else:
            return None
        kind = Condition.INITIALIZER
        return AuditFinding(weight.path, kind, NOTE, numbers, _REPLACED, kind.remedy, ratio)

    def _constant(self, weight: MeasuredWeight) -> AuditFinding:
        value = float(weight.values.flat[0])
        numbers = f"all values are {value:.4g}"
        if value == 0 and stays_zero(self._graph, weight.owned.variable):
            numbers += _LEARNS_NOTHING
        is_own = weight.initializer is not None and weight.drawn is None
        if is_own and value == 0 and not self._all_zero and self._may_be_zero(weight):
            return _chosen(weight, numbers)
        cause = _cause(weight, is_replaced=not is_own)
        return _finding(weight, Condition.SYMMETRY, ERROR, numbers, cause)

    def _may_be_zero(self, weight: MeasuredWeight) -> bool:
        kernel, graph = weight.owned.variable, self._graph
        # A matrix of another name may be a gate, or what is added to another.
        if not weight.site.name.endswith("kernel"):
            return True
        if not graph.calls_of(kernel):
            return isinstance(graph.model, keras.Model)
        return bool(zero_by_choice(graph, kernel))

    def _vector(self, weight: MeasuredWeight) -> AuditFinding | None:
        """That a bias or a γ is far from its usual size, beside signals of deviation 1."""
        kernel, given = weight.owned.variable, weight.initializer
        largest = float(np.max(np.abs(weight.values)))
        low, high = _GAMMAS if weight.is_gamma else (0.0, _LARGEST_BIAS)
        if largest == 0 < low and stays_zero(self._graph, kernel):
            numbers = f"all values are 0{_LEARNS_NOTHING}"
            is_replaced = isinstance(given, keras.initializers.Ones)
        elif largest < low:
            return _chosen(weight, f"no value is above {largest:.4g}, where 1 is usual")
        elif largest <= high:
            return None
        elif weight.is_gamma:
            numbers = f"values of up to {largest:.4g} where 1 is usual"
            is_replaced = not isinstance(given, keras.initializers.Constant)
        else:
            numbers = f"values of up to {largest:.4g} beside a signal of deviation 1"
            is_replaced = isinstance(given, keras.initializers.Zeros)
            is_output = self._graph.after(kernel) == {END}
            if is_output and not activation_of(weight.owned.layer) and given:
                return _chosen(weight, numbers)  # such as the mean of what is predicted
        cause = _cause(weight, is_replaced)
        return _finding(weight, Condition.SCALE, ERROR, numbers, cause)


def _scale_text(weight: MeasuredWeight) -> str:
    forward, backward = weight.products
    numbers = f"variance × {forward:.3g} forward, × {backward:.3g} backward"
    return numbers if weight.factor is None else f"std × {weight.factor:.3g}, {numbers}"


def _total_text(total: Total) -> str:
    what = "the signal" if total.direction == "forward" else "gradients"
    return f"{what} × {total.total:.2g}"


def _fair(weight: MeasuredWeight) -> tuple[float, float]:
    """What the variance times the fan may be without a word."""
    low, high = FAIR_SCALES
    if weight.initializer is None:
        return 1.0, 2.0  # of LeCun and Glorot, and of He
    if weight.scale is None:
        return _SMALLEST, high
    return min(1.0, max(weight.scale, low)), max(2.0, min(weight.scale, high))


_CONSTANT = keras.initializers.Constant, keras.initializers.Ones, keras.initializers.Zeros
_REPLACED = "its values are not those that its initializer draws"
_LEARNS_NOTHING = ", from which nothing learns before its activation"
_UNDONE = "; a normalization undoes it"
_TURNS = "it changes quickly: Adam at 0.001 moves a weight of 0.02 by 5% a step"


def _finding(
    weight: MeasuredWeight, condition: Condition, severity: str, numbers: str, cause: str
) -> AuditFinding:
    new, remedy = _remedy(weight, is_replaced=cause.startswith(_REPLACED))
    found = weight.path, condition, severity, numbers, cause
    return AuditFinding(*found, remedy, weight.factor, new)


def _chosen(weight: MeasuredWeight, numbers: str) -> AuditFinding:
    """A note on what somebody chose, which needs no remedy."""
    is_scale = weight.is_gamma or weight.role is Role.BIAS
    condition = Condition.SCALE if is_scale else Condition.SYMMETRY
    remedy = "none if it is intended"
    return AuditFinding(weight.path, condition, NOTE, numbers, _drawn(weight), remedy)


def _drawn(weight: MeasuredWeight) -> str:
    return f"this is what {initializer_name(weight.initializer)} draws"


def _cause(weight: MeasuredWeight, is_replaced: bool) -> str:
    if weight.initializer is None:
        return "its initializer is unknown"
    if is_replaced:
        return _REPLACED
    if weight.miscount == 1.0:
        return _drawn(weight)
    return f"{initializer_name(weight.initializer)} counts {_miscounted(weight)}"


# What Keras's rule counts, by which its initializers draw, of a stack of matrices.
_COUNTED = {
    "channels": "all channels as inputs of each",
    "groups": "all groups as one",
    "labels": "the labels that inputs and outputs share",
}


def _miscounted(weight: MeasuredWeight) -> str:
    matrices, counted = weight.matrices, []
    if matrices is None:
        return "by the shape alone"
    if matrices.is_lookup:
        return "all rows, of which a token reads one"
    if matrices.parts in _COUNTED and matrices.stack_shape[0] > 1:
        return _COUNTED[matrices.parts]
    if matrices.parts == "gates":
        counted = [f"all gates as one {'kernel' if matrices.taps else 'matrix'}"]
    elif matrices.is_transposed:
        counted = ["inputs for outputs"]
    if set(matrices.strides) - {1}:
        counted.append("no strides")
    return ", and ".join(counted) or "by the shape alone"


# Of kernels whose initializer's scale does not fit, where no rule is known Glorot's.
_BY_RULE = {"he": "fanwise_he_normal", "lecun": "fanwise_lecun_normal"}


def _remedy(weight: MeasuredWeight, is_replaced: bool) -> tuple[Any, str]:
    """What a weight starts well with, of its own scale if that is fair, and in words."""
    given, activation, scale = weight.initializer, weight.activation, ""
    ours = given if isinstance(given, FanwiseVarianceScaling) else counterpart(given)
    new: Any
    if weight.role is Role.BIAS:
        new = "zeros"
    elif weight.is_gamma:
        new = "ones"
    elif ours is None or not weight.has_fair_scale:
        new = _BY_RULE.get(rule_for(activation), "fanwise_glorot_uniform")
        if gain := own_gain(activation):
            scale = f"; the scale for its activation is {gain}, or calibrate(model, x)'s"
    elif type(ours) is not FanwiseVarianceScaling and type(ours) in CLASSES:
        new = snake_case(type(ours).__name__)
    else:
        new = FanwiseVarianceScaling(ours.scale, ours.mode, ours.distribution)
    argument = initializer_argument(weight.owned)
    if is_replaced or not argument:
        call = "as initialize(model, report.remedies()) does"
        return new, f"draw it again by {_shown(new)}, {call}"
    retrofit = ", or build inside retrofit()" if weight.miscount != 1.0 else ""
    return new, f"write {argument}={_shown(new)}{retrofit}{scale}"


def _by_activation(weight: MeasuredWeight) -> tuple[Any, str]:
    """What gives a kernel the scale of its activation, if anything does, in words."""
    new = fitting(weight.activation or "linear")
    if new is None and own_gain(weight.activation):
        return None, "let calibrate(model, x) scale the kernels"
    if new is None:
        return None, flat_remedy(weight.activation)
    argument = initializer_argument(weight.owned) or "initializer"
    return new, f"write {argument}={_shown(new)}"


def _shown(initializer: Any) -> str:
    return f'"{initializer}"' if isinstance(initializer, str) else repr(initializer)


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
    rows = []
    for owned in owned_weights(model):
        layer, weight = owned.layer, owned.variable
        shape = tuple(weight.shape)
        ours = layer_fans(layer, weight.name, shape)
        theirs = keras_fans(layer, weight.name, shape)
        in_ratio, avg_ratio = (
            math.sqrt(effective_fan(theirs, mode) / effective_fan(ours, mode))
            for mode in ("fan_in", "fan_avg")
        )
        found = type(layer).__name__, shape, ours, theirs, in_ratio, avg_ratio
        rows.append(WeightFans(weight.path, *found, role(owned)))
    return FansTable(rows, name=model.name)
