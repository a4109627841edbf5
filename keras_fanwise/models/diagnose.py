"""Why a network does not learn: all evidence, one verdict, and starts that were tried."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import keras

from keras_fanwise.arguments import fail, glob_matches, globs_of, integer
from keras_fanwise.backends.arrays import snapshot
from keras_fanwise.backends.private_keras import all_layers, training_aside
from keras_fanwise.backends.tap import kept_state
from keras_fanwise.diagnostics.audit import audit_of
from keras_fanwise.diagnostics.batches import first_batch, tensors_for
from keras_fanwise.diagnostics.signal import checked, measured_layers, measured_signal
from keras_fanwise.diagnostics.training import training_findings
from keras_fanwise.graph.branches import residual_branches
from keras_fanwise.initializers.activations import FLAT, rule_for
from keras_fanwise.initializers.base import random_state_kept
from keras_fanwise.models.calibrate import calibrate
from keras_fanwise.models.initialize import initialize, start_values
from keras_fanwise.models.output_bias import output_bias
from keras_fanwise.reports.diagnosis import (
    Diagnosis,
    DiagnosisFinding,
    Fault,
    Trial,
    Verdict,
)
from keras_fanwise.reports.report import ERROR, NOTE, WARNING, FindingKind
from keras_fanwise.reports.weights import AuditFinding, AuditReport, Condition
from keras_fanwise.seam.weights import owned_weights, role

# So many samples tell what there is to tell.
_SAMPLES = 512
# What no start mends.
_OF_DATA = {Fault.INPUTS, Fault.TARGETS, Fault.HEAD}
# Within this factor signal and gradient keep their size.
_NEAR = 3.0
# The rank of a start than which none needs to be better.
_GOOD = (0, 0, 0, math.log(_NEAR))


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
    tried on the model, from the mildest: the initializers that `audit` proposes or a recipe
    by the activations, residual branches that begin small, `calibrate` (by unit, where the
    activations are such as the sigmoid), and `output_bias`. Each is carried out, measured
    and taken back, until one leaves neither error nor warning, and keeps signal and
    gradient within a factor of 3 over the depth. `report.apply()` carries out that one, or
    the one that leaves least. With a fault of the data none is tried: mend that first.

    The model is as before, bit for bit: weights, moving statistics, optimizer, random
    states and metrics; also after an error or an interrupt.

    Args:
        model: a built model.
        x: a batch as the model takes it, or the data, of which 512 samples are taken,
            evenly spaced; or a `keras.utils.PyDataset`, a `tf.data.Dataset`, a `DataLoader`
            of PyTorch or another iterable of batches, of which the first is taken, with its
            targets; by default a random batch, as `signal` draws it.
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
            loss; `steps` is negative, or there is no `y` for them; `x` is empty, of another
            shape than the model takes, or not given and the model does not say that; or a
            glob of `ignore` meets no weight, no layer and not `"x"`.

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
    case = Case(model, x, y, ignore, steps)
    first = case.evidence()
    with _taken_back(model):
        rows = [case.trial("", first)]
    best, carry_out = 0, None
    # A fault of the data is mended first: what is measured on it is not of the start.
    for start in case.starts(first) if first.faults and not first.faults & _OF_DATA else ():
        # Not every start is one for every model.
        with _taken_back(model), contextlib.suppress(ValueError):
            case.drawn.clear()
            start.carry_out(None)
            found = case.evidence(is_tried=True)
            rows.append(case.trial(start.line, found))
            if found is case.best:
                best, carry_out = len(rows) - 1, start.carry_out
    return Diagnosis(
        rows, findings=first.findings, best=best, _carry_out=carry_out, name=model.name
    )


class _Start(NamedTuple):
    """A start, and what carries it out with a seed; or tries it, without one."""

    line: str
    carry_out: Callable[[int | None], Any]

    def then(self, other: "_Start") -> "_Start":
        def carry_out(seed: int | None) -> Any:
            return [self.carry_out(seed), other.carry_out(seed)]

        return _Start(f"{self.line}, then {other.line}", carry_out)


class Evidence(NamedTuple):
    """What was found about a model, and what becomes of its signal over the depth."""

    findings: list[DiagnosisFinding]
    audited: AuditReport | None  # of a start that is worse than others there is none
    # Of the signal and of its gradient over the depth.
    totals: tuple[float | None, float | None]
    loss: float | None  # of the batch, if there are targets and it is finite

    @property
    def faults(self) -> set[FindingKind]:
        return {one.fault for one in self.findings if one.severity != NOTE}

    @property
    def rank(self) -> tuple[float, ...]:
        """How bad a start is: by the errors of its signal, all errors, and warnings.

        Among equals by how far signal and gradient are from their size, which best tells
        how a network trains.
        """
        levels = Counter(one.severity for one in self.findings)
        of_signal = [
            one.path
            for one in self.findings
            if one.severity == ERROR and isinstance(one.fault, Verdict)
        ]
        totals = [total for total in self.totals if total is not None]
        far = [abs(math.log(total)) if total else math.inf for total in totals]
        nearest = max([math.log(_NEAR), *far])  # nearer ones are equals
        return len(of_signal), levels[ERROR], levels[WARNING], nearest


_Finding = TypeVar("_Finding", DiagnosisFinding, AuditFinding)


class Case:
    """A model with the data that it is to learn."""

    def __init__(
        self, model: keras.Model, x: Any, y: Any, ignore: Any = None, steps: int = 0
    ) -> None:
        self.graph = checked(model, x, y)  # which no start changes
        x, y = first_batch(model, x, y)
        if integer("steps", steps, 0, 2**31) and y is None:
            raise fail(ValueError, "steps", "0 without `y`", steps)
        # Values that are not finite are a finding.
        x = None if x is None else tensors_for(model, x)
        self._model, (self._x, self._y), self._steps = model, _few(x, y), steps
        self._ignored = [] if ignore is None else globs_of("ignore", ignore, _paths(model))
        self.best: Evidence | None = None
        # Of a start that is tried the initializers, by the ids of their weights.
        self.drawn: dict[int, Any] = {}

    def evidence(self, is_tried: bool = False) -> Evidence:
        """All findings now; of a start that is tried as long as it may be the best.

        An audit takes longest, and of a signal that breaks down it says nothing new.
        """
        x, y = self._x, self._y
        found = [] if x is None else training_findings(self._model, x, y, self.graph)
        broken = [one.fault for one in found if one.severity == ERROR]
        x = None if Fault.INPUTS in broken else x
        y = None if Fault.TARGETS in broken or x is None else y
        measured = measured_signal(self.graph, x, y)
        for sent in measured.findings:
            numbers = f"{sent.direction}: {sent.numbers}"
            found.append(DiagnosisFinding(sent.path, sent.verdict, sent.severity, numbers))
        forward, backward = measured.forward, measured.backward
        totals = forward and forward.total, backward and backward.total
        loss = measured.loss if measured.loss and math.isfinite(measured.loss) else None
        evidence = Evidence(self._heeded(found), None, totals, loss)
        if self._is_best(evidence) and not (is_tried and measured.errors):
            audited = audit_of(self.graph, None, self.drawn)
            audited.findings = self._heeded(audited.findings)
            for one in audited.findings:
                level = one.severity
                if level == ERROR and not measured.errors:
                    level = ERROR if one.condition == Condition.SYMMETRY else WARNING
                numbers = f"{one.numbers}; {one.cause}"
                finding = DiagnosisFinding(one.path, one.condition, level, numbers)
                evidence.findings.append(finding)
            evidence = evidence._replace(audited=audited)
        if self._is_best(evidence):
            self.best = evidence
        return evidence

    def _is_best(self, evidence: Evidence) -> bool:
        return self.best is None or evidence.rank < self.best.rank

    def _heeded(self, found: Iterable[_Finding]) -> list[_Finding]:
        """Without those that are known and accepted."""
        globs = self._ignored
        return [one for one in found if not any(glob_matches(g, one.path) for g in globs)]

    def trial(self, line: str, found: Evidence) -> Trial:
        """What is to be told of a start, which may train the model."""
        levels = Counter(one.severity for one in found.findings)
        after = None
        if self._steps and found.loss is not None and self._model.trainable_variables:
            with training_aside(self._model):
                for _ in range(self._steps):
                    self._model.train_on_batch(self._x, self._y)
            after = measured_signal(self.graph, self._x, self._y).loss
        counts = levels[ERROR], levels[WARNING]
        return Trial(line, *counts, *found.totals, found.loss, after)

    def starts(self, first: Evidence) -> Iterator[_Start]:
        """What to try, from the mildest, until one is good: few, as each takes a while."""
        x = "" if self._x is None else ", x"
        activation = self._activation()
        recipe = rule_for(activation) or "he"
        by = "unit" if activation in FLAT else "layer"  # whose mean has to be taken out
        more = ', by="unit"' if by == "unit" else ""
        calibrated = _Start(
            f"calibrate(model{x}{more})", lambda _: calibrate(self._model, self._x, by=by)
        )
        bias = _Start("output_bias(model, y)", lambda _: output_bias(self._model, self._y))
        whole = self._drawn(recipe)
        remedies = first.audited.remedies() if first.audited else {}
        starts = [self._drawn(remedies) if remedies else whole]
        if residual_branches(self.graph):
            ways = [self._drawn(recipe, way) for way in ("depth", "zero")]
            starts = ways if Verdict.EXPLODING in first.faults else [*starts, ways[0]]
        # No factor mends what is the same everywhere.
        is_lost = first.faults & {Condition.SYMMETRY, Verdict.DEAD, Verdict.NON_FINITE}
        last = whole.then(calibrated) if is_lost else calibrated
        if is_of_loss := first.faults == {Fault.LOSS}:
            starts, last = [bias], calibrated.then(bias)
        chosen = None
        while starts and self.best:
            before, start = self.best, starts.pop(0)
            yield start
            chosen = chosen if self.best is before else start
            if self.best.rank <= _GOOD:
                return
            # Where nothing is left but a signal of another size, that is what to change.
            if start is not last and not (starts and self.best.faults):
                starts = [last]
        if chosen and self.best and self.best.faults == {Fault.LOSS} and not is_of_loss:
            yield chosen.then(bias)

    def _activation(self) -> str:
        """The most frequent one after kernels."""
        owned = (one for one in owned_weights(self._model) if role(one).is_matrix)
        # Of a layer once: gates have two kernels.
        pairs = ((one.layer, self.graph.activation_for(one.variable)) for one in owned)
        names = Counter(name for _, name in dict.fromkeys(pairs))
        del names[""], names["softmax"]
        return names.most_common(1)[0][0] if names else "linear"

    def _drawn(self, recipe: Any, residual: str | None = None) -> _Start:
        def carry_out(seed: int | None) -> Any:
            if seed is not None:
                return initialize(self._model, recipe, seed, residual=residual)
            # Layers keep their initializers, and the optimizer its state.
            for variable, initializer, values in start_values(
                self._model, recipe, 0, residual
            ):
                variable.assign(values)
                self.drawn[id(variable)] = initializer
            return None

        shown = f'"{recipe}"' if isinstance(recipe, str) else "audit(model).remedies()"
        more = f', residual="{residual}"' if residual else ""
        return _Start(f"initialize(model, {shown}, seed=0{more})", carry_out)


def _paths(model: keras.Model) -> list[str]:
    """Those that findings may have: of weights, of layers, and of the inputs."""
    weights = [owned.variable.path for owned in owned_weights(model)]
    layers = [layer.path or layer.name for layer in all_layers(model)]
    return [*weights, *layers, *measured_layers(model).values(), "x"]


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
