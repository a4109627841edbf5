"""What an audit finds."""

from typing import NamedTuple

from rich.console import Group, RenderableType

from keras_fanwise.fans.counting import Fans
from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import (
    FindingKind,
    Report,
    number_text,
    shape_text,
    table,
    text_lines,
)


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

    DISTRIBUTION = ("distribution", "draw the weight by the initializer of its layer")


class AuditFinding(NamedTuple):
    """A weight that does not meet a condition.

    Attributes:
        path: of the weight.
        condition: which one.
        numbers: what was measured, and what it should be.
        cause: what is likely to have led to it.
        remedy: what helps.
    """

    path: str
    condition: Condition
    numbers: str
    cause: str
    remedy: str


class WeightAudit(NamedTuple):
    """What was measured of a weight.

    Attributes:
        path: of the weight.
        layer: the class of the layer that owns it.
        shape: of the weight.
        fans: as `layer_fans` counts them.
        initializer: that it was given; `""` if nobody knows.
        mean: of the values.
        positive: the share of values above the mean that is asked for.
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
    """Every weight of a model, measured; prints as a table and a list of findings.

    Attributes:
        rows: list of `WeightAudit`, one for each weight of a float type, in the order of
            the model.
        findings: list of `AuditFinding`; empty for a good start.
    """

    def __init__(self, rows: list[WeightAudit], findings: list[AuditFinding]) -> None:
        super().__init__(rows)
        self.findings = findings

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.std_asked or row.findings]
        series = {
            "forward": [row.forward for row in rows],
            "backward": [row.backward for row in rows],
        }
        marked = [i for i, row in enumerate(rows) if row.findings]
        names = [row.path for row in rows]
        return [Panel("fan · Var(w)", names, series, marked)]

    def __rich__(self) -> RenderableType:
        headers = ("mean", "positive", "std asked", "std", "forward", "backward")
        columns = table(("weight", "layer", "shape"), ("fan_in", "fan_out", *headers))
        columns.add_column("")
        for row in self.rows:
            std_asked = "" if row.std_asked is None else f"{row.std_asked:.4g}"
            gains = (f"{gain:.3g}" for gain in (row.forward, row.backward))
            columns.add_row(
                row.path,
                row.layer,
                shape_text(row.shape),
                *map(number_text, row.fans),
                f"{row.mean:.2g}",
                f"{row.positive:.0%}",
                std_asked,
                f"{row.std:.4g}",
                *gains,
                ", ".join(condition.label for condition in row.findings),
            )
        lines = [
            f"{finding.path}: {finding.condition.label}: {finding.numbers}. "
            f"{finding.cause}. Remedy: {finding.remedy}."
            for finding in self.findings
        ]
        count = len(self.findings)
        summary = f"{count} finding{'s' * (count != 1)}" + (":" if count else "")
        return Group(columns, text_lines(["", summary, *lines]))
