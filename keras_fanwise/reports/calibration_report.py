"""By what the kernels of a model were scaled."""

from typing import NamedTuple

from rich.table import Table

from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import Report, shape_text, table


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


class CalibrationReport(Report[CalibratedWeight]):
    """Every kernel of a model and by what it was scaled; prints as a table.

    Attributes:
        rows: list of `CalibratedWeight`, in the order of the calls, then those kernels that
            were not called.
    """

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.before]
        series = {
            "before": [row.before for row in rows],
            "after": [row.after for row in rows],
        }
        return [Panel("std", [row.path for row in rows], series)]

    def __rich__(self) -> Table:
        columns = table(("kernel", "layer", "shape"), ("std", "factor"))
        columns.add_column("")
        for row in self.rows:
            columns.add_row(
                row.path,
                row.layer,
                shape_text(row.shape),
                "" if row.before is None else f"{row.before:.4g}",
                f"{row.factor:.4g}" if row.status == "scaled" else "",
                f"{row.status}: {row.reason}" if row.reason else row.status,
            )
        count = sum(row.status == "scaled" for row in self.rows)
        columns.caption = f"{count} scaled, {len(self.rows) - count} kept"
        columns.caption_justify = "left"
        return columns
