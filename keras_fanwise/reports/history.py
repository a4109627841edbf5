"""The report of a training: what was measured of each layer, epoch by epoch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from keras_fanwise.reports.diagnosis import NAME, FindingKind, LayerReport, labels
from keras_fanwise.reports.report import Group
from keras_fanwise.reports.tables import Panel, numbers


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
            when = f"in epoch {self.epoch}" if self.epoch == self.last else when
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


_COLUMNS = (
    numbers("std\nfirst", _at("std", 0), ".2g"),
    numbers("\nlast", _at("std", -1), ".2g"),
    numbers("gradient\nfirst", _at("gradient_std", 0), ".2g"),
    numbers("\nlast", _at("gradient_std", -1), ".2g"),
    numbers("dead\nlast", _at("dead", -1), ".0%"),
    numbers("change\nlargest", _largest, ".2g"),
    numbers("\nlast", _at("change", -1), ".2g"),
    labels("verdicts"),
)


@dataclass(eq=False, repr=False)
class HistoryReport(LayerReport[LayerHistory, HistoryFinding]):
    """A `LayerHistory` for each call of a layer, and what went wrong since which epoch.

    Attributes:
        rows: list of `LayerHistory`.
        epochs: tuple, after how many epochs each measurement was; 0 is the start.
        name: of the model.
        findings: list of `HistoryFinding`.
    """

    _title = "Training of"
    _every = _short = NAME, *_COLUMNS

    epochs: tuple[int, ...]

    def _verdict(self) -> str:
        wrong = self.errors or self.warnings
        verdict = "is not healthy" if wrong else "is healthy so far"
        if not self.epochs:
            return "Nothing is measured yet."
        return f"The training {verdict}, after epoch {self.epochs[-1]}: {self._counts()}."

    def _groups(self, verbose: bool) -> Iterator[Group]:
        for one in self.findings:
            yield [f"{one.severity}: {one._head()}", f"Remedy: {one.remedy}"]
        yield from self._left_out(verbose)

    def _panels(self) -> list[Panel]:
        names = [row.name for row in self.rows]

        def panel(label: str, attribute: str, **more: Any) -> Panel:
            series = {
                str(epoch): [_at(attribute, place)(row) for row in self.rows]
                for place, epoch in enumerate(self.epochs)
            }
            return Panel(label, names, series, is_grid=True, **more)

        return [
            panel("std", "std"),
            panel("gradient std", "gradient_std"),
            panel("dead units", "dead", limits=(0.0, 1.0)),
            panel("change per step", "change"),
        ]
