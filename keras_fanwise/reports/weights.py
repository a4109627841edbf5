"""Reports by weight: fans, starts, calibrations, output biases, branches and audits."""

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from keras_fanwise.fans.counting import Fans
from keras_fanwise.reports.report import ERROR, SHOWN, FindingKind, Group, Report, Row
from keras_fanwise.reports.tables import (
    SHAPE,
    Mark,
    Panel,
    count_text,
    counted,
    first_names,
    group_by,
    labels,
    numbers,
    span,
    words,
)
from keras_fanwise.seam.weights import Role

# Columns that several reports have.
_KIND = counted("kernels", lambda row: f"{row.layer} {row.path.rpartition('/')[2]}")
_LAYER = words("layer", "layer")
_STATUS = words("", lambda row: f"{row.status}: {row.reason}" if row.reason else row.status)
_SHORT_STATUS = words("", "status")
_WEIGHT = words("weight", "path", shrinks=True)
_KERNEL = words("kernel", "path", shrinks=True)
_FANS = numbers("fan_in", "fans.fan_in"), numbers("fan_out", "fans.fan_out")
_STD_ASKED = numbers("std asked", "std_asked", ".4g")
_STD = numbers("std", "std", ".4g")


class WeightFans(NamedTuple):
    """The fans of one weight of a model, as this package and as Keras counts them.

    Attributes:
        path, shape: of the weight.
        layer: the class of the layer that owns it.
        fans: as `layer_fans` counts them.
        keras_fans: as the installed Keras counts them.
        fan_in_ratio: the standard deviation that this package gives the weight divided by
            the one that Keras gives it, by initializers that look at fan_in (He, LeCun).
        fan_avg_ratio: likewise, by those that look at both fans (Glorot).
        role: what the weight does in its layer: `"kernel"`, `"matrix"` (perhaps a kernel),
            `"lookup table"`, `"scale"`, `"bias"`, `"state"` or `"something else"`.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    fans: Fans
    keras_fans: Fans
    fan_in_ratio: float
    fan_avg_ratio: float
    role: Role


_KERAS_FANS = (
    numbers("Keras's\nfan_in", "keras_fans.fan_in"),
    numbers("Keras's\nfan_out", "keras_fans.fan_out"),
)
_RATIOS = (
    numbers("std of\nhe, lecun", "fan_in_ratio", ".3g", ".3g", sign="× "),
    numbers("std of\nglorot", "fan_avg_ratio", ".3g", ".3g", sign="× "),
)


@dataclass(eq=False, repr=False)
class FansTable(Report[WeightFans, Any]):
    """The weights of a model, a `WeightFans` for each in the order of the layers.

    Printed, it tells for how many kernels Keras counts different fans, then gives them, or
    their kinds if there are more than 20.
    """

    _title = "Fans of"
    _every = _WEIGHT, _LAYER, SHAPE, *_FANS, *_KERAS_FANS, *_RATIOS
    _short = _KERNEL, *_FANS, *_KERAS_FANS, *_RATIOS
    _kinds = _KIND, *_RATIOS

    def _verdict(self) -> str:
        kernels = self._shown()
        different = sum(row.fans != row.keras_fans for row in kernels)
        return f"Keras counts different fans for {different} of {len(kernels)} kernels."

    def _kind(self, row: WeightFans) -> Hashable:
        return super()._kind(row), row.fans == row.keras_fans

    def _panels(self) -> list[Panel]:
        values = {"he, lecun": "fan_in_ratio", "glorot": "fan_avg_ratio"}
        return [Panel.of("std, ours / Keras's", self._shown(), values, reference=1.0)]


@dataclass(eq=False, repr=False)
class _DoneReport(Report[Row, Any]):
    """What was done, which each row has as its status, or was not."""

    _done: ClassVar[str] = "set"

    def _verdict(self) -> str:
        count = sum(row.status == self._done for row in self.rows)
        return f"{count} {self._done}, {len(self) - count} kept"


class WeightStart(NamedTuple):
    """How a weight of a model starts.

    Attributes:
        path, layer, shape, fans, role: as in `WeightFans`.
        initializer: what fills it; `""` where nothing does.
        std_asked: the standard deviation that the initializer draws with; `None` for
            those that are not random or not known.
        std: the standard deviation of the values; `None` in a plan.
        status, reason: `"set"` or `"kept"`, and why it is kept.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    fans: Fans
    initializer: str = ""
    std_asked: float | None = None
    std: float | None = None
    status: str = "kept"
    reason: str = ""
    role: Role = Role.OTHER


