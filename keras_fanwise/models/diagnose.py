"""Why a network does not learn: all evidence, one verdict, and starts that were tried."""

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

from keras_fanwise.arguments import fail, glob_matches, integer
from keras_fanwise.backends.arrays import snapshot
from keras_fanwise.backends.private_keras import (
    has_compiled_loss,
    training_aside,
)
from keras_fanwise.backends.tap import kept_state
from keras_fanwise.diagnostics.audit import audit_of
from keras_fanwise.diagnostics.signal import measured_signal
from keras_fanwise.diagnostics.training import training_findings
from keras_fanwise.graph.branches import residual_branches
from keras_fanwise.graph.graph import Graph
from keras_fanwise.initializers.activations import rule_for
from keras_fanwise.initializers.base import random_state_kept
from keras_fanwise.models.calibrate import calibrate
from keras_fanwise.models.initialize import initialize, start_values
from keras_fanwise.models.output_bias import output_bias
from keras_fanwise.reports.diagnosis import (
    AuditReport,
    Condition,
    Diagnosis,
    DiagnosisFinding,
    Fault,
    Trend,
    Trial,
    Verdict,
)
from keras_fanwise.reports.report import ERROR, NOTE, WARNING
from keras_fanwise.seam.weights import owned_weights, role

# So many samples tell what there is to tell.
_SAMPLES = 512
# What no start mends.
_OF_DATA = (Fault.INPUTS, Fault.TARGETS, Fault.HEAD)


def diagnose(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    *,
    ignore: str | Sequence[str] | None = None,
    steps: int = 0,
) -> Diagnosis:
    """Tells why a network does not learn, or that it starts well, and what to write.

    All evidence is gathered and weighed once: the weights (`audit`), signal and gradients
    on the batch (`signal`, of the compiled loss if there is `y`), inputs, saturated
    activations, the loss at the start against the base rates', and the head against the
    loss. What was measured outranks the weights: where signal and gradients are healthy,
    a weight of another scale is at most a warning.

    Faults of data, head and loss come with the line to change. For others, starts are
    tried on the model, from the mildest: the initializers that `audit` proposes, a recipe
    by the activations, residual branches that begin small, `calibrate` by layer and by
    unit, and `output_bias`. Each is carried out, measured and taken back, until one leaves
    neither error nor warning; `report.apply()` carries out that one, or the one that leaves
    least. With a fault of the data none is tried: mend that first.

    The model is as before, bit for bit: weights, moving statistics, optimizer, random
    states and metrics; also after an error or an interrupt.

    Args:
        model: a built model.
        x: a batch as the model takes it, or the data, of which 512 samples are taken,
            evenly spaced; by default a random batch, as `signal` draws it.
        y: the targets, as `fit` takes them; the model is to be compiled with a loss.
        ignore: a glob on the paths of findings that are known and accepted, or a list of
            them, such as `"head/*"`; see `Rule`.
        steps: for how many steps on the batch the model is trained from each start, by a
            new optimizer like its own; its loss then stands in the report.

    Returns:
        A `Diagnosis`: print it, read its `errors`, `warnings` and `notes`, or `apply()` it.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `model` is not built; `y` is given without `x`, or to a model without a
            loss; `steps` is negative, or there is no `y` for them; or the model does not
            say what it takes, and there is no `x`.

    Example:

    >>> import keras, numpy as np
    >>> tiny = keras.initializers.RandomNormal(stddev=0.001, seed=0)
    >>> dense = [keras.layers.Dense(64, "relu", kernel_initializer=tiny) for _ in range(6)]
    >>> model = keras.Sequential([keras.Input((64,)), *dense, keras.layers.Dense(1)])
    >>> report = diagnose(model)
    >>> report.text().splitlines()[0].partition(":")[0]
    'The model will not train as it is'
    >>> _ = report.apply(seed=0)
    >>> diagnose(model).errors
    []
    """
    if not isinstance(model, keras.Model):
        raise fail(TypeError, "model", "a Keras model", model)
    if y is not None and x is None:
        raise ValueError("`x` must be given with `y`. Received: x=None")
    if y is not None and not has_compiled_loss(model):
        raise fail(ValueError, "model", "compiled with a loss, for `y`", model)
    owned_weights(model)  # or it is not built
    if integer("steps", steps, 0, 2**31) and y is None:
        raise fail(ValueError, "steps", "0 without `y`", steps)
    case = Case(model, *_few(x, y), ignore, steps)
    found = case.evidence()
    with _taken_back(model):
        rows = [case.trial("", found)]
    tried = [found]
    lines: list[_Start] = []
    # A fault of the data is mended first: what is measured on it is not of the start.
    if rows[0].errors + rows[0].warnings and not any(
        one.fault in _OF_DATA and one.severity != NOTE for one in found.findings
    ):
        for start in case.starts(found):
            # Not every start is one for every model.
            with _taken_back(model), contextlib.suppress(ValueError):
                start.carry_out(None)
                left = case.evidence(is_tried=True)
                rows.append(case.trial(start.line, left))
                tried.append(left)
                lines.append(start)
            if not rows[-1].errors + rows[-1].warnings:
                break
    ranks = [
        (one.of_signal, not one.audited, row.errors, row.warnings)
        for one, row in zip(tried, rows, strict=True)
    ]
    best = ranks.index(min(ranks))
    carry_out = lines[best - 1].carry_out if best else None
    return Diagnosis(
        rows, findings=found.findings, best=best, _carry_out=carry_out, name=model.name
    )


