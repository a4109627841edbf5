"""Which weight of which layer is being filled."""

from collections.abc import Sequence
from typing import NamedTuple

import keras

from keras_fanwise.fans.counting import Fans
from keras_fanwise.fans.lookup import layer_fans
from keras_fanwise.naming import weight_path


class Site(NamedTuple):
    """A weight that is being filled: where it is, and how many inputs feed a unit.

    Attributes:
        path: of the weight, for messages.
        key: the name of its random stream: weights with the same seed and key have the
            same values.
        layer: that owns it, perhaps still being built.
        shape: of the weight.
        fans: as `layer_fans` counts them.
        name: of the weight in its layer, as in `weight.name`.

    Example:

    >>> import keras
    >>> layer = keras.layers.DepthwiseConv2D(3, name="blur")
    >>> site = Site.of(layer, "kernel", (3, 3, 64, 1))
    >>> site.path, site.fans
    ('blur/kernel', Fans(fan_in=9, fan_out=9))
    """

    path: str
    key: str
    layer: keras.Layer
    shape: tuple[int, ...]
    fans: Fans
    name: str

    @classmethod
    def of(
        cls, layer: keras.Layer, weight_name: str, shape: Sequence[int], key: str = ""
    ) -> "Site":
        """The site of a weight of a layer, which may only be being built.

        Args:
            layer: that owns the weight.
            weight_name: as in `weight.name`.
            shape: of the weight.
            key: the name of its random stream; by default that of draws by hand.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a dimension is negative, or a rule of `register_fans` failed.
        """
        path = weight_path(layer, weight_name)
        fans = layer_fans(layer, weight_name, shape)
        return cls(path, key, layer, tuple(shape), fans, weight_name)
