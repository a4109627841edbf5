"""What was done to each weight of a model."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from keras_fanwise.fans.counting import Fans
from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import Report, number_text, shape_text, table


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


class StartReport(Report[WeightStart]):
    """Every weight of a model and what was done to it; prints as a table.

    Attributes:
        rows: list of `WeightStart`, one for each weight, in the order of the model.
        seed: an integer with which the same call gives the same weights again.
        unsaved: the paths of weights whose new initializer the config of no layer holds. A
            model that is saved and loaded has their values, but `reinitialize` draws them
            by the initializer of before.
    """

    def __init__(
        self, rows: list[WeightStart], seed: int, unsaved: Sequence[str] = ()
    ) -> None:
        super().__init__(rows)
        self.seed = seed
        self.unsaved = list(unsaved)

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.std_asked]
        series = {
            "asked": [row.std_asked for row in rows],
            "measured": [row.std for row in rows],
        }
        return [Panel("std", [row.path for row in rows], series)]

    def __rich__(self) -> Table:
        columns = table(
            ("weight", "layer", "shape"), ("fan_in", "fan_out", "std asked", "std")
        )
        columns.add_column("initializer")
        columns.add_column("")
        for row in self.rows:
            stds = ("" if std is None else f"{std:.4g}" for std in (row.std_asked, row.std))
            columns.add_row(
                row.path,
                row.layer,
                shape_text(row.shape),
                *map(number_text, row.fans),
                *stds,
                row.initializer,
                f"{row.status}: {row.reason}" if row.reason else row.status,
            )
        count = sum(row.status == "set" for row in self.rows)
        columns.caption = f"{count} set, {len(self.rows) - count} kept; seed {self.seed}"
        if self.unsaved:
            columns.caption += (
                "\nthe model does not save the initializers of "
                f"{', '.join(self.unsaved)}: no layer has an argument for them"
            )
        columns.caption_justify = "left"
        return columns
