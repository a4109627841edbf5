"""The fans of a model's weights, as this package and as Keras counts them."""

from collections.abc import Iterable
from typing import NamedTuple

from keras_fanwise.fans.counting import Fans
from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import Group, Report
from keras_fanwise.reports.tables import (
    MOST_KERNELS,
    Table,
    grouped,
    is_kernel,
    kind_text,
    number_text,
    shape_text,
    span,
)


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


_RATIOS = ("std of\nhe, lecun", "std of\nglorot")
_NUMBERS = ("fan_in", "fan_out", "Keras's\nfan_in", "Keras's\nfan_out", *_RATIOS)


class FansTable(Report[WeightFans]):
    """The weights of a model.

    Printed, it tells how many kernels Keras counts otherwise, then gives the kernels, or
    their kinds if there are more than 20; `text` can give every weight.

    Attributes:
        rows: list of `WeightFans`, one for each weight, in the order of the layers.
        name: of the model.
    """

    _title = "Fans of"

    def _kernels(self) -> list[WeightFans]:
        return [row for row in self.rows if is_kernel(row.path, row.shape)]

    def _verdict(self) -> str:
        kernels = self._kernels()
        otherwise = sum(row.fans != row.keras_fans for row in kernels)
        return f"Keras counts {otherwise} of {len(kernels)} kernels otherwise."

    def _groups(self, verbose: bool) -> Iterable[Group]:
        return ()

    def _table(self, verbose: bool) -> Table:
        if verbose:
            headers = ("weight", "layer", "shape", *_NUMBERS)
            cells = [
                (row.path, row.layer, shape_text(row.shape), *_numbers(row))
                for row in self.rows
            ]
            return Table(headers, cells, (0, 1, 2))
        rows = self._kernels()
        if len(rows) <= MOST_KERNELS:
            return Table(
                ("kernel", *_NUMBERS), [(row.path, *_numbers(row)) for row in rows]
            )

        def kind(row: WeightFans) -> tuple[str, str, bool]:
            return row.layer, row.path.rpartition("/")[2], row.fans == row.keras_fans

        kinds = [
            (
                kind_text(same[0].layer, same[0].path, len(same)),
                f"× {span((row.fan_in_ratio for row in same), 3)}",
                f"× {span((row.fan_avg_ratio for row in same), 3)}",
            )
            for same in grouped(rows, kind)
        ]
        return Table(("kernels", *_RATIOS), kinds)

    def _panels(self) -> list[Panel]:
        rows = self._kernels()
        series = {
            "he, lecun": [row.fan_in_ratio for row in rows],
            "glorot": [row.fan_avg_ratio for row in rows],
        }
        names = [row.path for row in rows]
        return [Panel("std, ours / Keras's", names, series, reference=1.0)]


def _numbers(row: WeightFans) -> tuple[str, ...]:
    fans = map(number_text, (*row.fans, *row.keras_fans))
    ratios = (row.fan_in_ratio, row.fan_avg_ratio)
    return (*fans, *(f"× {number_text(ratio, 3)}" for ratio in ratios))
