"""What changes for a model: its weights with our fans and with Keras's."""

import keras

from keras_fanwise.fans.keras_rule import keras_fans
from keras_fanwise.fans.lookup import layer_fans
from keras_fanwise.initializers.randomness import random_state_kept
from keras_fanwise.initializers.scaling import weight_std
from keras_fanwise.reports.fans_report import FansTable, WeightFans
from keras_fanwise.seam.owners import owned_weights


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

    >>> import keras
    >>> layer = keras.layers.DepthwiseConv2D(3, use_bias=False)
    >>> layer.build((None, 8, 8, 64))
    >>> [row] = fans_table(layer).rows
    >>> row.fans, row.keras_fans, round(row.fan_in_ratio, 6)
    (Fans(fan_in=9, fan_out=9), Fans(fan_in=576, fan_out=9), 8.0)
    """
    rows = [_row(owned.layer, owned.variable) for owned in owned_weights(model)]
    return FansTable(rows, name=model.name)


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
