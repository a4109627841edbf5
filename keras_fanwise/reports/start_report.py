"""What was done to each weight of a model."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from keras_fanwise.fans.counting import Fans
from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import Group, Report
from keras_fanwise.reports.tables import (
    MOST_KERNELS,
    Table,
    count_text,
    grouped,
    is_kernel,
    kind_text,
    number_text,
    shape_text,
    some,
    span,
)


class WeightStart(NamedTuple):
    """How a weight of a model starts.

    Attributes:
        path: of the weight.
        layer: the class of the layer that owns it.
        shape: of the weight.
        fans: as `layer_fans` counts them.
        initializer: what fills it; `""` if it is kept.
        std_asked: the standard deviation that the initializer draws with; `None` for
            those that are not random or not known.
        std: the standard deviation of the values; `None` in a plan.
        status: `"set"` or `"kept"`.
        reason: why it is kept.
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


_NUMBERS = ("fan_in", "fan_out", "std asked", "std")
# Initializers that differ in a seed alone are told together if there are more of them.
_MOST_INITIALIZERS = 8


class StartReport(Report[WeightStart]):
    """Every weight of a model and what was done to it.

    Printed, it tells how many weights were set and kept, by which initializer and why,
    then gives the kernels, or their kinds if there are more than 20; `text` can give every
    weight.

    Attributes:
        rows: list of `WeightStart`, one for each weight, in the order of the model.
        seed: an integer with which the same call gives the same weights again.
        unsaved: the paths of weights whose new initializer the config of no layer holds. A
            model that is saved and loaded has their values, but `reinitialize` draws them
            by the initializer of before.
        name: of the model.
    """

    _title = "Start of"

    def __init__(
        self,
        rows: list[WeightStart],
        seed: int,
        unsaved: Sequence[str] = (),
        *,
        name: str = "",
    ) -> None:
        super().__init__(rows, name=name)
        self.seed = seed
        self.unsaved = list(unsaved)

    def _verdict(self) -> str:
        count = sum(row.status == "set" for row in self.rows)
        return f"{count} set, {len(self.rows) - count} kept; seed {self.seed}"

    def _groups(self, verbose: bool) -> Iterator[Group]:
        if not verbose:
            yield from self._by_initializer()
        if self.unsaved:
            paths = ", ".join(self.unsaved) if verbose else some(self.unsaved)
            head = f"the model does not save the initializers of {paths}"
            yield f"{head}: no layer has an argument for them", ()

    def _by_initializer(self) -> Iterator[Group]:
        names = {row.initializer for row in self.rows}
        whole = len(names) <= _MOST_INITIALIZERS

        def label(row: WeightStart) -> str:
            name = row.initializer if whole else row.initializer.partition("(")[0]
            return f"{_status(row)} by {name}" if name else _status(row)

        def kind(row: WeightStart) -> tuple[str, str]:
            return row.layer, row.path.rpartition("/")[2]

        for same in grouped(self.rows, label):
            kinds = [
                kind_text(alike[0].layer, alike[0].path, len(alike))
                for alike in grouped(same, kind)
            ]
            weights = count_text(len(same), "weight")
            yield f"{label(same[0])}: {weights}: {', '.join(kinds)}", ()

    def _table(self, verbose: bool) -> Table:
        if verbose:
            headers = ("weight", "layer", "shape", *_NUMBERS, "initializer", "")
            cells = [
                (
                    row.path,
                    row.layer,
                    shape_text(row.shape),
                    *_numbers(row),
                    row.initializer,
                    _status(row),
                )
                for row in self.rows
            ]
            return Table(headers, cells, (0, 1, 2, 7, 8))
        rows = [row for row in self.rows if is_kernel(row.path, row.shape)]
        if len(rows) <= MOST_KERNELS:
            cells = [
                (row.path, shape_text(row.shape), *_numbers(row), row.status)
                for row in rows
            ]
            return Table(("kernel", "shape", *_NUMBERS, ""), cells, (0, 1, 6))

        def kind(row: WeightStart) -> tuple[str, ...]:
            return row.layer, row.path.rpartition("/")[2], row.status

        kinds = [
            (
                kind_text(same[0].layer, same[0].path, len(same)),
                span(row.std_asked for row in same),
                span(row.std for row in same),
                same[0].status,
            )
            for same in grouped(rows, kind)
        ]
        return Table(("kernels", *_NUMBERS[2:], ""), kinds, (0, 3))

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.std_asked]
        series = {
            "asked": [row.std_asked for row in rows],
            "measured": [row.std for row in rows],
        }
        return [Panel("std", [row.path for row in rows], series)]


def _numbers(row: WeightStart) -> tuple[str, ...]:
    stds = (number_text(std, 4) for std in (row.std_asked, row.std))
    return (*map(number_text, row.fans), *stds)


def _status(row: WeightStart) -> str:
    return f"{row.status}: {row.reason}" if row.reason else row.status
