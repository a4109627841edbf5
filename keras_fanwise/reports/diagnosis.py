"""Reports on what a model does: to a signal, in a training, and why it does not learn."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keras_fanwise.reports.report import Finding, FindingKind, Group, Report, Row
from keras_fanwise.reports.tables import (
    MOST_KERNELS,
    SHAPE,
    Mark,
    Panel,
    Region,
    group_by,
    labels,
    numbers,
    words,
)

_SCALE = (
    "call audit(model), which finds the weights whose scale does not fit their layer, and "
    "choose initializers by the gain() of the activations"
)


class Verdict(FindingKind):
    """What can become of a signal: its `label`, and a `remedy`."""

    VANISHING = ("vanishing", _SCALE)
    EXPLODING = ("exploding", _SCALE)
    DEAD = ("dead", "look at the biases and the weights of that layer and of those before")
    NON_FINITE = ("non-finite", "look for what overflows at that layer, or divides by zero")


class Trend(NamedTuple):
    """What becomes of a standard deviation over the hidden layers of one path.

    It is read at one row for each kernel: the last that has the shape of the kernel's own,
    so after its normalization, activation and addition.

    Attributes:
        rate: by what each layer multiplies it, `total ** (1 / layers)`; `None` with fewer
            than five hidden kernels on the path, and where the steps from kernel to kernel
            are others, as with a single jump.
        layers: how many kernels of the path are between the first and the last.
        total: the last standard deviation divided by the first.
        level: the first standard deviation, where the signal comes from.
        first, last: the names of the first and the last row.
        low: below this standard deviation the signal has vanished: a hundredth of `level`,
            less where the way leads through an average over positions, and less than all
            rows have if the report has no such finding.
        high: above this one it has exploded, likewise.
    """

    rate: float | None
    layers: int
    total: float
    level: float
    first: str
    last: str
    low: float
    high: float


class SignalFinding(NamedTuple):
    """What is wrong with the signal of a model.

    Attributes:
        verdict: what becomes of the signal.
        direction: `"forward"` or `"backward"`.
        severity: `"error"` or `"warning"`; see `SignalReport`.
        path: of the layer where it begins, or that multiplies a signal which vanishes or
            explodes by the least or the most.
        numbers: what was measured.
        remedy: what helps.
        replacements: for the path of each weight to be drawn again, its new initializer.
    """

    verdict: Verdict
    direction: str
    severity: str
    path: str
    numbers: str
    remedy: str
    replacements: Mapping[str, Any] | None = None


class LayerSignal(NamedTuple):
    """What was measured at a call of a layer.

    Attributes:
        path, layer: of the layer, and its class.
        call: 1 for the first call of this layer, 2 for the second, and so on.
        depth: the number of calls so far, with this one, of layers that have weights of
            two axes or more.
        shape, mean, std: of its output, the first if there are several.
        units: how many there are, along the channels.
        dead: the share of units that are 0 for the whole batch.
        gradient_std: of the gradient with respect to the output; `None` if none comes.
        verdicts: what is wrong at this layer.
        input_rms, input_gradient_std: of a recurrent layer the root of the mean square of
            what it takes, and the standard deviation of the gradient that it sends back;
            `None` for others.
        slope: what is left on average of the slope of its activation, such as tanh, whose
            largest is 1; `None` for activations without ends.
    """

    path: str
    call: int
    layer: str
    depth: int
    shape: tuple[int, ...]
    units: int
    mean: float
    std: float
    dead: float
    gradient_std: float | None
    verdicts: tuple[Verdict, ...] = ()
    input_rms: float | None = None
    input_gradient_std: float | None = None
    slope: float | None = None

    @property
    def name(self) -> str:
        """The path, with the number of the call where it is not the first."""
        return self.path if self.call == 1 else f"{self.path} ({self.call})"


_SIGNAL = (
    numbers("depth", "depth"),
    numbers("mean", "mean", ".2g"),
    numbers("std", "std", ".3g"),
    numbers("dead", "dead", ".0%"),
    numbers("gradient\nstd", "gradient_std", ".3g"),
    labels("verdicts"),
)
_NAME = words("layer", "name", shrinks=True)


def with_kernels(rows: Sequence[Any]) -> list[int]:
    """The numbers of the rows of calls of layers with kernels."""
    depths = [0, *(row.depth for row in rows)]
    return [i for i, row in enumerate(rows) if row.depth > depths[i]]


@dataclass(eq=False, repr=False)
class _LayerReport(Report[Row, Finding]):
    """A report with a row for each call of a layer, that shows those with kernels."""

    def _shown(self) -> list[Row]:
        return [self.rows[i] for i in sorted(self._places())]

    def _places(self) -> set[int]:
        """Of layers with kernels about 20, evenly spaced, and the first of each verdict."""
        kernels = with_kernels(self.rows)
        count = min(len(kernels), MOST_KERNELS)
        step = (len(kernels) - 1) / max(1, count - 1)
        shown = {kernels[round(i * step)] for i in range(count)}
        firsts: dict[FindingKind, int] = {}
        for i, row in enumerate(self.rows):
            for verdict in row.verdicts:
                firsts.setdefault(verdict, i)
        return shown | {*firsts.values()}

    def _left_out(self, verbose: bool) -> Iterator[Group]:
        kernels = with_kernels(self.rows)
        if len(kernels) > MOST_KERNELS and not verbose:
            count = f"{len(self._places() & {*kernels})} of {len(kernels)}"
            more = "text(verbose=True), or --verbose, gives every layer"
            yield [f"{count} layers with kernels follow; {more}"]


@dataclass(eq=False, repr=False)
class SignalReport(_LayerReport[LayerSignal, SignalFinding]):
    """A signal's way through a model and back, a `LayerSignal` for each call of a layer.

    Printed, it gives the verdict, trends and findings, then about 20 of the layers with
    kernels, evenly spaced, and those with a verdict.

    The trends are of the hidden layers of one path, the worst or else the longest, from the
    first that has a kernel to the last but one: what a model gives is often of another
    size. A signal vanishes or explodes if its standard deviation ends below 1/100 of that
    in the beginning, or above 100 times it, beyond what an average over positions does: a
    warning, and an error below 1/10,000 and above 300, but for a signal of which gradients
    come back; likewise what a recurrent layer gives by what it takes. A layer is dead if
    all its units are 0 for the whole batch, an error, or, a warning, more of them than the
    half that one would expect of ReLUs if all samples were equal, beyond chance, where no
    gradient comes back through their activation; but not if a kernel or a γ of 0, which
    learns, stands where a branch ends, or an output. Values that are not finite are errors.

    Attributes:
        forward: the `Trend` of the standard deviation; `None` without hidden layers.
        backward: the `Trend` of the gradients, from the last layer to the first.
        loss: of the batch, if there were targets.
    """

    _title = "Signal in"
    _every = _NAME, words("class", "layer"), SHAPE, *_SIGNAL
    _short = _NAME, *_SIGNAL

    forward: Trend | None
    backward: Trend | None
    loss: float | None = field(default=None, kw_only=True)

    def remedies(self) -> dict[str, Any]:
        """As `AuditReport.remedies`."""
        mended = [one.replacements for one in reversed(self.findings) if one.replacements]
        return {path: new for replacements in mended for path, new in replacements.items()}

    def _verdict(self) -> str:
        verdict = "is not healthy" if self.errors or self.warnings else "is healthy"
        return f"The signal {verdict}: {self._counts()}."

    def _groups(self, verbose: bool) -> Iterator[Group]:
        for direction, trend in (("forward", self.forward), ("backward", self.backward)):
            if trend:
                yield [f"{direction}: {trend_text(trend)}"]
        for finding in self.findings:
            label = f"{finding.severity}: {finding.verdict.label} {finding.direction}"
            head = f"{label}: {finding.numbers}, at {finding.path}"
            yield [head, f"Remedy: {finding.remedy}"]
        yield from self._left_out(verbose)

    def _panels(self) -> list[Panel]:
        def panel(label: str, value: str, direction: str, marks: Sequence[Mark]) -> Panel:
            shown = {"marks": marks, "regions": self._regions(direction)}
            return Panel.of(label, self.rows, {"": value}, "name", is_joined=True, **shown)

        marks = []
        for verdict, shape in ((Verdict.DEAD, "s"), (Verdict.NON_FINITE, "D")):
            points = [i for i, row in enumerate(self.rows) if verdict in row.verdicts]
            if points:
                marks.append(Mark(verdict.label, points, shape))
        return [
            panel("std", "std", "forward", marks),
            panel("gradient std", "gradient_std", "backward", ()),
        ]

    def _regions(self, direction: str) -> list[Region]:
        """Where a signal has vanished or exploded, over the hidden layers, if it does."""
        trend: Trend | None = getattr(self, direction)
        last = max((row.depth for row in self.rows), default=0)
        hidden = [i for i, row in enumerate(self.rows) if 0 < row.depth < last]
        if not trend or not trend.level or not hidden:
            return []
        ends = hidden[0], hidden[-1]
        ends = ends[::-1] if direction == "backward" else ends
        verdicts = {one.verdict for one in self.findings if one.direction == direction}
        limits = {Verdict.VANISHING: trend.low, Verdict.EXPLODING: trend.high}
        return [
            Region(verdict.label, *ends, verdict is Verdict.EXPLODING, limit)
            for verdict, limit in limits.items()
            if verdict in verdicts
        ]


def trend_text(trend: Trend) -> str:
    """Such as "× 0.5 per layer, × 0.0625 over 4 layers", or "× 0.25 from a to b"."""
    if trend.rate is None:
        return f"× {trend.total:.2g} from {trend.first} to {trend.last}"
    return f"× {trend.rate:.3g} per layer, × {trend.total:.2g} over {trend.layers} layers"


class Learning(FindingKind):
    """What can be wrong with how kernels change: its `label`, and a `remedy`."""

    FAST = (
        "too fast",
        "lower the learning rate, let it warm up, or clip gradients (clipnorm=1.0)",
    )
    FROZEN = ("frozen", "set trainable=True before compile, if it is to learn")
    STARVED = ("no gradient", "look for what lets no gradient come to that layer")
    SLOW = ("too slow", "raise the learning rate")


class HistoryFinding(NamedTuple):
    """What went wrong in a training; printed, it is a sentence.

    Attributes:
        path: of the layer where it began, the first of them.
        epoch: after how many epochs it was found first; 0 is before the first step.
        fault: of which kind it is: a `Verdict`, `Learning`, or `Fault.SATURATION`.
        severity: `"error"`, `"warning"` or `"note"`; what has passed is a note.
        numbers: what was measured, and the likely cause.
        remedy: what helps.
        last: the last epoch in which it was found, if it has passed.
    """

    path: str
    epoch: int
    fault: FindingKind
    severity: str
    numbers: str
    remedy: str
    last: int | None = None

    def __str__(self) -> str:
        return f"{self._head()}: {self.remedy}"

    def _head(self) -> str:
        when = f"since epoch {self.epoch}" if self.epoch else "from the start"
        if self.last is not None:
            when = f"in epochs {self.epoch} to {self.last}"
        if self.last == self.epoch:
            when = f"in epoch {self.epoch}"
        return f"{self.fault.label} at {self.path} {when}: {self.numbers}"


# Of each measurement in turn, the start first; `None` where there is none.
Numbers = tuple[float | None, ...]


class LayerHistory(NamedTuple):
    """What was measured at a call of a layer, each in a tuple with a value per epoch.

    Attributes:
        path, call, layer, depth: as in `LayerSignal`.
        std, gradient_std, dead, slope: likewise, at each measurement.
        change: by how much of its norm its kernel changed per step since the measurement
            before, the largest if there are several kernels.
        verdicts: the kinds of what went wrong at this layer.
    """

    path: str
    call: int
    layer: str
    depth: int
    std: Numbers
    gradient_std: Numbers
    dead: Numbers
    slope: Numbers
    change: Numbers
    verdicts: tuple[FindingKind, ...] = ()

    @property
    def name(self) -> str:
        """The path, with the number of the call where it is not the first."""
        return self.path if self.call == 1 else f"{self.path} ({self.call})"


def _at(name: str, place: int) -> Callable[[Any], float | None]:
    return lambda row: getattr(row, name)[place] if getattr(row, name) else None


def _largest(row: LayerHistory) -> float | None:
    return max((change for change in row.change if change is not None), default=None)


def _first_label(row: LayerHistory) -> str:
    more = ", …" if len(row.verdicts) > 1 else ""
    return row.verdicts[0].label + more if row.verdicts else ""


_HISTORY = (
    numbers("std\nfirst", _at("std", 0), ".2g"),
    numbers("\nlast", _at("std", -1), ".2g"),
    numbers("gradient\nfirst", _at("gradient_std", 0), ".2g"),
    numbers("\nlast", _at("gradient_std", -1), ".2g"),
    numbers("dead\nlast", _at("dead", -1), ".0%"),
    numbers("change\nlargest", _largest, ".2g"),
)


@dataclass(eq=False, repr=False)
class HistoryReport(_LayerReport[LayerHistory, HistoryFinding]):
    """A `LayerHistory` for each call of a layer, and what went wrong since which epoch."""

    _title = "Training of"
    _every = (
        _NAME,
        *_HISTORY,
        numbers("\nlast", _at("change", -1), ".2g"),
        labels("verdicts"),
    )
    # More does not fit 80 columns; the findings tell all.
    _short = _NAME, *_HISTORY, words("", _first_label)

    epochs: tuple[int, ...]  # after how many each measurement was; 0 is the start

    def _verdict(self) -> str:
        if not self.epochs:
            return "Nothing is measured yet."
        is_wrong = self.errors or self.warnings
        verdict = "is not healthy" if is_wrong else "is healthy so far"
        return f"The training {verdict}, after epoch {self.epochs[-1]}: {self._counts()}."

    def _groups(self, verbose: bool) -> Iterator[Group]:
        for one in self.findings:
            yield [f"{one.severity}: {one._head()}", f"Remedy: {one.remedy}"]
        yield from self._left_out(verbose)

    def _panels(self) -> list[Panel]:
        def panel(label: str, name: str, **more: Any) -> Panel:
            values = {str(epoch): _at(name, i) for i, epoch in enumerate(self.epochs)}
            return Panel.of(label, self.rows, values, "name", is_grid=True, **more)

        return [
            panel("std", "std"),
            panel("gradient std", "gradient_std"),
            panel("dead units", "dead", limits=(0.0, 1.0)),
            panel("change per step", "change"),
        ]


class Fault(FindingKind):
    """What can be wrong with data, head and loss: its `label`, and a `remedy`."""

    INPUTS = ("inputs", "bring the inputs to a mean near 0 and a deviation near 1")
    TARGETS = ("targets", "give the targets that the loss takes")
    HEAD = ("head", "give the loss what it takes: probabilities or logits")
    LOSS = (
        "loss at the start",
        "bring the outputs to the mean and the width of the targets",
    )
    SATURATION = ("saturation", "make what comes before the activation smaller")


class DiagnosisFinding(NamedTuple):
    """What is wrong with a model, its data or its loss.

    Attributes:
        path: of the weight or the layer, or the name of the output.
        fault: of which kind it is: a `Fault`, a `Condition` of a weight, or the `Verdict`
            of a signal.
        severity: `"error"`, `"warning"` or `"note"`.
        numbers: what was measured, and what it should be.
        remedy: the line to change, where that is data, head or loss.
    """

    path: str
    fault: FindingKind
    severity: str
    numbers: str
    remedy: str = ""


class Trial(NamedTuple):
    """A start that was tried, measured and taken back.

    Attributes:
        line: what carries it out; `""` for the model as it is.
        errors, warnings: how many findings it leaves.
        forward, backward: the total of the signal and of its gradient over the depth, as in
            `Trend`; `None` without hidden layers.
        loss: of the batch; `None` without targets.
        loss_after: the same after the steps that were asked for.
    """

    line: str
    errors: int
    warnings: int
    forward: float | None = None
    backward: float | None = None
    loss: float | None = None
    loss_after: float | None = None


def _start(row: Trial) -> str:
    return row.line or "as it is"


_TRIAL = (
    words("start", _start, shrinks=True),
    words("errors,\nwarnings", lambda row: f"{row.errors}, {row.warnings}"),
    numbers("forward", "forward", ".2g"),
    numbers("backward", "backward", ".2g"),
    numbers("loss", "loss", ".3g"),
    numbers("after\nsteps", "loss_after", ".3g"),
)
_MOST_FINDINGS = 12


@dataclass(eq=False, repr=False)
class Diagnosis(Report[Trial, DiagnosisFinding]):
    """What is wrong with a model and its data, and a `Trial` for each start tried.

    Printed, it gives the verdict, the findings by kind with the line to change, and those
    starts that help. The first row is the model as it is.

    Attributes:
        best: the number of the row that `apply` carries out; 0 if no start helps.
    """

    _title = "Starts of"
    _every = _short = _TRIAL

    best: int = 0
    _carry_out: Any = None

    def apply(self, seed: int = 0) -> Any:
        """Carries out the start that helps most, on the model that was diagnosed.

        Args:
            seed: an integer from 0 to 2**64 - 1, for what is drawn.

        Returns:
            The report of what was done.

        Raises:
            ValueError: no start that was tried helps.
        """
        if not self.best:
            raise ValueError(
                "`apply` must be called where a start helps. Received: a diagnosis of "
                f"{self.name!r} in which none does; see its findings"
            )
        return self._carry_out(seed)

    def _verdict(self) -> str:
        verdict = "starts well"
        if self.warnings:
            verdict = "may train slowly, or at few learning rates"
        if self.errors:
            verdict = "will not train as it is"
        return f"The model {verdict}: {self._counts()}."

    def _groups(self, verbose: bool) -> Iterator[Group]:
        def alike(one: DiagnosisFinding) -> Hashable:
            return id(one) if verbose else (one.severity, one.fault, one.remedy)

        groups = list(group_by(self.findings, alike))
        most = len(groups) if verbose else _MOST_FINDINGS
        for first, *others in groups[:most]:
            more = f", and {len(others)} more like it" if others else ""
            head = f"{first.severity}: {first.fault.label}: {first.path}: {first.numbers}"
            yield [head + more, *([f"Remedy: {first.remedy}"] if first.remedy else [])]
        if groups[most:]:
            yield [f"and {len(groups) - most} kinds more; text(verbose=True) has all"]
        if self.best:
            line = self.rows[self.best].line
            yield [f"Remedy, as tried below: {line}; or report.apply(seed=0)"]

    def _shown(self) -> list[Trial]:
        """The model as it is, and those starts that leave less."""
        first, *others = self.rows
        better = [
            row
            for place, row in enumerate(others, 1)
            # Of one that leaves errors not all may have been counted.
            if place == self.best
            or (not row.errors and (first.errors or row.warnings < first.warnings))
        ]
        return [first, *better] if better else []

    def _panels(self) -> list[Panel]:
        values = {"forward": "forward", "backward": "backward"}
        return [Panel.of("total over the depth", self.rows, values, _start, reference=1.0)]
