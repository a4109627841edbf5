"""What becomes of the signal, the gradients and the kernels while a model trains."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.arguments import fail
from keras_fanwise.backends.arrays import dtype_name, spaced
from keras_fanwise.diagnostics.signal import checked, measured_layers, measured_signal
from keras_fanwise.diagnostics.training import SLOPE
from keras_fanwise.fans.layers import layer_fans
from keras_fanwise.graph.graph import Graph
from keras_fanwise.initializers.variance_scaling import effective_fan
from keras_fanwise.reports.diagnosis import Fault, FindingKind, SignalReport, Verdict
from keras_fanwise.reports.history import (
    HistoryFinding,
    HistoryReport,
    LayerHistory,
    Learning,
)
from keras_fanwise.reports.report import ERROR, LEVELS, NOTE, WARNING
from keras_fanwise.reports.tables import group_by
from keras_fanwise.seam.weights import role, weights_within

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Values of a kernel that are compared, evenly spaced.
_SAMPLE = 4096


class SignalHistory(keras.callbacks.Callback):
    """Watches a training: the signal, the gradients and the kernels, epoch by epoch.

    Before the first step and after each epoch one batch is sent through the model, as
    `signal` does, and every kernel is compared with what it was: by ‖ΔW‖/‖W‖ over the steps
    in between, divided by their number. `findings` say what went wrong, in which layer and
    since which epoch:

    * values, gradients or kernels that are not finite;
    * layers whose units are 0 for the whole batch, as `signal` judges them, and hidden
      layers whose activation keeps less than a tenth of its slope;
    * a signal that is 1,000 times the largest at the start, or a gradient 10,000 times;
    * kernels that change too fast, or hardly; that get no gradient, or are frozen;
    * what `signal` finds before the first step.

    Smaller growth is a trend, and no finding. `benchmarks/history.py` gives the limits, and
    measures how often they are wrong. Training is bit for bit what it would be without,
    and the columns `signal_findings`, how many errors and
    warnings there are, and `signal_dead`, the share of dead units, come into the history
    that `fit` returns. Each `fit` starts the history again.

    Args:
        x: a batch that the model takes, kept in memory; 32 to 64 samples are enough.
        y: what the loss compares the results of `x` with. With it the gradients are those
            of the loss, and a loss that does not fall tells which changes are too fast.
        every: a positive integer; after how many epochs to measure again.

    Attributes:
        findings: list of `HistoryFinding`, errors first. Print one to read it.
        reports: dictionary with a `SignalReport` for each epoch measured; 0 is the start.

    Raises:
        TypeError: `every` is not an integer.
        ValueError: `every` is not positive. When training begins, what `signal` raises.

    Example: a learning rate that is too low. In a loop of one's own, call `measure`.

    >>> import keras
    >>> import numpy as np
    >>> keras.utils.set_random_seed(0)
    >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    >>> y = x.sum(1, keepdims=True)
    >>> dense = [keras.layers.Dense(16, "relu"), keras.layers.Dense(1)]
    >>> model = keras.Sequential([keras.Input((8,)), *dense])
    >>> model.compile(keras.optimizers.SGD(1e-9), "mse")
    >>> history = SignalHistory(x, y)
    >>> fitted = model.fit(x, y, epochs=2, callbacks=[history], verbose=0)
    >>> [(finding.fault.label, finding.epoch) for finding in history.findings]
    [('too slow', 1)]
    >>> fitted.history["signal_findings"]
    [1, 1]
    """

    def __init__(self, x: Any, y: Any = None, *, every: int = 1) -> None:
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, (int, np.integer)):
            raise fail(TypeError, "every", "a positive integer", every)
        if every < 1:
            raise fail(ValueError, "every", "a positive integer", every)
        self._x, self._y, self._every = x, y, int(every)
        self._graph: Graph | None = None
        self._measured: list[_Measurement] = []
        self._kernels: list[_Kernel] = []
        self._samples: list[np.ndarray] = []
        self._iterations = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self._measured = []
        self.measure(self.model, 0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self._every == 0:
            self.measure(self.model, epoch + 1)
        if logs is not None:
            logs["signal_findings"] = sum(one.severity != NOTE for one in self.findings)
            rows = self._measured[-1].report.rows
            units = sum(row.units for row in rows)
            dead = sum(row.dead * row.units for row in rows)
            logs["signal_dead"] = dead / max(1, units)

    def measure(self, model: keras.Model, epoch: int) -> None:
        """Measures a model that a loop of one's own trains.

        Where the optimizer of the model counts no steps, changes are those since the
        measurement before, and are not judged.

        Args:
            model: the model, always the same.
            epoch: how many epochs it was trained; 0 before the first step.

        Raises:
            TypeError, ValueError: what `signal` raises.
        """
        if self._graph is None or self._graph.model is not model or not self._measured:
            self._graph, self._measured = checked(model, self._x, self._y), []
            self._kernels = list(_kernels(model))
        report = measured_signal(self._graph, self._x, self._y)
        samples = [spaced(one.variable.value, _SAMPLE) for one in self._kernels]
        iterations = _iterations(model)
        changes: list[_Change] = []
        if self._measured:
            steps = max(0, iterations - self._iterations)
            triples = zip(self._kernels, self._samples, samples, strict=True)
            changes = [_change(one, steps, before, now) for one, before, now in triples]
        now = _Measurement(epoch, report, changes, _rate(model), {}, 0.0, [])
        self._measured.append(_compared([*self._measured[:1], *self._measured[-1:]], now))
        self._samples, self._iterations = samples, iterations

    @property
    def reports(self) -> dict[int, SignalReport]:
        return {one.epoch: one.report for one in self._measured}

    @property
    def findings(self) -> list[HistoryFinding]:
        return sorted(_findings(self._measured), key=lambda f: LEVELS.index(f.severity))

    def _report(self) -> HistoryReport:
        name = self._graph.model.name if self._graph else ""
        epochs = tuple(one.epoch for one in self._measured)
        findings = self.findings
        rows = _rows(self._measured, findings)
        return HistoryReport(rows, epochs, name=name, findings=findings)

    def text(self, verbose: bool = False) -> str:
        """The verdict, the findings and a table of the layers, in 80 columns or more.

        Args:
            verbose: whether to give every layer, with its name in full.
        """
        return self._report().text(verbose)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self._report()._repr_html_()

    def plot(self, ax: Any = None) -> "Figure":
        """Draws the signal, its gradient, dead units and changes: layers by epochs.

        Args:
            ax: a sequence of four `matplotlib.axes.Axes` to draw into; by default a new
                figure.

        Returns:
            The `matplotlib.figure.Figure`, as `SignalReport.plot` gives it.

        Raises:
            ImportError: matplotlib is not installed.
            TypeError: `ax` is not of Axes.
            ValueError: `ax` are not four.
        """
        return self._report().plot(ax)

    def to_dict(self) -> dict[str, Any]:
        """The rows, epochs and findings, as the `to_dict` of every report."""
        return self._report().to_dict()


class _Change(NamedTuple):
    """By how much a kernel changed between two measurements."""

    path: str  # of its layer
    is_trainable: bool
    steps: int  # 0 if the optimizer of the model counts none
    total: float  # ‖ΔW‖ / ‖W‖; not a number if a value of the kernel is none
    fair_total: float  # the same by the norm that its fans ask for, if that is larger

    @property
    def per_step(self) -> float:
        return self.total / max(1, self.steps)


class _Measurement(NamedTuple):
    epoch: int
    report: SignalReport
    changes: list[_Change]  # of each kernel, since the measurement before
    rate: float | None  # the learning rate
    # By what was measured so far: the largest of the changes that were too fast, by layer,
    # the largest change per step, and what this measurement shows.
    fast: dict[str, _Change]
    pace: float
    signs: list[HistoryFinding]


class _Kernel(NamedTuple):
    path: str  # of the layer that is measured
    variable: keras.Variable
    asked: float  # the deviation by its fans, as of Glorot's initializers


def _kernels(model: keras.Model) -> Iterator[_Kernel]:
    """Each kernel once."""
    seen = set()
    for layer, path in measured_layers(model).items():
        for owned in weights_within(layer):
            variable = owned.variable
            is_float = "float" in dtype_name(variable)
            if role(owned).is_matrix and is_float and id(variable) not in seen:
                seen.add(id(variable))
                fans = layer_fans(owned.layer, variable.name, tuple(variable.shape))
                yield _Kernel(path, variable, effective_fan(fans, "fan_avg") ** -0.5)


def _change(kernel: _Kernel, steps: int, before: np.ndarray, now: np.ndarray) -> _Change:
    """By the norm before; of a kernel that was 0 by the new one."""
    total = fair_total = math.nan
    if np.isfinite(now).all():
        difference = float(np.linalg.norm(now - before))
        size = float(np.linalg.norm(before) or np.linalg.norm(now))
        total = difference / size if size else 0.0
        fair_total = difference / max(size, kernel.asked * math.sqrt(now.size))
    return _Change(kernel.path, kernel.variable.trainable, steps, total, fair_total)


def _iterations(model: keras.Model) -> int:
    optimizer = getattr(model, "optimizer", None)
    return int(keras.ops.convert_to_numpy(optimizer.iterations)) if optimizer else 0


def _rate(model: keras.Model) -> float | None:
    rate = getattr(getattr(model, "optimizer", None), "learning_rate", None)
    return None if rate is None else float(keras.ops.convert_to_numpy(rate))


# A kernel changes too fast by so much of itself, divided by the square root of the steps;
# and by so much where the loss of the batch is still more than this part of that at the
# start. Of sound trainings it was 0.09 at most.
_FAST, _FAST_WITHOUT_USE, _FALLEN = 0.2, 0.1, 0.95
# It hardly changes by so much per step, and it was not chosen so where the learning rate
# is still more than such a part of the first one.
_SLOW, _DECAYED = 1e-6, 1e-3
# By so much a signal and a gradient explode, by the largest at the start: what begins small
# grows by more. Of sound trainings it was 36 at most, and of gradients 140.
_SIGNAL_GREW, _GRADIENT_GREW = 1e3, 1e4
# Layers that no unit dies in: they give other shapes to what others give.
_SHAPES = ("Flatten", "Reshape", "Permute")


def _findings(measured: Sequence[_Measurement]) -> list[HistoryFinding]:
    """One for each kind of fault and unbroken run of measurements that show it."""
    if not measured:
        return []
    start = measured[0]
    begun = [
        HistoryFinding(
            one.path, start.epoch, one.verdict, one.severity, one.numbers, one.remedy
        )
        for one in start.report.findings
    ]
    # What is seen later too goes on; a total over the depth counts at the start alone.
    goes_on = (Verdict.DEAD, Verdict.NON_FINITE)
    found = [one for one in begun if one.fault not in goes_on]
    runs: dict[FindingKind, HistoryFinding] = {
        one.fault: one for one in reversed(begun) if one.fault in goes_on
    }
    for before, now in itertools.pairwise(measured):
        shown = {
            alike[0].fault: alike for alike in group_by(now.signs, lambda one: one.fault)
        }
        for fault in [fault for fault in runs if fault not in shown]:
            found.append(runs.pop(fault)._replace(severity=NOTE, last=before.epoch))
        for fault, alike in shown.items():
            run = runs.get(fault)
            first = next((one for one in alike if run and one.path == run.path), alike[0])
            numbers, semicolon, cause = first.numbers.partition(";")
            more = f" (and at {len(alike) - 1} more)" if len(alike) > 1 else ""
            numbers = f"{numbers}{more}{semicolon}{cause}"
            epoch = run.epoch if run else now.epoch
            runs[fault] = first._replace(epoch=epoch, numbers=numbers)
    return [*found, *runs.values()]


def _compared(earlier: Sequence[_Measurement], now: _Measurement) -> _Measurement:
    """A measurement with what it shows, by the first one and the one before."""
    if not earlier:
        return now
    start, before = earlier[0], earlier[-1]
    fast = dict(before.fast)
    for one in now.changes:
        if _is_fast(one, start, now):
            known = fast.get(one.path, one)
            fast[one.path] = max(known, one, key=lambda change: change.per_step)
    paces = [one.per_step for one in now.changes if not math.isnan(one.total)]
    now = now._replace(fast=fast, pace=max(before.pace, *paces, 0.0))
    return now._replace(signs=list(_signs(start, now)))


def _signs(start: _Measurement, now: _Measurement) -> Iterator[HistoryFinding]:
    """What a measurement shows."""
    rows, epoch = now.report.rows, now.epoch
    changed = f"; kernels changed by up to {now.pace:.2g} of themselves per step"
    changed = changed if now.pace else ""
    is_fast = bool(now.fast)

    broken = [one.path for one in now.changes if math.isnan(one.total)]
    values = [row.name for row in rows if not math.isfinite(row.std)]
    slopes = [row.name for row in rows if not math.isfinite(row.gradient_std or 0.0)]
    if broken or values or slopes:
        what = "values that are not finite" if values else "gradients that are not finite"
        what = "kernels that are not finite" if broken else what
        if is_fast:
            what, remedy = f"{what}{changed}", Learning.FAST.remedy
        elif broken:
            remedy = (
                "look for values in x and y that are not finite; if there are none, "
                f"{Learning.FAST.remedy}"
            )
        else:
            remedy = Verdict.NON_FINITE.remedy
        for path in broken or values or slopes[::-1]:
            yield HistoryFinding(path, epoch, Verdict.NON_FINITE, ERROR, what, remedy)
        return
    is_dead = False
    for row in rows:
        if Verdict.DEAD in row.verdicts and row.layer not in _SHAPES:
            is_dead = True
            numbers = f"{row.dead:.0%} of its units are 0 for the whole batch{changed}"
            remedy = Learning.FAST.remedy if is_fast else Verdict.DEAD.remedy
            level = ERROR if row.dead == 1 else WARNING
            yield HistoryFinding(row.name, epoch, Verdict.DEAD, level, numbers, remedy)
        elif row.slope is not None and row.slope < SLOPE and row.depth < rows[-1].depth:
            numbers = f"its activation keeps {row.slope:.2g} of its slope{changed}"
            remedy = Learning.FAST.remedy if is_fast else Fault.SATURATION.remedy
            yield HistoryFinding(
                row.name, epoch, Fault.SATURATION, WARNING, numbers, remedy
            )
    for attribute, most in (("std", _SIGNAL_GREW), ("gradient_std", _GRADIENT_GREW)):
        was = max((getattr(row, attribute) or 0.0 for row in start.report.rows), default=0)
        for row in rows:
            if was and (getattr(row, attribute) or 0.0) > most * was:
                what = attribute.replace("_", " ")
                numbers = f"{what} {getattr(row, attribute):.2g}, at the start {was:.2g} "
                numbers += f"at most{changed}"
                remedy = Learning.FAST.remedy
                yield HistoryFinding(
                    row.name, epoch, Verdict.EXPLODING, ERROR, numbers, remedy
                )
    # What a step too large has broken stays so, however small those after it are.
    is_useless = _is_useless(now, start)
    fast_now = {one.path for one in now.changes if _is_fast(one, start, now)}
    for path, change in now.fast.items():
        if not is_useless and path not in fast_now:
            continue
        numbers = f"its kernel changed by {change.per_step:.2g} of itself per step"
        loss, least = now.report.loss, start.report.loss
        if loss is not None and least is not None:
            numbers += f"; the loss of the batch went from {least:.3g} to {loss:.3g}"
        yield HistoryFinding(
            path, epoch, Learning.FAST, WARNING, numbers, Learning.FAST.remedy
        )
    for change in now.changes:
        if not change.is_trainable:
            numbers, remedy = "its kernel is not trainable", Learning.FROZEN.remedy
            yield HistoryFinding(change.path, epoch, Learning.FROZEN, NOTE, numbers, remedy)
    if not is_dead and not is_fast:
        yield from _still(now, start)


def _is_fast(change: _Change, start: _Measurement, now: _Measurement) -> bool:
    if not change.steps:
        return False
    limit = _FAST_WITHOUT_USE if _is_useless(now, start) else _FAST
    return change.fair_total > limit * math.sqrt(change.steps)


def _is_useless(now: _Measurement, start: _Measurement) -> bool:
    """Whether the loss of the batch has not fallen."""
    loss, least = now.report.loss, start.report.loss
    return loss is not None and least is not None and not loss < _FALLEN * least


def _still(now: _Measurement, start: _Measurement) -> Iterator[HistoryFinding]:
    """Kernels that do not change although they are to learn."""
    epoch = now.epoch
    changes = [one for one in now.changes if one.is_trainable and one.steps]
    decayed = now.rate and start.rate and now.rate <= _DECAYED * start.rate
    if not changes or decayed:
        return
    if all(one.per_step < _SLOW for one in changes):
        largest = max(one.per_step for one in changes)
        numbers = f"no kernel changed by more than {largest:.2g} of itself per step"
        numbers += f", at a learning rate of {now.rate:.2g}" if now.rate is not None else ""
        remedy, first = Learning.SLOW.remedy, changes[0].path
        yield HistoryFinding(first, epoch, Learning.SLOW, WARNING, numbers, remedy)
        return
    for one in changes:
        if one.total == 0:
            numbers = f"its kernel did not change in {one.steps} steps"
            remedy = Learning.STARVED.remedy
            yield HistoryFinding(
                one.path, epoch, Learning.STARVED, WARNING, numbers, remedy
            )


def _rows(
    measured: Sequence[_Measurement], findings: Sequence[HistoryFinding]
) -> list[LayerHistory]:
    """A row for each call of a layer at the start."""
    calls = [{row.name: row for row in one.report.rows} for one in measured]

    def history(name: str, attribute: str) -> tuple[float | None, ...]:
        return tuple(getattr(rows.get(name), attribute, None) for rows in calls)

    def change(path: str) -> tuple[float | None, ...]:
        paces = [[c.per_step for c in one.changes if c.path == path] for one in measured]
        return tuple(max(some, default=None) for some in paces)

    return [
        LayerHistory(
            path=row.path,
            call=row.call,
            layer=row.layer,
            depth=row.depth,
            std=history(row.name, "std"),
            gradient_std=history(row.name, "gradient_std"),
            dead=history(row.name, "dead"),
            slope=history(row.name, "slope"),
            change=change(row.path) if row.call == 1 else (None,) * len(measured),
            verdicts=tuple(dict.fromkeys(f.fault for f in findings if f.path == row.name)),
        )
        for row in (measured[0].report.rows if measured else ())
    ]
