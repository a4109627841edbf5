"""Names as Keras makes them."""

import functools
import re

import keras

_NUMBER = re.compile(r"_([1-9][0-9]*)")
# Bidirectional puts one of these before the name of its layer.
_DIRECTIONS = ("", "forward_", "backward_")


@functools.lru_cache
def snake_case(name: str) -> str:
    """What Keras calls an object of a class of this name.

    Example:

    >>> snake_case("FanwiseHeNormal"), snake_case("Conv2DTranspose")
    ('fanwise_he_normal', 'conv2d_transpose')
    """
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def weight_path(layer: keras.Layer, name: str) -> str:
    """The path of a weight, from its layer, which may only be being built."""
    return f"{layer.path or layer.name}/{name}"


def split_number(layer: keras.Layer) -> tuple[str, int] | None:
    """The name of a layer without its number, and the number; `None` if a user chose it.

    Keras names layers after their class and numbers them through the process: `dense`,
    `dense_1`, `dense_2`. A name that looks otherwise is a user's.

    Example: of a `Dense`, `dense_7` can be Keras's, `dense_0` and `head_7` cannot.

    >>> names = ("dense_7", "dense", "dense_0", "head_7")
    >>> [split_number(keras.layers.Dense(1, name=name)) for name in names]
    [('dense', 7), ('dense', 0), None, None]
    """
    base = snake_case(type(layer).__name__)
    for direction in _DIRECTIONS:
        if layer.name.startswith(direction + base):
            number = layer.name[len(direction + base) :]
            if not number:
                return direction + base, 0
            match = _NUMBER.fullmatch(number)
            if match:
                return direction + base, int(match[1])
    return None
