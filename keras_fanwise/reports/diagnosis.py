"""Reports that judge: what an audit finds, and what becomes of a signal."""

import enum
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keras_fanwise.fans.counting import Fans
from keras_fanwise.reports.report import ERROR, Finding, Group, Report, Row
from keras_fanwise.reports.tables import (
    FANS,
    KERNEL,
    KIND,
    LAYER,
    MOST_KERNELS,
    SHAPE,
    SHOWN,
    STD,
    STD_ASKED,
    WEIGHT,
    Column,
    Mark,
    Panel,
    Region,
    first_names,
    group_by,
    numbers,
    span,
    words,
)
from keras_fanwise.seam.weights import Role


class FindingKind(enum.Enum):
    """A kind of finding, with what helps; its value is its label."""

    label: str
    remedy: str

    def __new__(cls, label: str, remedy: str) -> "FindingKind":
        # Pickles hold the value: a label stays, the words of a remedy may change.
        member = object.__new__(cls)
        member._value_ = member.label = label
        member.remedy = remedy
        return member


def labels(value: str) -> Column:
    """A column of kinds of findings, each once."""
    kinds = operator.attrgetter(value)
    return words("", lambda row: ", ".join(dict.fromkeys(one.label for one in kinds(row))))


class Condition(FindingKind):
    """What a good start must meet: its `label`, and a `remedy` where it is not met."""

    SYMMETRY = (
        "symmetry",
        "give the weight a random initializer, and no two weights the same values",
    )
    BALANCE = ("balance", "draw the weight from a distribution that is symmetric about 0")
    SCALE = ("scale", "draw the weight with the standard deviation that its fans ask for")
    GLOROT = (
        "Glorot",
        "use an initializer that counts the fans of the layer, by name or by retrofit()",
    )
    INITIALIZER = (
        "initializer",
        "none if it was trained or set on purpose; reinitialize(model) draws it again",
    )


# In figures, by matplotlib's names.
_MARKERS = dict(zip(Condition, "sD^*P", strict=True))


class AuditFinding(NamedTuple):
    """A weight that does not meet a condition.

    Attributes:
        path: of the weight.
        condition: which one.
        severity: `"error"`, `"warning"` or `"note"`; see `audit`.
        numbers: what was measured, and what it should be.
        cause: what is likely to have led to it.
        remedy: what helps.
        factor: the standard deviation over the one that the fans ask for, if they do.
        replacement: an initializer that mends it, if one is needed.
    """

    path: str
    condition: Condition
    severity: str
    numbers: str
    cause: str
    remedy: str
    factor: float | None = None
    replacement: Any = None

    @property
    def _label(self) -> str:
        return f"{self.severity}: {self.condition.label}"

    @property
    def _replacements(self) -> Mapping[str, Any]:
        return {} if self.replacement is None else {self.path: self.replacement}


