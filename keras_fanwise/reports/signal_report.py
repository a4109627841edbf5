"""What became of a signal in a model."""

import enum
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType

from keras_fanwise.diagnostics.evidence import limit
from keras_fanwise.diagnostics.trends import Trend, trend
from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import Report, shape_text, table, text_lines

# A signal that changes by more than this over the depth vanishes or explodes.
LIMIT = 100.0
# Of how many healthy models one has a layer that is called dead.
_FALSE_ALARMS = 0.001

_SCALE = (
    "audit(model) finds weights whose scale is not what their initializers ask for; if "
    "there are none, the initializers ask for the wrong one: gain() gives that of an "
    "activation"
)


class Verdict(enum.Enum):
    """What can become of a signal, with what helps."""

    VANISHING = ("vanishing", _SCALE)
    EXPLODING = ("exploding", _SCALE)
    DEAD = ("dead", "look at the biases and the weights of that layer and of those before")
    NON_FINITE = ("non-finite", "look for what overflows at that layer, or divides by zero")

    def __init__(self, label: str, remedy: str) -> None:
        self.label = label
        self.remedy = remedy


class SignalFinding(NamedTuple):
    """What is wrong with the signal of a model.

    Attributes:
        verdict: what becomes of the signal.
        direction: `"forward"` or `"backward"`.
        path: of the layer where it begins, or, of a signal that vanishes or explodes,
            of the layer with the largest step.
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
    with. A signal vanishes or explodes if the trend multiplies its standard deviation by
    less than 1/100 or more than 100. A layer is dead if all its units are 0 for the whole
    batch, or more of them than the half that one would expect of ReLUs if all samples
    were equal, beyond chance.

    Attributes:
        rows: list of `LayerSignal`, one for each call of a layer, in their order.
        findings: list of `SignalFinding`; empty for a healthy model.
        forward: the `Trend` of the standard deviation; `None` without hidden layers.
        backward: the `Trend` of that of the gradients, from the last layer to the first.
    """

    def __init__(self, rows: list[LayerSignal]) -> None:
        allowed = limit(_FALSE_ALARMS, len(rows))
        super().__init__([row._replace(verdicts=_verdicts(row, allowed)) for row in rows])
        last = max((row.depth for row in rows), default=0)
        hidden = [row for row in self.rows if 0 < row.depth < last]
        back = hidden[::-1]
        self.forward = _trend(hidden, [row.std for row in hidden])
        self.backward = _trend(back, [row.gradient_std for row in back])
        self.findings = list(_local(self.rows))
        self.findings += _of_trend(
            "forward", self.forward, hidden, [row.std for row in hidden]
        )
        if all(math.isfinite(row.std) for row in self.rows):  # or gradients tell nothing
            self.findings += _of_trend(
                "backward", self.backward, back, [row.gradient_std for row in back]
            )

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
        lines = [f"{name}: {_text(found)}" for name, found in trends if found]
        count = len(self.findings)
        lines.append(f"{count} finding{'s' * (count != 1)}" + (":" if count else ""))
        lines += [
            f"{finding.verdict.label} {finding.direction}: {finding.numbers}, at "
            f"{finding.path}. Remedy: {finding.remedy}."
            for finding in self.findings
        ]
        return Group(columns, text_lines(["", *lines]))


def _verdicts(row: LayerSignal, allowed: float) -> tuple[Verdict, ...]:
    if not math.isfinite(row.std) or not math.isfinite(row.gradient_std or 0.0):
        return (Verdict.NON_FINITE,)
    by_chance = 0.5 + 0.5 * allowed / math.sqrt(row.units)
    return (Verdict.DEAD,) if row.dead == 1 or row.dead > by_chance else ()


def _local(rows: Sequence[LayerSignal]) -> Iterator[SignalFinding]:
    """Where units are dead, and where values are not finite first."""
    forward = [row for row in rows if not math.isfinite(row.std)]
    backward = [row for row in rows[::-1] if not math.isfinite(row.gradient_std or 0.0)]
    dead = [row for row in rows if Verdict.DEAD in row.verdicts]
    if forward:
        yield _finding(Verdict.NON_FINITE, "forward", forward, "values that are not finite")
    elif backward:
        yield _finding(
            Verdict.NON_FINITE, "backward", backward, "gradients that are not finite"
        )
    if dead:
        share = f"{dead[0].dead:.0%} of the units are 0 for the whole batch"
        yield _finding(Verdict.DEAD, "forward", dead, share)


def _finding(
    verdict: Verdict, direction: str, rows: Sequence[LayerSignal], numbers: str
) -> SignalFinding:
    others = f" (and at {len(rows) - 1} more)" if len(rows) > 1 else ""
    return SignalFinding(verdict, direction, rows[0].name, numbers + others, verdict.remedy)


def _trend(rows: Sequence[LayerSignal], stds: Sequence[float | None]) -> Trend | None:
    known = [
        (row.depth, std)
        for row, std in zip(rows, stds, strict=True)
        if std is not None and math.isfinite(std)
    ]
    return trend([depth for depth, _ in known], [std for _, std in known])


def _of_trend(
    direction: str,
    found: Trend | None,
    rows: Sequence[LayerSignal],
    stds: Sequence[float | None],
) -> Iterator[SignalFinding]:
    if found is None or 1 / LIMIT <= found.total <= LIMIT:
        return
    verdict = Verdict.VANISHING if found.total < 1 else Verdict.EXPLODING
    steps = [
        (after / before, row.name)
        for row, (before, after) in zip(rows[1:], itertools.pairwise(stds), strict=True)
        if before and after is not None and math.isfinite(after / before)
    ]
    # Without any step nothing arrives at all.
    largest = min if found.total < 1 else max
    step, path = largest(steps, default=(0.0, rows[0].name))
    numbers = f"std {_text(found)}; the largest step is × {step:.3g}"
    yield SignalFinding(verdict, direction, path, numbers, verdict.remedy)


def _limits(found: Trend | None) -> tuple[float, float] | None:
    """Below which deviation a signal vanishes, and above which it explodes."""
    return (found.level / LIMIT, found.level * LIMIT) if found and found.level else None


def _text(found: Trend) -> str:
    return f"× {found.rate:.3g} per layer, × {found.total:.2g} over {found.layers} layers"
