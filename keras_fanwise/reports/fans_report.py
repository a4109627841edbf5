"""The fans of a model's weights, as this package and as Keras counts them."""

from typing import NamedTuple

from rich.table import Table

from keras_fanwise.fans.counting import Fans
from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import Report, number_text, shape_text, table


class WeightFans(NamedTuple):
    """The fans of one weight of a model, as this package and as Keras counts them.

    Attributes:
        path: of the weight.
        layer: the class of the layer that owns it.
        shape: of the weight.
        fans: as `layer_fans` counts them.
        keras_fans: as the installed Keras counts them.
        fan_in_ratio: the standard deviation that this package gives the weight divided by
            the one that Keras gives it, by initializers that look at fan_in (He, LeCun).
        fan_avg_ratio: likewise, by those that look at both fans (Glorot).
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    fans: Fans
    keras_fans: Fans
    fan_in_ratio: float
    fan_avg_ratio: float


_NUMBERS = (
    "fan_in",
    "fan_out",
    "Keras's\nfan_in",
    "Keras's\nfan_out",
    "std of\nhe, lecun",
    "std of\nglorot",
)


class FansTable(Report[WeightFans]):
    """The weights of a model; prints as a table.

    Attributes:
        rows: list of `WeightFans`, one for each weight, in the order of the layers.
    """

    def _panels(self) -> list[Panel]:
        series = {
            "he, lecun": [row.fan_in_ratio for row in self.rows],
            "glorot": [row.fan_avg_ratio for row in self.rows],
        }
        return [Panel("std, ours / Keras's", [row.path for row in self.rows], series)]

    def __rich__(self) -> Table:
        columns = table(("weight", "layer", "shape"), _NUMBERS)
        for row in self.rows:
            fans = map(number_text, (*row.fans, *row.keras_fans))
            ratios = (f"× {ratio:.3g}" for ratio in (row.fan_in_ratio, row.fan_avg_ratio))
            columns.add_row(row.path, row.layer, shape_text(row.shape), *fans, *ratios)
        return columns
