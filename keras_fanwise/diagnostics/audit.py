"""Whether the weights of a model meet the conditions of a good start."""

import math
from collections.abc import Iterator, Sequence

import keras

from keras_fanwise.arguments import glob_matches, globs_of
from keras_fanwise.diagnostics.causes import remedy_of
from keras_fanwise.diagnostics.conditions import Conditions, finding
from keras_fanwise.diagnostics.copies import (
    COMPARED,
    equal_beginnings,
    equal_bits,
    equal_values,
)
from keras_fanwise.diagnostics.evidence import limit
from keras_fanwise.diagnostics.measured import MeasuredWeight
from keras_fanwise.diagnostics.surroundings import Surroundings
from keras_fanwise.diagnostics.units import random_digits
from keras_fanwise.initializers.randomness import random_state_kept
from keras_fanwise.reports.audit_report import (
    ERROR,
    AuditFinding,
    AuditReport,
    Condition,
    WeightAudit,
)
from keras_fanwise.seam.owners import owned_weights
from keras_fanwise.seam.record import initializer_name, weight_initializers

# The share of audits of well-started models that may have a finding.
FALSE_ALARMS = 0.001
# Divided equally: single numbers of weights, equal units, correlated units, shapes of
# distributions, weights with equal beginnings, weights with equal values, short weights
# that are equal.
_SHARE = FALSE_ALARMS / 7
# Of a weight: mean and signs, about 0 and about what is drawn, standard deviation, and
# that against either end of two ranges.
_TESTS = 9


@random_state_kept()
def audit(model: keras.Layer, *, ignore: str | Sequence[str] | None = None) -> AuditReport:
    """Checks whether the weights of a model meet the four conditions of a good start.

    - Symmetry is broken: no kernel is constant, no two of its units are equal or
      correlated, and no two weights have equal values, in whatever order (transposed,
      rolled) and times whatever factor.
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
    conditions = Conditions(limit(_SHARE, _TESTS * count), _SHARE / max(1, count))
    surroundings = Surroundings(model, weights)
    findings = [
        list(conditions.of(weight, surroundings.behind(weight.owned)))
        for weight in measured
    ]
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
    # Of values from nobody knows where few may be different, such as signs.
    means = [drawn.mean if (drawn := weights[index].drawn) else math.nan for index in long]
    copies = equal_values(values, means, _SHARE) | equal_beginnings(values, _SHARE)
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