class WeightAudit(NamedTuple):
    """What was measured of a weight.

    Attributes:
        path, layer, shape, fans, role: as in `WeightFans`.
        initializer: that it was given; `""` if not known.
        mean, std: of the values.
        positive: the share of positive values, zeros counted half.
        std_asked: the standard deviation that the fans ask for; `None` for weights that are
            not random, or whose initializer is unknown.
        forward: fan_in · Var(w), by which the weight multiplies the variance of a signal.
        backward: fan_out · Var(w), by which it multiplies the variance of gradients.
        findings: the conditions that it does not meet.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    fans: Fans
    initializer: str
    mean: float
    positive: float
    std_asked: float | None
    std: float
    forward: float
    backward: float
    findings: tuple[Condition, ...]
    role: Role


_BALANCE = numbers("mean", "mean", ".2g"), numbers("positive", "positive", ".0%")
_MEASURED = (
    STD,
    numbers("forward", "forward", ".3g"),
    numbers("backward", "backward", ".3g"),
    labels("findings"),
)


class _Remedied(Report[Row, Finding]):
    """A report whose findings propose initializers."""

    def remedies(self) -> dict[str, Any]:
        """For the path of each weight that needs one, an initializer that mends it.

        `keras_fanwise.initialize(model, report.remedies())` draws these weights again.
        """
        findings: list[Any] = self.findings[::-1]  # the worst one last
        return {path: new for one in findings for path, new in one._replacements.items()}


@dataclass(eq=False, repr=False)
class AuditReport(_Remedied[WeightAudit, AuditFinding]):
    """A `WeightAudit` for each weight of a float type, in the order of the model.

    Printed, it gives the verdict, then the findings by cause, then the kernels.

    Attributes:
        ignored: list of those findings that the caller said to ignore.
        is_trained: whether most kernels and most biases are no longer what their
            initializers draw; then every finding about finite values is a note.
    """

    _title = "Audit of"
    _every = WEIGHT, LAYER, SHAPE, *FANS, *_BALANCE, STD_ASKED, *_MEASURED
    _short = KERNEL, SHAPE, *_MEASURED
    _kinds = KIND, *_MEASURED

    ignored: list[AuditFinding] = field(default_factory=list, kw_only=True)
    is_trained: bool = field(default=False, kw_only=True)

    def _verdict(self) -> str:
        ignored = f", {len(self.ignored)} ignored" if self.ignored else ""
        counts = f"{self._counts()}{ignored}"
        if self.is_trained:
            return (
                f"The model looks trained: {counts}. Most kernels are not what their "
                "initializers draw, and are not judged as a start."
            )
        if self.errors:
            return f"The model will not start well: {counts}."
        if self.warnings:
            return f"The model may start badly: {counts}."
        told = "Check the signal with signal(model, x)."
        return f"The weights are well scaled: {counts}. {told}"

    def _groups(self, verbose: bool) -> Iterator[Group]:
        rows = {row.path: row for row in self.rows}

        def alike(finding: AuditFinding) -> Any:
            if verbose:
                return id(finding)
            _, condition, severity, _, cause, remedy, *_ = finding
            return condition, severity, cause, remedy, rows[finding.path].layer

        for found in group_by(self.findings, alike):
            first = found[0]
            paths = [finding.path for finding in found]
            if len(found) == 1:
                lines = [f"{first._label}: {first.path}: {first.numbers}"]
            else:
                kind = KIND.kind([rows[path] for path in paths])
                factors = [finding.factor for finding in found]
                measured = "std × " + span(factors)
                if None in factors:
                    measured = f"the first: {first.numbers}"
                lines = [f"{first._label}: {kind}, {measured}", first_names(paths)]
            yield [*lines, first.cause, f"Remedy: {first.remedy}"]

    def _shown(self) -> list[WeightAudit]:
        return [row for row in self.rows if row.role in SHOWN or row.findings]

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.std_asked or row.findings]
        places = {row.path: place for place, row in enumerate(rows)}
        # A weight gets the marker of its first finding: errors come first.
        firsts = {finding.path: finding for finding in reversed(self.findings)}
        marks = []
        for found in group_by(self.findings, lambda one: one._label):
            points = sorted(places[one.path] for one in found if firsts[one.path] is one)
            if points:
                _, condition, level, *_ = found[0]
                is_filled = level == ERROR
                marks.append(Mark(found[0]._label, points, _MARKERS[condition], is_filled))
        values = {"forward": "forward", "backward": "backward"}
        return [Panel.of("fan · Var(w)", rows, values, marks=marks, reference=1.0)]


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

    @property
    def _replacements(self) -> Mapping[str, Any]:
        return self.replacements or {}


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
NAME = words("layer", "name", shrinks=True)


def with_kernels(rows: Sequence[Any]) -> list[int]:
    """The numbers of the rows of calls of layers with kernels."""
    depths = [0, *(row.depth for row in rows)]
    return [i for i, row in enumerate(rows) if row.depth > depths[i]]


@dataclass(eq=False, repr=False)
class LayerReport(Report[Row, Finding]):
    """A report with a row for each call of a layer, that shows those with kernels."""

    def _shown(self) -> list[Row]:
        return [self.rows[i] for i in sorted(self._places())]

    def _places(self) -> set[int]:
        """Of layers with kernels about 20, evenly spaced, and the first of each verdict."""
        rows: list[Any] = self.rows
        kernels = with_kernels(rows)
        count = min(len(kernels), MOST_KERNELS)
        step = (len(kernels) - 1) / max(1, count - 1)
        shown = {kernels[round(i * step)] for i in range(count)}
        last_first = reversed(list(enumerate(rows)))
        firsts = {verdict: i for i, row in last_first for verdict in row.verdicts}
        return shown | set(firsts.values())

    def _left_out(self, verbose: bool) -> Iterator[Group]:
        kernels = with_kernels(self.rows)
        if len(kernels) > MOST_KERNELS and not verbose:
            count = f"{len(self._places() & {*kernels})} of {len(kernels)}"
            more = "text(verbose=True), or --verbose, gives every layer"
            yield [f"{count} layers with kernels follow; {more}"]


@dataclass(eq=False, repr=False)
class SignalReport(
    LayerReport[LayerSignal, SignalFinding], _Remedied[LayerSignal, SignalFinding]
):
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
    half that one would expect of ReLUs if all samples were equal, beyond chance; but not if
    a kernel or a γ is 0 where a branch ends, or an output. Values that are not finite are
    errors.

    Attributes:
        forward: the `Trend` of the standard deviation; `None` without hidden layers.
        backward: the `Trend` of the gradients, from the last layer to the first.
        loss: of the batch, if there were targets.
    """

    _title = "Signal in"
    _every = NAME, words("class", "layer"), SHAPE, *_SIGNAL
    _short = NAME, *_SIGNAL

    forward: Trend | None
    backward: Trend | None
    loss: float | None = field(default=None, kw_only=True)

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
        marks = []
        for verdict, shape in ((Verdict.DEAD, "s"), (Verdict.NON_FINITE, "D")):
            points = [i for i, row in enumerate(self.rows) if verdict in row.verdicts]
            if points:
                marks.append(Mark(verdict.label, points, shape))
        forward = Panel.of("std", self.rows, {"": "std"}, "name", marks=marks)
        backward = Panel.of("gradient std", self.rows, {"": "gradient_std"}, "name")
        return [
            forward._replace(regions=self._regions("forward"), is_joined=True),
            backward._replace(regions=self._regions("backward"), is_joined=True),
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


_TRIAL = (
    words("start", lambda row: row.line or "as it is", shrinks=True),
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
        def alike(one: DiagnosisFinding) -> Any:
            return id(one) if verbose else (one.severity, one.fault, one.remedy)

        groups = list(group_by(self.findings, alike))
        shown = groups if verbose else groups[:_MOST_FINDINGS]
        for found in shown:
            first, *others = found
            more = f", and {len(others)} more like it" if others else ""
            head = f"{first.severity}: {first.fault.label}: {first.path}: {first.numbers}"
            yield [head + more, *([f"Remedy: {first.remedy}"] if first.remedy else [])]
        if len(shown) < len(groups):
            yield [f"and {len(groups) - len(shown)} kinds more; text(verbose=True) has all"]
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
        rows = [row._replace(line=row.line or "as it is") for row in self.rows]
        return [Panel.of("total over the depth", rows, values, "line", reference=1.0)]
