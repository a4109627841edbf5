"""What an audit finds."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from keras_fanwise.fans.counting import Fans
from keras_fanwise.reports.report import FindingKind, Group, Report
from keras_fanwise.reports.tables import (
    MOST_KERNELS,
    SHOWN,
    Mark,
    Panel,
    Table,
    count_text,
    grouped,
    kind_text,
    number_text,
    shape_text,
    some,
    span,
)
from keras_fanwise.seam.weights import Role

ERROR, NOTE = "error", "note"
_SHORT = ("kernel", "shape", "std", "forward", "backward", "")
_KINDS = ("kernels", *_SHORT[2:])
_VERBOSE = (
    "weight", "layer", "shape", "fan_in", "fan_out", "mean", "positive", "std asked", "std",
    "forward", "backward", "",
)  # fmt: skip


class Condition(FindingKind):
    """What a good start must meet, with what helps where it does not.

    Attributes:
        label: what tables and JSON call it.
        remedy: what helps.
    """

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
        "none if it was trained or set on purpose; reinitialize(model) draws it anew",
    )


class AuditFinding(NamedTuple):
    """A weight that does not meet a condition.

    Attributes:
        path: of the weight.
        condition: which one.
        severity: `"error"` if the network will not start well, `"note"` if it may.
        numbers: what was measured, and what it should be.
        cause: what is likely to have led to it.
        remedy: what helps.
        factor: by what the standard deviation differs from the one that the fans ask for;
            `None` where nothing is asked.
        replacement: an initializer that mends it, by name or as an instance; `None` where
            none is needed.
    """

    path: str
    condition: Condition
    severity: str
    numbers: str
    cause: str
    remedy: str
    factor: float | None = None
    replacement: Any = None


class WeightAudit(NamedTuple):
    """What was measured of a weight.

    Attributes:
        path: of the weight.
        layer: the class of the layer that owns it.
        shape: of the weight.
        fans: as `layer_fans` counts them.
        initializer: that it was given; `""` if nobody knows.
        mean: of the values.
        positive: the share of positive values, zeros counted half.
        std_asked: the standard deviation that the fans ask for; `None` where nothing is
            asked: of weights that are not random, or whose initializer is unknown.
        std: the standard deviation of the values.
        forward: fan_in · Var(w), by which the weight multiplies the variance of a signal.
        backward: fan_out · Var(w), by which it multiplies that of gradients.
        findings: the conditions that it does not meet.
        role: what the weight does in its layer: `"kernel"`, `"matrix"` (perhaps a kernel),
            `"lookup table"`, `"scale"`, `"bias"`, `"state"` or `"something else"`.
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


