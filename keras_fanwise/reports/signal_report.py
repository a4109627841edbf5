"""What became of a signal in a model."""

from collections.abc import Iterator
from typing import NamedTuple

from keras_fanwise.reports.report import FindingKind, Group, Report
from keras_fanwise.reports.tables import (
    MOST_KERNELS,
    Mark,
    Panel,
    Region,
    Table,
    count_text,
    number_text,
    shape_text,
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
    """A signal's way through a model and back.

    Printed, it gives the verdict, then trends and findings, then the layers with kernels,
    at most about 20 of them, evenly spaced, and those with a verdict; `text` can give every
    call of a layer.

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
        name: of the model.
    """

    _title = "Signal in"

    def __init__(
        self,
        rows: list[LayerSignal],
        findings: list[SignalFinding],
        forward: Trend | None,
        backward: Trend | None,
        *,
        name: str = "",
    ) -> None:
        super().__init__(rows, name=name)
        self.forward = forward
        self.backward = backward
        self.findings = findings

    def _verdict(self) -> str:
        verdict = "is not healthy" if self.findings else "is healthy"
        return f"The signal {verdict}: {count_text(len(self.findings), 'finding')}."

    def _groups(self, verbose: bool) -> Iterator[Group]:
        for direction, trend in (("forward", self.forward), ("backward", self.backward)):
            if trend:
                yield f"{direction}: {trend_text(trend)}", ()
        for finding in self.findings:
            label = f"{finding.verdict.label} {finding.direction}"
            head = f"{label}: {finding.numbers}, at {finding.path}"
            yield head, [f"Remedy: {finding.remedy}"]
        kernels = len(self._kernels())
        if kernels > MOST_KERNELS and not verbose:
            yield (
                f"{MOST_KERNELS} of {kernels} layers with kernels follow; "
                "text(verbose=True), or --verbose, gives every layer",
                (),
            )

    def _table(self, verbose: bool) -> Table:
        if verbose:
            headers = ("layer", "class", "shape", *_NUMBERS)
            cells = [
                (row.name, row.layer, shape_text(row.shape), *_numbers(row))
                for row in self.rows
            ]
            return Table(headers, cells, (0, 1, 2, 8))
        cells = [(row.name, *_numbers(row)) for row in self._shown()]
        return Table(("layer", *_NUMBERS), cells, (0, 6))

    def _kernels(self) -> list[int]:
        """The numbers of the rows of layers with kernels."""
        depths = [0, *(row.depth for row in self.rows)]
        return [i for i, row in enumerate(self.rows) if row.depth > depths[i]]

    def _shown(self) -> list[LayerSignal]:
        """Of layers with kernels about 20, evenly spaced, and the first of each verdict."""
        kernels = self._kernels()
        count = min(len(kernels), MOST_KERNELS)
        step = (len(kernels) - 1) / max(1, count - 1)
        shown = {kernels[round(i * step)] for i in range(count)}
        firsts: dict[Verdict, int] = {}
        for i, row in enumerate(self.rows):
            for verdict in row.verdicts:
                firsts.setdefault(verdict, i)
        return [self.rows[i] for i in sorted(shown | set(firsts.values()))]

    def _panels(self) -> list[Panel]:
        names = [row.name for row in self.rows]
        stds = {"": [row.std for row in self.rows]}
        gradients = {"": [row.gradient_std for row in self.rows]}
        marks = []
        for verdict in (Verdict.DEAD, Verdict.NON_FINITE):
            points = [i for i, row in enumerate(self.rows) if verdict in row.verdicts]
            if points:
                marks.append(Mark(verdict.label, points, _SHAPES[verdict]))
        return [
            Panel("std", names, stds, marks, self._regions("forward"), joined=True),
            Panel(
                "gradient std", names, gradients, (), self._regions("backward"), joined=True
            ),
        ]

    def _regions(self, direction: str) -> list[Region]:
        """Where a signal has vanished or exploded, over the hidden layers, if it does."""
        limits = _limits(self.forward if direction == "forward" else self.backward)
        last = max((row.depth for row in self.rows), default=0)
        hidden = [i for i, row in enumerate(self.rows) if 0 < row.depth < last]
        verdicts = {one.verdict for one in self.findings if one.direction == direction}
        if limits is None or not hidden:
            return []
        ends = hidden[0], hidden[-1]
        if direction == "backward":
            ends = ends[::-1]
        regions = {
            Verdict.VANISHING: Region("vanishing", *ends, above=False, limit=limits[0]),
            Verdict.EXPLODING: Region("exploding", *ends, above=True, limit=limits[1]),
        }
        return [region for verdict, region in regions.items() if verdict in verdicts]


_NUMBERS = ("depth", "mean", "std", "dead", "gradient\nstd", "")
# Those of matplotlib's markers.
_SHAPES = {Verdict.DEAD: "s", Verdict.NON_FINITE: "D"}


def _numbers(row: LayerSignal) -> tuple[str, ...]:
    return (
        str(row.depth),
        number_text(row.mean, 2),
        number_text(row.std, 3),
        f"{row.dead:.0%}",
        number_text(row.gradient_std, 3),
        ", ".join(verdict.label for verdict in row.verdicts),
    )


def _limits(trend: Trend | None) -> tuple[float, float] | None:
    """Below which deviation a signal vanishes, and above which it explodes."""
    return (trend.low, trend.high) if trend and trend.level else None


def trend_text(trend: Trend) -> str:
    """Such as "× 0.5 per layer, × 0.0625 over 4 layers", or "× 0.25 from a to b"."""
    if trend.rate is None:
        return f"× {trend.total:.2g} from {trend.first} to {trend.last}"
    return f"× {trend.rate:.3g} per layer, × {trend.total:.2g} over {trend.layers} layers"
