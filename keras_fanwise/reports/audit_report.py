"""What an audit finds."""

import html
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.text import Text

from keras_fanwise.arguments import printable
from keras_fanwise.fans.counting import Fans
from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import (
    FindingKind,
    Report,
    fitted,
    number_text,
    screen_width,
    shape_text,
    wrapped,
)

ERROR, NOTE = "error", "note"
# Of more kernels the short report shows a row for each kind.
_MOST_KERNELS = 20
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


class AuditReport(Report[WeightAudit]):
    """Every weight of a model, measured.

    Printed, it gives the verdict, then the findings by cause, then the kernels; `text` can
    give every weight. Its length is the number of weights.

    Attributes:
        rows: list of `WeightAudit`, one for each weight of a float type, in the order of
            the model.
        findings: list of `AuditFinding`, errors first; empty for a good start.
        ignored: list of those findings that the caller said to ignore.
    """

    def __init__(
        self,
        rows: list[WeightAudit],
        findings: list[AuditFinding],
        ignored: Sequence[AuditFinding] = (),
    ) -> None:
        super().__init__(rows)
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

    def text(self, verbose: bool = False) -> str:
        """The report as a text as wide as the terminal, of at least 80 columns.

        Args:
            verbose: whether to give every weight and every finding, with names in full,
                in place of the kernels and of the findings by cause.
        """
        width = screen_width()
        lines = [*wrapped(self._verdict(), width), ""]
        if verbose:
            for finding in self.findings:
                for place, line in enumerate(_told(finding)):
                    lines += wrapped(line, width, hanging=4, first=4 * (place > 0))
            table = fitted(_VERBOSE, map(_cells, self.rows), None, left=(0, 1, 2, 11))
        else:
            for head, rest in self._groups():
                lines += wrapped(head, width, hanging=4)
                for line in rest:
                    lines += wrapped(line, width, hanging=4, first=4)
            headers, rows = self._kernels()
            table = fitted(headers, rows, width, left=(0, len(headers) - 1))
        return "\n".join([*lines, *([""] if self.findings else []), *table]).rstrip()

    def _verdict(self) -> str:
        counts = [
            f"{len(found)} {name}{'s' * (len(found) != 1)}"
            for name, found in (("error", self.errors), ("note", self.notes))
        ]
        if self.ignored:
            counts.append(f"{len(self.ignored)} ignored")
        verdict = "will not start well" if self.errors else "starts well"
        return f"The model {verdict}: {', '.join(counts)}."

    def _groups(self) -> Iterator[tuple[str, list[str]]]:
        """Findings of one cause and remedy: a line that counts them, and what is to say."""
        rows = {row.path: row for row in self.rows}
        groups: dict[tuple[Any, ...], list[AuditFinding]] = {}
        for finding in self.findings:
            alike = finding.severity, finding.condition, finding.cause, finding.remedy
            layer = rows[finding.path].layer if finding.path in rows else ""
            groups.setdefault((*alike, layer), []).append(finding)
        for (severity, condition, cause, remedy, layer), found in groups.items():
            if len(found) == 1:
                head, *rest = _told(found[0])
            else:
                paths = [finding.path for finding in found]
                name = paths[0].rsplit("/", 1)[-1]
                kind = f"{len(found)} × {layer} {name}"
                head = f"{severity}: {condition.label}: {kind}, {_range(found)}"
                more = f" and {len(found) - 2} more" if len(found) > 2 else ""
                rest = [f"{', '.join(paths[:2])}{more}", cause, f"Remedy: {remedy}"]
            yield head, rest

    def _kernels(self) -> tuple[Sequence[str], list[tuple[str, ...]]]:
        """The headers and cells of the short table."""
        rows = [row for row in self.rows if row.path.endswith("kernel") or row.findings]
        if len(rows) <= _MOST_KERNELS:
            short = [_cells(row) for row in rows]
            return _SHORT, [(cells[0], cells[2], *cells[8:]) for cells in short]
        kinds: dict[tuple[str, ...], list[WeightAudit]] = {}
        for row in rows:
            kind = row.layer, row.path.rsplit("/", 1)[-1], _labels(row)
            kinds.setdefault(kind, []).append(row)
        return _KINDS, [
            (
                f"{len(same)} × {layer} {name}",
                *(
                    _span([getattr(row, number) for row in same], 2)
                    for number in ("std", "forward", "backward")
                ),
                labels,
            )
            for (layer, name, labels), same in kinds.items()
        ]

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.std_asked or row.findings]
        series = {
            "forward": [row.forward for row in rows],
            "backward": [row.backward for row in rows],
        }
        marked = [i for i, row in enumerate(rows) if row.findings]
        names = [row.path for row in rows]
        return [Panel("fan · Var(w)", names, series, marked)]

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__

    def __rich__(self) -> Text:
        return Text(self.text())

    def _repr_html_(self) -> str:
        groups = "\n".join(
            f"<li>{'<br>'.join(_escaped(line) for line in (head, *rest))}</li>"
            for head, rest in self._groups()
        )
        headers, rows = self._kernels()
        head = "".join(f"<th>{_escaped(name)}</th>" for name in headers)
        body = "\n".join(
            f"<tr>{''.join(f'<td>{_escaped(cell)}</td>' for cell in cells)}</tr>"
            for cells in rows
        )
        style = "white-space: normal; overflow-wrap: anywhere; text-align: left"
        return (
            f"<div style='{style}'>\n<p>{_escaped(self._verdict())}</p>\n"
            f"<ul>\n{groups}\n</ul>\n"
            f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"
            "</div>"
        )


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _told(finding: AuditFinding) -> list[str]:
    label = f"{finding.severity}: {finding.condition.label}"
    return [
        f"{label}: {finding.path}: {finding.numbers}",
        finding.cause,
        f"Remedy: {finding.remedy}",
    ]


def _labels(row: WeightAudit) -> str:
    return ", ".join(dict.fromkeys(condition.label for condition in row.findings))


def _cells(row: WeightAudit) -> tuple[str, ...]:
    return (
        row.path,
        row.layer,
        shape_text(row.shape),
        *map(number_text, row.fans),
        f"{row.mean:.2g}",
        f"{row.positive:.0%}",
        "" if row.std_asked is None else f"{row.std_asked:.4g}",
        f"{row.std:.4g}",
        f"{row.forward:.3g}",
        f"{row.backward:.3g}",
        _labels(row),
    )


def _range(findings: Sequence[AuditFinding]) -> str:
    factors = [finding.factor for finding in findings if finding.factor is not None]
    if len(factors) < len(findings):
        return f"the first: {findings[0].numbers}"
    return f"std × {_span(factors, 2)}"


def _span(values: Sequence[float], digits: int) -> str:
    texts = [f"{value:.{digits}g}" for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(texts))
