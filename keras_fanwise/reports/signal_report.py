"""What became of a signal in a model."""

from typing import NamedTuple

from rich.console import Group, RenderableType

from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import (
    FindingKind,
    Report,
    shape_text,
    table,
    text_lines,
)

# A signal that changes by more than this over the depth vanishes or explodes.
LIMIT = 100.0

_SCALE = (
    "call audit(model), which finds the weights whose scale does not fit their layer, and "
    "choose initializers by the gain() of the activations"
)


class Verdict(FindingKind):
    """What can become of a signal, with what helps.

    Attributes:
        label: what tables and JSON call it.
        remedy: what helps.
    """

    VANISHING = ("vanishing", _SCALE)
    EXPLODING = ("exploding", _SCALE)
    DEAD = ("dead", "look at the biases and the weights of that layer and of those before")
    NON_FINITE = ("non-finite", "look for what overflows at that layer, or divides by zero")


class Trend(NamedTuple):
    """What becomes of a standard deviation over the hidden layers.

    It is read at one row for each kernel: the last behind it that still has the shape of
    the kernel's own, so behind its normalization, activation and addition.

    Attributes:
        rate: by what each layer multiplies it, `total ** (1 / layers)`. `None` if the rows
            do not support a rate: of fewer than five hidden kernels, of branches side by
            side, and where the steps from kernel to kernel are others, as of a single
            jump. Then `total` is what can be said.
        layers: how many layers are between the first and the last.
        total: the last standard deviation divided by the first.
        level: the first standard deviation, where the signal comes from.
        first: the name of the row that `level` is of.
        last: the name of the last row.
        low: below this standard deviation the signal has vanished. It is a hundredth of
            `level`, less where the way leads through an average over positions, and less
            than all rows have if the report has no such finding.
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
        path: of the layer where it begins, or, of a signal that vanishes or explodes,
            of the layer that multiplies it by the most, or the least.
        numbers: what was measured.
        remedy: what helps.
    """

    verdict: Verdict
    direction: str
    path: str
    numbers: str
    remedy: str


class LayerSignal(NamedTuple):
    """What was measured at a call of a layer.

    Attributes:
        path: of the layer.
        call: 1 for the first call of this layer, 2 for the second, and so on.
        layer: its class.
        depth: the number of calls so far, with this one, of layers that have weights of
            two axes or more.
        shape: of its output, of the first if there are several.
        units: how many there are, along the channels.
        mean: of the output.
        std: of the output.
        dead: the share of units that are 0 for the whole batch.
        gradient_std: the standard deviation of the gradient with respect to the output;
            `None` if no gradient comes there.
        verdicts: what is wrong at this layer.
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

    @property
    def name(self) -> str:
        """The path, with the number of the call where it is not the first."""
        return self.path if self.call == 1 else f"{self.path} ({self.call})"


class SignalReport(Report[LayerSignal]):
    """A signal's way through a model and back; prints as a table and a list of findings.

    The trends are those of the hidden layers: from the first layer that has a kernel to
    the last but one, since what a model gives is often of another size than what it works
    with. A signal vanishes or explodes if its standard deviation in the end is less than
    1/100 of that in the beginning, or more than 100 times as large, beyond what an average
    over positions does to it. A layer is dead if all its units are 0 for the whole batch,
    or more of them than the half that one would expect of ReLUs if all samples were equal,
    beyond chance; but not if a kernel or a γ is 0 where a branch ends, or the model.

    Attributes:
        rows: list of `LayerSignal`, one for each call of a layer, in their order.
        findings: list of `SignalFinding`; empty for a healthy model.
        forward: the `Trend` of the standard deviation; `None` without hidden layers.
        backward: the `Trend` of that of the gradients, from the last layer to the first.
    """

    def __init__(
        self,
        rows: list[LayerSignal],
        findings: list[SignalFinding],
        forward: Trend | None,
        backward: Trend | None,
    ) -> None:
        super().__init__(rows)
        self.forward = forward
        self.backward = backward
        self.findings = findings

    def _panels(self) -> list[Panel]:
        names = [row.name for row in self.rows]
        marked = [i for i, row in enumerate(self.rows) if row.verdicts]
        forward = {"": [row.std for row in self.rows]}
        backward = {"": [row.gradient_std for row in self.rows]}
        return [
            Panel("std", names, forward, marked, _limits(self.forward), joined=True),
            Panel("gradient std", names, backward, (), _limits(self.backward), joined=True),
        ]

    def __rich__(self) -> RenderableType:
        columns = table(("layer", "class", "shape"), ("depth", "mean", "std", "dead"))
        columns.add_column("gradient\nstd", justify="right", vertical="bottom")
        columns.add_column("")
        for row in self.rows:
            columns.add_row(
                row.name,
                row.layer,
                shape_text(row.shape),
                str(row.depth),
                f"{row.mean:.2g}",
                f"{row.std:.3g}",
                f"{row.dead:.0%}",
                "" if row.gradient_std is None else f"{row.gradient_std:.3g}",
                ", ".join(verdict.label for verdict in row.verdicts),
            )
        trends = (("forward", self.forward), ("backward", self.backward))
        lines = [
            f"{direction}: {trend_text(trend)}" for direction, trend in trends if trend
        ]
        count = len(self.findings)
        lines.append(f"{count} finding{'s' * (count != 1)}" + (":" if count else ""))
        lines += [
            f"{finding.verdict.label} {finding.direction}: {finding.numbers}, at "
            f"{finding.path}. Remedy: {finding.remedy}."
            for finding in self.findings
        ]
        return Group(columns, text_lines(["", *lines]))


def _limits(trend: Trend | None) -> tuple[float, float] | None:
    """Below which deviation a signal vanishes, and above which it explodes."""
    return (trend.low, trend.high) if trend and trend.level else None


def trend_text(trend: Trend) -> str:
    """Such as "× 0.5 per layer, × 0.0625 over 4 layers", or "× 0.25 from a to b"."""
    if trend.rate is None:
        return f"× {trend.total:.2g} from {trend.first} to {trend.last}"
    return f"× {trend.rate:.3g} per layer, × {trend.total:.2g} over {trend.layers} layers"