# Initializers that differ in a seed alone are told together if there are more of them.
_MOST_INITIALIZERS = 8


@dataclass(eq=False, repr=False)
class StartReport(_DoneReport[WeightStart]):
    """What was done to every weight of a model, a `WeightStart` for each in its order.

    Printed, it tells how many weights were set and kept, by which initializer and why,
    then gives the kernels, or their kinds if there are more than 20.

    Attributes:
        seed: an integer with which the same call gives the same weights again.
        unsaved: the paths of weights whose new initializer no saved config holds, each with
            the reason. A model that is saved and loaded has their values, but
            `reinitialize` draws them by the initializer of before.
        kept_learning_rate: of a compiled model, where its optimizer keeps it; `None` if
            it was set, is a schedule, or there is none.
        remarks: what the recipe has to say of this model.
    """

    _title = "Start of"
    _every = (
        _WEIGHT,
        _LAYER,
        SHAPE,
        *_FANS,
        _STD_ASKED,
        _STD,
        words("initializer", "initializer"),
        _STATUS,
    )
    _short = _KERNEL, SHAPE, *_FANS, _STD_ASKED, _STD, _SHORT_STATUS
    _kinds = _KIND, _STD_ASKED, _STD, _SHORT_STATUS

    seed: int
    unsaved: dict[str, str] = field(default_factory=dict)
    kept_learning_rate: float | None = None
    remarks: list[str] = field(default_factory=list)

    def _verdict(self) -> str:
        return f"{super()._verdict()}; seed {self.seed}"

    def _groups(self, verbose: bool) -> Iterator[Group]:
        whole = len({row.initializer for row in self.rows}) <= _MOST_INITIALIZERS

        def label(row: WeightStart) -> str:
            name = row.initializer if whole else row.initializer.partition("(")[0]
            return f"{_STATUS.cell(row)} by {name}" if name else _STATUS.cell(row)

        for same in group_by([] if verbose else self.rows, label):
            kinds = ", ".join(map(_KIND.kind, group_by(same, _KIND.cell)))
            yield [f"{label(same[0])}: {count_text(len(same), 'weight')}: {kinds}"]
        for lost in group_by(self.unsaved, self.unsaved.__getitem__):
            paths = ", ".join(lost) if verbose else first_names(lost)
            yield [f"initializers not saved: {paths}: {self.unsaved[lost[0]]}"]
        if self.kept_learning_rate is not None:
            yield [f"the optimizer keeps its learning rate, {self.kept_learning_rate:.4g}"]
        yield from ([remark] for remark in self.remarks)

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.std_asked]
        return [Panel.of("std", rows, {"asked": "std_asked", "measured": "std"})]