class _Start(NamedTuple):
    """A start, and what carries it out with a seed; or tries it, without one."""

    line: str
    carry_out: Callable[[int | None], Any]


class Evidence(NamedTuple):
    """What was found about a model, and what becomes of its signal over the depth."""

    findings: list[DiagnosisFinding]
    audited: AuditReport | None  # of a signal that breaks down there is none
    forward: Trend | None
    backward: Trend | None
    loss: float | None  # of the batch, if there are targets and it is finite

    @property
    def of_signal(self) -> int:
        """How many errors the signal has."""
        errors = [one.fault for one in self.findings if one.severity == ERROR]
        return sum(isinstance(fault, Verdict) for fault in errors)


class Case:
    """A model with the data that it is to learn."""

    def __init__(
        self, model: keras.Model, x: Any, y: Any, ignore: Any = None, steps: int = 0
    ) -> None:
        self._model, self._x, self._y, self._steps = model, x, y, steps
        self._ignore = ignore
        self._globs = [ignore] if isinstance(ignore, str) else list(ignore or [])
        self.graph = Graph(model)  # which no start changes

    def evidence(self, is_tried: bool = False) -> Evidence:
        """All findings now; of a start that is tried first the signal, which takes less."""
        x, y = self._x, self._y
        found = [] if is_tried else self._of_data()
        broken = [one.fault for one in found if one.severity == ERROR]
        x = None if Fault.INPUTS in broken else x
        y = None if Fault.TARGETS in broken or x is None else y
        measured = measured_signal(self.graph, x, y)
        audited = None
        if not (is_tried and measured.errors):
            found += self._of_data() if is_tried else []
            audited = audit_of(self.graph, self._ignore)
        for sent in measured.findings:
            numbers = f"{sent.direction}: {sent.numbers}"
            found.append(DiagnosisFinding(sent.path, sent.verdict, sent.severity, numbers))
        for one in audited.findings if audited else ():
            level = one.severity
            if level == ERROR and not measured.errors:
                level = ERROR if one.condition == Condition.SYMMETRY else WARNING
            numbers = f"{one.numbers}; {one.cause}"
            found.append(DiagnosisFinding(one.path, one.condition, level, numbers))
        kept = [
            one for one in found if not any(glob_matches(g, one.path) for g in self._globs)
        ]
        loss = measured.loss if measured.loss and math.isfinite(measured.loss) else None
        return Evidence(kept, audited, measured.forward, measured.backward, loss)

    def _of_data(self) -> list[DiagnosisFinding]:
        given = self._model, self._x, self._y
        return [] if self._x is None else training_findings(*given, graph=self.graph)

    def trial(self, line: str, found: Evidence) -> Trial:
        """What is to be told of a start, which may train the model."""
        levels = Counter(one.severity for one in found.findings)
        forward, backward = (
            trend.total if trend else None for trend in (found.forward, found.backward)
        )
        loss, after = found.loss, None
        if self._steps and loss is not None and self._model.trainable_variables:
            with training_aside(self._model):
                for _ in range(self._steps):
                    self._model.train_on_batch(self._x, self._y)
            after = measured_signal(self.graph, self._x, self._y).loss
        return Trial(line, levels[ERROR], levels[WARNING], forward, backward, loss, after)

    def starts(self, found: Evidence) -> Iterator[_Start]:
        """What can be tried, from the mildest."""
        faults = {one.fault for one in found.findings if one.severity != NOTE}
        has_loss = self._y is not None and Fault.LOSS in faults
        if has_loss:
            yield _Start("output_bias(model, y)", self._output_bias)
        if found.audited and (remedies := found.audited.remedies()):
            line = "initialize(model, audit(model).remedies(), seed=0)"
            yield _Start(line, functools.partial(self._initialize, remedies, None))
        recipe = self._recipe()
        ways = [None, *(("depth", "zero") if residual_branches(self.graph) else ())]
        starts = []
        for way in ways:
            more = f', residual="{way}"' if way else ""
            line = f'initialize(model, "{recipe}", seed=0{more})'
            starts.append(_Start(line, functools.partial(self._initialize, recipe, way)))
        yield from starts
        calibrations = [
            _Start(
                f"calibrate(model{', x' if self._x is not None else ''}{more})",
                functools.partial(self._calibrate, by),
            )
            for by, more in (("layer", ""), ("unit", ', by="unit"'))
        ]
        yield from calibrations
        for one in calibrations:
            yield _both(starts[0], one)
            if has_loss:
                yield _both(one, _Start("output_bias(model, y)", self._output_bias))

    def _recipe(self) -> str:
        """That of the most frequent activation of the hidden layers."""
        after = (
            self.graph.activation_after(call)
            for owned in owned_weights(self._model)
            if role(owned).is_matrix
            for call in self.graph.calls_of(owned.variable)
        )
        names = Counter(
            call.activation for call in after if call and call.activation != "softmax"
        )
        return rule_for(names.most_common(1)[0][0] if names else "linear") or "he"

    def _initialize(self, recipe: Any, residual: str | None, seed: int | None) -> Any:
        if seed is not None:
            return initialize(self._model, recipe, seed, residual=residual)
        for variable, values in start_values(self._model, recipe, 0, residual):
            variable.assign(values)
        return None

    def _calibrate(self, by: str, _seed: int | None) -> Any:
        return calibrate(self._model, self._x, by=by)

    def _output_bias(self, _seed: int | None) -> Any:
        return output_bias(self._model, self._y)


def _both(one: _Start, other: _Start) -> _Start:
    def carry_out(seed: int | None) -> Any:
        return [one.carry_out(seed), other.carry_out(seed)]

    return _Start(f"{one.line}, then {other.line}", carry_out)


def _few(x: Any, y: Any) -> tuple[Any, Any]:
    """Some of the samples, evenly spaced, if there are many."""
    samples = 0 if x is None else len(keras.tree.flatten(x)[0])
    step = max(1, -(-samples // _SAMPLES))

    def few(values: Any) -> Any:
        return values if values is None or step == 1 else values[::step]

    return keras.tree.map_structure(few, x), keras.tree.map_structure(few, y)


@contextlib.contextmanager
def _taken_back(model: keras.Model) -> Iterator[None]:
    """In the end every variable of the model, and every random state, is as before."""
    optimizer = getattr(model, "optimizer", None)
    variables = [
        *model.variables,
        *(optimizer.variables if optimizer else []),
        *getattr(model, "metrics_variables", []),
    ]
    before = [(variable, snapshot(variable)) for variable in variables]
    try:
        with random_state_kept(), kept_state(model):
            yield
    finally:
        for variable, values in before:
            variable.assign(values)
