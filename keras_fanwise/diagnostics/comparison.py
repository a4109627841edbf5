"""What changes for a model: its weights with our fans and with Keras's."""

from typing import NamedTuple

import keras
from rich.table import Table

from keras_fanwise.fans.counting import Fans
from keras_fanwise.fans.keras_rule import keras_fans
from keras_fanwise.fans.lookup import layer_fans
from keras_fanwise.initializers.randomness import random_state_kept
from keras_fanwise.initializers.scaling import weight_std
from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import Report, number_text, shape_text, table
from keras_fanwise.seam.owners import owned_weights


class WeightFans(NamedTuple):
    """The fans of one weight of a model, as this package and as Keras counts them.

    The ratios are the standard deviation of this package divided by Keras's, for
    initializers that look at fan_in (He, LeCun) and for those that look at both fans
    (Glorot).
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


@random_state_kept()
def fans_table(model: keras.Layer) -> FansTable:
    """The fans of every weight of a model, ours and Keras's.

    Args:
        model: a built model, or a built layer.

    Returns:
        A `FansTable`: print it, or read its `rows`.

    Raises:
        TypeError: `model` is not a Keras model or layer.
        ValueError: `model` has no weights yet.

    Example: in a depthwise kernel each output sees one channel, where Keras counts all.

    >>> layer = keras.layers.DepthwiseConv2D(3, use_bias=False)
    >>> layer.build((None, 8, 8, 64))
    >>> [row] = fans_table(layer).rows
    >>> row.fans, row.keras_fans, round(row.fan_in_ratio, 6)
    (Fans(fan_in=9, fan_out=9), Fans(fan_in=576, fan_out=9), 8.0)
    """
    return FansTable([_row(owned.layer, owned.variable) for owned in owned_weights(model)])


def _row(layer: keras.Layer, weight: keras.Variable) -> WeightFans:
    shape = tuple(weight.shape)
    ours = layer_fans(layer, weight.name, shape)
    theirs = keras_fans(layer, weight.name, shape)
    in_ratio, avg_ratio = (
        weight_std(1.0, mode, ours) / weight_std(1.0, mode, theirs)
        for mode in ("fan_in", "fan_avg")
    )
    name = type(layer).__name__
    return WeightFans(weight.path, name, shape, ours, theirs, in_ratio, avg_ratio)