class CalibratedWeight(NamedTuple):
    """What became of a kernel.

    Attributes:
        path, layer, shape: as in `WeightFans`.
        before: the standard deviation of what its layer gave before its activation, with
            all that came before it calibrated; `None` if that was not measured.
        factor: by what the kernel was multiplied, the median of its units by unit; 1 if it
            is kept.
        after: the standard deviation of what its layer gives now; `None` if it is kept.
        status, reason: `"scaled"` or `"kept"`, and why it is kept.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    before: float | None = None
    factor: float = 1.0
    after: float | None = None
    status: str = "kept"
    reason: str = ""


_SCALED = (
    numbers("std", "before", ".4g"),
    numbers("factor", lambda row: row.factor if row.status == "scaled" else None, ".4g"),
)


@dataclass(eq=False, repr=False)
class CalibrationReport(_DoneReport[CalibratedWeight]):
    """By what every kernel of a model was scaled, a `CalibratedWeight` for each.

    They are in the order of the calls, those that were not called at the end. Printed, it
    tells how many kernels were scaled, why others are kept, and gives the kernels, or their
    kinds if there are more than 20.
    """

    _title, _done = "Calibration of", "scaled"
    _every = _KERNEL, _LAYER, SHAPE, *_SCALED, _STATUS
    _short = _KERNEL, SHAPE, *_SCALED, _SHORT_STATUS
    _kinds = _KIND, *_SCALED, _SHORT_STATUS

    def _groups(self, verbose: bool) -> Iterator[Group]:
        kept = [row for row in self.rows if row.reason and not verbose]
        for same in group_by(kept, _STATUS.cell):
            paths = first_names([row.path for row in same])
            yield [f"{_STATUS.cell(same[0])}: {count_text(len(same), 'kernel')}: {paths}"]

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.before]
        return [Panel.of("std", rows, {"before": "before", "after": "after"})]


class OutputBias(NamedTuple):
    """What became of the bias of an output.

    Attributes:
        path, layer, shape: of the bias; of an output without one its name, in a report of
            outputs that `only` leaves out.
        output, loss: the names of the output and of its loss.
        smallest, largest: of the values that it is set to; `None` if it is kept.
        loss_before, loss_after: the loss of what the output gives without inputs, by the
            bias as it was and as it is set; the second is the loss of the base rates.
        status, reason: `"set"` or `"kept"`, and why it is kept.
    """

    path: str
    layer: str = ""
    shape: tuple[int, ...] = ()
    output: str = ""
    loss: str = ""
    smallest: float | None = None
    largest: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    status: str = "kept"
    reason: str = ""


_BEST = (
    words("loss", "loss"),
    numbers("smallest", "smallest", ".4g"),
    numbers("largest", "largest", ".4g"),
    numbers("loss\nbefore", "loss_before", ".4g"),
    numbers("loss\nafter", "loss_after", ".4g"),
)


@dataclass(eq=False, repr=False)
class OutputBiasReport(_DoneReport[OutputBias]):
    """To what the biases of a model's outputs were set, an `OutputBias` for each.

    Printed, it tells how many were set, and gives them all.
    """

    _title = "Output biases of"
    _every = _WEIGHT, _LAYER, SHAPE, words("output", "output"), *_BEST, _STATUS
    _short = _WEIGHT, *_BEST, _SHORT_STATUS

    def _panels(self) -> list[Panel]:
        values = {"before": "loss_before", "after": "loss_after"}
        rows = [row for row in self.rows if row.loss_after]
        return [Panel.of("loss without inputs", rows, values)]


class ResidualBranch(NamedTuple):
    """A branch that meets a signal in an addition, or an addition without one.

    Attributes:
        addition: the path of the layer or operation that adds; of a layer that could not
            be opened, its own.
        layer: the class of the layer that has the last weight.
        last: the paths of the last weights, each a γ or a kernel that none follows: several
            if the branch ends in a sum or a concatenation.
        kernels: the paths of all kernels of the branch, in the order of the calls.
        length: the most kernels that a signal passes in it.
        status: `"residual"`, `"other"` for an addition that is none, or `"unopened"`.
        reason: why it is that; of a residual branch, why it cannot start at zero.
    """

    addition: str
    layer: str = ""
    last: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    length: int = 0
    status: str = "residual"
    reason: str = ""


_LAST = words("last weight", lambda row: " and ".join(row.last))
_SHORT_LAST = words(
    "last weight", lambda row: _LAST.cell(row) or row.addition, shrinks=True
)
_LAST_KIND = counted(
    "last weights", lambda row: f"{row.layer} {''.join(row.last[-1:]).rpartition('/')[2]}"
)
_KERNELS = numbers("kernels", lambda row: row.length or None)


@dataclass(eq=False, repr=False)
class ResidualReport(Report[ResidualBranch, Any]):
    """The additions of a model and the branches that end there, a `ResidualBranch` each.

    They are in the order of the calls, layers that could not be opened at the end. Printed,
    it tells how many there are and what could not be opened, then gives the branches, or
    their kinds if there are more than 20.
    """

    _title = "Residual branches of"
    _every = words("addition", "addition"), _LAYER, _LAST, _KERNELS, _STATUS
    _short = _SHORT_LAST, _KERNELS
    _kinds = _LAST_KIND, _KERNELS

    def _verdict(self) -> str:
        found = Counter(row.status for row in self.rows)
        branches = count_text(found["residual"], "residual branch", "residual branches")
        counts = [branches, count_text(found["other"], "other addition")]
        if found["unopened"]:
            layers = count_text(found["unopened"], "layer")
            counts.append(f"{layers} that could not be opened")
        return ", ".join(counts)

    def _groups(self, verbose: bool) -> Iterator[Group]:
        told = [row for row in self.rows if row.reason and not verbose]
        for same in group_by(told, lambda row: (row.status, row.reason)):
            paths = first_names([row.addition for row in same])
            yield [f"{same[0].status}: {paths}: {same[0].reason}"]

    def _shown(self) -> list[ResidualBranch]:
        return [row for row in self.rows if row.status == "residual"]

    def _panels(self) -> list[Panel]:
        values = {"kernels of the branch": lambda row: float(row.length)}
        return [Panel.of("kernels", self._shown(), values, "addition")]


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
    _STD,
    numbers("forward", "forward", ".3g"),
    numbers("backward", "backward", ".3g"),
    labels("findings"),
)


@dataclass(eq=False, repr=False)
class AuditReport(Report[WeightAudit, AuditFinding]):
    """A `WeightAudit` for each weight of a float type, in the order of the model.

    Printed, it gives the verdict, then the findings by cause, then the kernels.

    Attributes:
        ignored: list of those findings that the caller said to ignore.
        is_trained: whether most kernels and most biases are no longer what their
            initializers draw; then every finding about finite values is a note.
    """

    _title = "Audit of"
    _every = _WEIGHT, _LAYER, SHAPE, *_FANS, *_BALANCE, _STD_ASKED, *_MEASURED
    _short = _KERNEL, SHAPE, *_MEASURED
    _kinds = _KIND, *_MEASURED

    ignored: list[AuditFinding] = field(default_factory=list, kw_only=True)
    is_trained: bool = field(default=False, kw_only=True)

    def remedies(self) -> dict[str, Any]:
        """For the path of each weight that needs one, an initializer that mends it.

        `keras_fanwise.initialize(model, report.remedies())` draws these weights again.
        """
        worst_last = self.findings[::-1]
        return {one.path: one.replacement for one in worst_last if one.replacement}

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

        def alike(one: AuditFinding) -> Hashable:
            same = one._label, one.cause, one.remedy, rows[one.path].layer
            return id(one) if verbose else same

        for found in group_by(self.findings, alike):
            first, paths = found[0], [one.path for one in found]
            lines = [f"{first._label}: {first.path}: {first.numbers}"]
            if len(found) > 1:
                kind = _KIND.kind([rows[path] for path in paths])
                factors = [one.factor for one in found]
                measured = f"std × {span(factors)}"
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
                label, shape = found[0]._label, _MARKERS[found[0].condition]
                marks.append(Mark(label, points, shape, found[0].severity == ERROR))
        values = {"forward": "forward", "backward": "backward"}
        return [Panel.of("fan · Var(w)", rows, values, marks=marks, reference=1.0)]
