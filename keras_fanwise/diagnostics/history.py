"""What becomes of the signal, the gradients and the kernels while a model trains."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.arguments import integer
from keras_fanwise.backends.arrays import dtype_name, float64, spaced
from keras_fanwise.diagnostics.batches import first_batch
from keras_fanwise.diagnostics.signal import RepeatedSignal, checked, measured_layers
from keras_fanwise.diagnostics.training import SLOPE
from keras_fanwise.fans.layers import layer_fans
from keras_fanwise.graph.graph import Graph
from keras_fanwise.initializers.variance_scaling import effective_fan
from keras_fanwise.reports.diagnosis import (
    Fault,
    HistoryFinding,
    HistoryReport,
    LayerHistory,
    Learning,
    SignalReport,
    Verdict,
)
from keras_fanwise.reports.report import ERROR, LEVELS, NOTE, WARNING, FindingKind
from keras_fanwise.reports.tables import group_by
from keras_fanwise.seam.weights import OwnedWeight, role, weights_within

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
    and the columns `signal_findings`, how many errors and warnings there are, and
    `signal_dead`, the share of dead units, come into the history that `fit` returns. Each
    `fit` starts the history again. On TensorFlow and JAX the measurement is compiled once,
    where the model can be and does not `run_eagerly`; what its code reads beside variables
    stays, as in training, what it was then.

    Args:
        x: a batch that the model takes, kept in memory; 32 to 64 samples are enough. Of a
            dataset the first batch is taken, as by `signal`.
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
        self._x, self._y, self._every = x, y, integer("every", every, 1, 2**31)
        self._training: _Training | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._training = None
        self.measure(self.model, 0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self._every == 0:
            self.measure(self.model, epoch + 1)
        if logs is not None:
            logs["signal_findings"] = sum(one.severity != NOTE for one in self.findings)
            rows = self._measured[-1].report.rows
            dead = sum(row.dead * row.units for row in rows)
            logs["signal_dead"] = dead / max(1, sum(row.units for row in rows))

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
        if self._training is None or self._training.model is not model:
            graph = checked(model, self._x, self._y)
            # Kept for the next training: an iterator gives it once.
            self._x, self._y = first_batch(model, self._x, self._y)
            self._training = _Training(graph, self._x, self._y)
        self._training.measure(epoch)

    @property
    def _measured(self) -> "list[_Measurement]":
        return self._training.measured if self._training else []

    @property
    def reports(self) -> dict[int, SignalReport]:
        return {one.epoch: one.report for one in self._measured}

    @property
    def findings(self) -> list[HistoryFinding]:
        training = self._training
        found = [*training.passed, *training.lasting.values()] if training else []
        return sorted(found, key=lambda finding: LEVELS.index(finding.severity))

    def _report(self) -> HistoryReport:
        measured, findings = self._measured, self.findings
        epochs = tuple(one.epoch for one in measured)
        name = self._training.model.name if self._training else ""
        return HistoryReport(
            _rows(measured, findings), epochs, name=name, findings=findings
        )

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
            ax: a sequence of four `matplotlib.axes.Axes`; else as in `SignalReport.plot`.
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


class _Kernel:
    """A kernel of a layer that is measured, and some of its values when it was last."""

    def __init__(self, path: str, owned: OwnedWeight) -> None:
        self.path, self.variable = path, owned.variable
        fans = layer_fans(owned.layer, self.variable.name, self.variable.shape)
        # The deviation by its fans, as of Glorot's initializers.
        self._asked = effective_fan(fans, "fan_avg") ** -0.5
        self._before = spaced(self.variable.value, _SAMPLE)
        self._size = _norm(self._before)

    def change(self, steps: int) -> _Change:
        """By the norm before; of a kernel that was 0 by the new one."""
        before, size = self._before, self._size
        now = self._before = spaced(self.variable.value, _SAMPLE)
        self._size = _norm(now)
        total = fair_total = math.nan
        if np.all(np.isfinite(now)):
            difference = _norm(now - before)
            total = difference / (size or self._size) if difference else 0.0
            fair_total = difference / max(size, self._asked * math.sqrt(now.size))
        return _Change(self.path, self.variable.trainable, steps, total, fair_total)


def _norm(values: np.ndarray) -> float:
    # Not as a product of vectors, which wakes a thread of BLAS on every core.
    return math.sqrt(np.square(values).sum())


def _kernels(model: keras.Model) -> list[_Kernel]:
    """Each kernel once."""
    kernels: dict[int, _Kernel] = {}
    for layer, path in measured_layers(model).items():
        for owned in weights_within(layer):
            key, is_float = id(owned.variable), "float" in dtype_name(owned.variable)
            if role(owned).is_matrix and is_float and key not in kernels:
                kernels[key] = _Kernel(path, owned)
    return list(kernels.values())


def _of_optimizer(model: keras.Model, name: str) -> float | None:
    """The number of its `iterations`, or its `learning_rate`."""
    optimizer = getattr(model, "optimizer", None)
    # That of a LossScaleOptimizer: Keras 3.8 counts no steps of the outer one.
    value = getattr(getattr(optimizer, "inner_optimizer", optimizer), name, None)
    return None if value is None else float(float64(value))


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
# What a rate too high has done, and what is to be done if it was another cause.
_LOWER = Learning.FAST.remedy


class _Training:
    """What was measured of a training so far, and what it shows."""

    def __init__(self, graph: Graph, x: Any, y: Any) -> None:
        self.model: Any = graph.model
        self._signal = RepeatedSignal(graph, x, y)
        self._kernels = _kernels(self.model)
        self._steps = 0
        self.measured: list[_Measurement] = []
        # The largest of the changes that were too fast, by layer, and of all per step.
        self._fast: dict[str, _Change] = {}
        self._pace = 0.0
        self._changed = ""  # the same in words
        # One finding for each kind of fault and unbroken run of measurements that show it.
        self.passed: list[HistoryFinding] = []
        self.lasting: dict[FindingKind, HistoryFinding] = {}

    def measure(self, epoch: int) -> None:
        report, before = self._signal.report(), self._steps
        self._steps = int(_of_optimizer(self.model, "iterations") or 0)
        steps = max(0, self._steps - before)
        changes = [one.change(steps) for one in self._kernels] if self.measured else []
        rate = _of_optimizer(self.model, "learning_rate")
        now = _Measurement(epoch, report, changes, rate)
        if self.measured:
            self._go_on(now)
        else:
            self._begin(now)
        self.measured.append(now)

    def _begin(self, now: _Measurement) -> None:
        for one in reversed(now.report.findings):
            what = one.verdict, one.severity, one.numbers, one.remedy
            finding = HistoryFinding(one.path, now.epoch, *what)
            # What is seen later too goes on; a total over the depth counts at the start.
            if one.verdict in (Verdict.DEAD, Verdict.NON_FINITE):
                self.lasting[one.verdict] = finding
            else:
                self.passed.insert(0, finding)

    def _go_on(self, now: _Measurement) -> None:
        for one in now.changes:
            if not math.isnan(one.total):
                self._pace = max(self._pace, one.per_step)
            if self._is_fast(one, now):
                known = self._fast.get(one.path, one)
                self._fast[one.path] = max(known, one, key=lambda change: change.per_step)
        if self._pace:
            pace = f"{self._pace:.2g} of themselves per step"
            self._changed = f"; kernels changed by up to {pace}"
        groups = group_by(self._signs(now), lambda one: one.fault)
        shown = {alike[0].fault: alike for alike in groups}
        for fault in [fault for fault in self.lasting if fault not in shown]:
            last = self.measured[-1].epoch
            self.passed.append(self.lasting.pop(fault)._replace(severity=NOTE, last=last))
        for fault, alike in shown.items():
            run = self.lasting.get(fault)
            first = next((one for one in alike if run and one.path == run.path), alike[0])
            numbers, semicolon, cause = first.numbers.partition(";")
            more = f" (and at {len(alike) - 1} more)" if len(alike) > 1 else ""
            self.lasting[fault] = first._replace(
                epoch=run.epoch if run else now.epoch,
                numbers=f"{numbers}{more}{semicolon}{cause}",
            )

    def _is_fast(self, change: _Change, now: _Measurement) -> bool:
        limit = _FAST_WITHOUT_USE if self._is_useless(now) else _FAST
        return bool(change.steps) and change.fair_total > limit * math.sqrt(change.steps)

    def _is_useless(self, now: _Measurement) -> bool:
        """Whether the loss of the batch has not fallen."""
        loss, least = now.report.loss, self.measured[0].report.loss
        return loss is not None and least is not None and not loss < _FALLEN * least

    def _signs(self, now: _Measurement) -> list[HistoryFinding]:
        """What a measurement shows."""
        if broken := list(self._broken(now)):
            return broken
        signs = [*self._units(now), *self._growth(now), *self._changes(now)]
        if not self._fast and all(one.fault is not Verdict.DEAD for one in signs):
            signs += self._stalled(now)
        return signs

    def _broken(self, now: _Measurement) -> Iterator[HistoryFinding]:
        """What is not finite: kernels, or else values, or else gradients."""
        rows, remedy = now.report.rows, ""
        kernels = [one.path for one in now.changes if math.isnan(one.total)]
        values = [row.name for row in rows if not math.isfinite(row.std)]
        slopes = [row.name for row in rows if not math.isfinite(row.gradient_std or 0.0)]
        what = "kernels" if kernels else "values" if values else "gradients"
        numbers = f"{what} that are not finite"
        if self._fast:
            numbers, remedy = numbers + self._changed, _LOWER
        elif kernels:
            remedy = "look for values in x and y that are not finite; if there are none, "
            remedy += _LOWER
        for path in kernels or values or slopes[::-1]:
            yield _sign(path, Verdict.NON_FINITE, ERROR, numbers, remedy)

    def _units(self, now: _Measurement) -> Iterator[HistoryFinding]:
        """Those that are dead, or at the ends of their activation."""
        rows, remedy = now.report.rows, _LOWER if self._fast else ""
        for row in rows:
            if Verdict.DEAD in row.verdicts and row.layer not in _SHAPES:
                numbers = f"{row.dead:.0%} of its units are 0 for the whole batch"
                level = ERROR if row.dead == 1 else WARNING
                yield _sign(row.name, Verdict.DEAD, level, numbers + self._changed, remedy)
            elif row.slope is not None and row.slope < SLOPE and row.depth < rows[-1].depth:
                numbers = f"its activation keeps {row.slope:.2g} of its slope"
                numbers += self._changed
                yield _sign(row.name, Fault.SATURATION, WARNING, numbers, remedy)

    def _growth(self, now: _Measurement) -> Iterator[HistoryFinding]:
        """A signal, or a gradient, that is much larger than any at the start."""
        for attribute, most in (("std", _SIGNAL_GREW), ("gradient_std", _GRADIENT_GREW)):
            start = self.measured[0].report.rows
            was = max((getattr(row, attribute) or 0.0 for row in start), default=0.0)
            what = attribute.replace("_", " ")
            for row in now.report.rows if was else ():
                size = getattr(row, attribute) or 0.0
                if size > most * was:
                    numbers = f"{what} {size:.2g}, at the start {was:.2g} at most"
                    numbers += self._changed
                    yield _sign(row.name, Verdict.EXPLODING, ERROR, numbers, _LOWER)

    def _changes(self, now: _Measurement) -> Iterator[HistoryFinding]:
        """Kernels that changed too fast, and those that may not change."""
        # What a step too large has broken stays so, however small those after it are.
        is_useless = self._is_useless(now)
        fast_now = {one.path for one in now.changes if self._is_fast(one, now)}
        loss, least = now.report.loss, self.measured[0].report.loss
        for path, change in self._fast.items():
            if is_useless or path in fast_now:
                numbers = f"its kernel changed by {change.per_step:.2g} of itself per step"
                if loss is not None and least is not None:
                    numbers += (
                        f"; the loss of the batch went from {least:.3g} to {loss:.3g}"
                    )
                yield _sign(path, Learning.FAST, WARNING, numbers)
        for change in now.changes:
            if not change.is_trainable:
                numbers = "its kernel is not trainable"
                yield _sign(change.path, Learning.FROZEN, NOTE, numbers)

    def _stalled(self, now: _Measurement) -> Iterator[HistoryFinding]:
        """Kernels that do not change although they are to learn."""
        first_rate = self.measured[0].rate
        learning = [one for one in now.changes if one.is_trainable and one.steps]
        if now.rate and first_rate and now.rate <= _DECAYED * first_rate:
            return
        if learning and (largest := max(one.per_step for one in learning)) < _SLOW:
            numbers = f"no kernel changed by more than {largest:.2g} of itself per step"
            rate = f", at a learning rate of {now.rate:.2g}" if now.rate is not None else ""
            yield _sign(learning[0].path, Learning.SLOW, WARNING, numbers + rate)
            return
        for change in learning:
            if change.total == 0:
                numbers = f"its kernel did not change in {change.steps} steps"
                yield _sign(change.path, Learning.STARVED, WARNING, numbers)


def _sign(
    path: str, fault: FindingKind, severity: str, numbers: str, remedy: str = ""
) -> HistoryFinding:
    """A finding of which it is not known yet since when it lasts."""
    return HistoryFinding(path, 0, fault, severity, numbers, remedy or fault.remedy)


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

    followed = ("std", "gradient_std", "dead", "slope")
    return [
        LayerHistory(
            path=row.path,
            call=row.call,
            layer=row.layer,
            depth=row.depth,
            **{attribute: history(row.name, attribute) for attribute in followed},
            change=change(row.path) if row.call == 1 else (None,) * len(measured),
            verdicts=tuple(dict.fromkeys(f.fault for f in findings if f.path == row.name)),
        )
        for row in (measured[0].report.rows if measured else ())
    ]