class AuditReport(Report[WeightAudit]):
    """Every weight of a model, measured.

    Printed, it gives the verdict, then the findings by cause, then the kernels; `text` can
    give every weight. Its length is the number of weights.

    Attributes:
        rows: list of `WeightAudit`, one for each weight of a float type, in the order of
            the model.
        findings: list of `AuditFinding`, errors first; empty for a good start.
        ignored: list of those findings that the caller said to ignore.
        name: of the model.
    """

    _title = "Audit of"

    def __init__(
        self,
        rows: list[WeightAudit],
        findings: list[AuditFinding],
        ignored: Sequence[AuditFinding] = (),
        *,
        name: str = "",
    ) -> None:
        super().__init__(rows, name=name)
        self.findings = sorted(findings, key=lambda finding: finding.severity != ERROR)
        self.ignored = list(ignored)

    @property
    def errors(self) -> list[AuditFinding]:
        """The findings with which the network will not start well."""
        return [finding for finding in self.findings if finding.severity == ERROR]

    @property
    def notes(self) -> list[AuditFinding]:
        """The findings with which it may."""
        return [finding for finding in self.findings if finding.severity != ERROR]

    def remedies(self) -> dict[str, Any]:
        """For the path of each weight that needs one, an initializer that mends it.

        `keras_fanwise.initialize(model, report.remedies())` draws these weights anew.
        """
        return {
            finding.path: finding.replacement
            for finding in reversed(self.findings)
            if finding.replacement is not None
        }

    def _verdict(self) -> str:
        counts = [
            count_text(len(self.errors), "error"),
            count_text(len(self.notes), "note"),
        ]
        if self.ignored:
            counts.append(f"{len(self.ignored)} ignored")
        verdict = "will not start well" if self.errors else "starts well"
        return f"The model {verdict}: {', '.join(counts)}."

    def _groups(self, verbose: bool) -> Iterator[Group]:
        """Findings of one cause and remedy: a line that counts them, and what is to say."""
        if verbose:
            yield from map(_finding_lines, self.findings)
            return
        layers = {row.path: row.layer for row in self.rows}

        def kind(finding: AuditFinding) -> tuple[Any, ...]:
            return finding[1:3] + finding[4:6] + (layers.get(finding.path, ""),)

        for found in grouped(self.findings, kind):
            first = found[0]
            if len(found) == 1:
                yield _finding_lines(first)
                continue
            paths = [finding.path for finding in found]
            what = kind_text(layers.get(first.path, ""), first.path, len(found))
            head = f"{first.severity}: {first.condition.label}: {what}, {_range(found)}"
            yield head, [some(paths), first.cause, f"Remedy: {first.remedy}"]

    def _table(self, verbose: bool) -> Table:
        if verbose:
            return Table(_VERBOSE, [_cells(row) for row in self.rows], (0, 1, 2, 11))
        rows = [row for row in self.rows if row.role in SHOWN or row.findings]
        if len(rows) <= MOST_KERNELS:
            short = [_cells(row) for row in rows]
            cells = [(every[0], every[2], *every[8:]) for every in short]
            return Table(_SHORT, cells, (0, 5))

        def kind(row: WeightAudit) -> tuple[str, ...]:
            return row.layer, row.path.rpartition("/")[2], _labels(row)

        kinds = [
            (
                kind_text(same[0].layer, same[0].path, len(same)),
                span(row.std for row in same),
                span(row.forward for row in same),
                span(row.backward for row in same),
                _labels(same[0]),
            )
            for same in grouped(rows, kind)
        ]
        return Table(_KINDS, kinds, (0, 4))

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.std_asked or row.findings]
        places = {row.path: place for place, row in enumerate(rows)}
        marked: set[int] = set()
        marks = []
        for found in grouped(self.findings, lambda finding: finding[1:3]):
            condition, severity = found[0].condition, found[0].severity
            # A weight gets the shape of its first finding: errors come first.
            points = {places[one.path] for one in found if one.path in places} - marked
            marked |= points
            if points:
                label = f"{severity}: {condition.label}"
                shape = _SHAPES[condition]
                marks.append(Mark(label, sorted(points), shape, severity == ERROR))
        series = {
            "forward": [row.forward for row in rows],
            "backward": [row.backward for row in rows],
        }
        names = [row.path for row in rows]
        return [Panel("fan · Var(w)", names, series, marks, reference=1.0)]


# Those of matplotlib's markers.
_SHAPES = {
    Condition.SYMMETRY: "s",
    Condition.BALANCE: "D",
    Condition.SCALE: "^",
    Condition.GLOROT: "*",
    Condition.INITIALIZER: "P",
}


def _finding_lines(finding: AuditFinding) -> Group:
    label = f"{finding.severity}: {finding.condition.label}"
    head = f"{label}: {finding.path}: {finding.numbers}"
    return head, [finding.cause, f"Remedy: {finding.remedy}"]


def _labels(row: WeightAudit) -> str:
    return ", ".join(dict.fromkeys(condition.label for condition in row.findings))


def _cells(row: WeightAudit) -> tuple[str, ...]:
    return (
        row.path,
        row.layer,
        shape_text(row.shape),
        *map(number_text, row.fans),
        number_text(row.mean, 2),
        f"{row.positive:.0%}",
        number_text(row.std_asked, 4),
        number_text(row.std, 4),
        number_text(row.forward, 3),
        number_text(row.backward, 3),
        _labels(row),
    )


def _range(findings: Sequence[AuditFinding]) -> str:
    factors = [finding.factor for finding in findings]
    if None in factors:
        return f"the first: {findings[0].numbers}"
    return f"std × {span(factors)}"
