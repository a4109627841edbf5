"""By what the kernels of a model were scaled."""

from collections.abc import Iterator
from typing import NamedTuple

from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import Group, Report
from keras_fanwise.reports.tables import (
    MOST_KERNELS,
    Table,
    count_text,
    grouped,
    kind_text,
    number_text,
    shape_text,
    some,
    span,
)


class CalibratedWeight(NamedTuple):
    """What became of a kernel.

    Attributes:
        path: of the kernel.
        layer: the class of the layer that owns it.
        shape: of the kernel.
        before: the standard deviation of what its layer gave before its activation, with
            all that came before it calibrated; `None` if that was not measured.
        factor: by what the kernel was multiplied, the median of its units by unit; 1 if it
            is kept.
        after: the standard deviation of what its layer gives now; `None` if it is kept.
        status: `"scaled"` or `"kept"`.
        reason: why it is kept.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    before: float | None = None
    factor: float = 1.0
    after: float | None = None
    status: str = "kept"
    reason: str = ""


_NUMBERS = ("std", "factor")


class CalibrationReport(Report[CalibratedWeight]):
    """Every kernel of a model and by what it was scaled.

    Printed, it tells how many kernels were scaled, why others are kept, and gives the
    kernels, or their kinds if there are more than 20; `text` can give every kernel.

    Attributes:
        rows: list of `CalibratedWeight`, in the order of the calls, then those kernels that
            were not called.
        name: of the model.
    """

    _title = "Calibration of"

    def _verdict(self) -> str:
        count = sum(row.status == "scaled" for row in self.rows)
        return f"{count} scaled, {len(self.rows) - count} kept"

    def _groups(self, verbose: bool) -> Iterator[Group]:
        kept = [row for row in self.rows if row.reason and not verbose]
        for same in grouped(kept, _status):
            count = count_text(len(same), "kernel")
            yield f"{_status(same[0])}: {count}: {some([row.path for row in same])}", ()

    def _table(self, verbose: bool) -> Table:
        if verbose:
            cells = [
                (row.path, row.layer, shape_text(row.shape), *_numbers(row), _status(row))
                for row in self.rows
            ]
            return Table(("kernel", "layer", "shape", *_NUMBERS, ""), cells, (0, 1, 2, 5))
        if len(self.rows) <= MOST_KERNELS:
            short = [
                (row.path, shape_text(row.shape), *_numbers(row), row.status)
                for row in self.rows
            ]
            return Table(("kernel", "shape", *_NUMBERS, ""), short, (0, 1, 4))

        def kind(row: CalibratedWeight) -> tuple[str, ...]:
            return row.layer, row.path.rpartition("/")[2], row.status

        kinds = [
            (
                kind_text(same[0].layer, same[0].path, len(same)),
                span(row.before for row in same),
                span(row.factor for row in same) if same[0].status == "scaled" else "",
                same[0].status,
            )
            for same in grouped(self.rows, kind)
        ]
        return Table(("kernels", *_NUMBERS, ""), kinds, (0, 3))

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.before]
        series = {
            "before": [row.before for row in rows],
            "after": [row.after for row in rows],
        }
        return [Panel("std", [row.path for row in rows], series)]


def _numbers(row: CalibratedWeight) -> tuple[str, str]:
    factor = row.factor if row.status == "scaled" else None
    return number_text(row.before, 4), number_text(factor, 4)


def _status(row: CalibratedWeight) -> str:
    return f"{row.status}: {row.reason}" if row.reason else row.status
