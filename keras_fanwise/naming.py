"""Names as Keras makes them, and weight keys, which leave its numbers out."""

import functools
import re
from collections.abc import Iterator

import keras

_NUMBERED = re.compile(r"(?P<base>.+)_\d+")
_SEQUENTIAL = "sequential"
# Bidirectional puts these before the names that its two layers have.
_DIRECTION = re.compile(r"^(forward|backward)_")


def snake_case(name: str) -> str:
    """What Keras calls an object of a class of this name.

    Example:

    >>> snake_case("FanwiseHeNormal"), snake_case("Conv2DTranspose")
    ('fanwise_he_normal', 'conv2d_transpose')
    """
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def weight_path(layer: keras.Layer, name: str) -> str:
    """The path of a weight, from its layer, which may only be being built."""
    return f"{layer.path or layer.name}/{name}"


def weight_key(path: str) -> str:
    """What tells the stream of a weight from those of others under the same seed.

    It is the path of the weight without the numbers that Keras adds to make the names
    of layers unique: with them, building a model twice in one process would give it
    other weights the second time. A `Sequential` that nobody named is left out whole:
    it is in the path of its layers or not, depending on how it was made.

    Example: `dense_7` is a name that Keras makes, `head_7` one that a user gave.

    >>> weight_key("sequential_2/dense_7/kernel"), weight_key("head_7/kernel")
    ('dense/kernel', 'head_7/kernel')
    """
    *layers, name = path.split("/")
    named = [segment for segment in map(_without_number, layers) if segment != _SEQUENTIAL]
    return "/".join([*named, name])


def _without_number(segment: str) -> str:
    match = _NUMBERED.fullmatch(segment)
    if match is None:
        return segment
    base = _DIRECTION.sub("", match["base"])
    # A new class of layers makes the names be gathered anew.
    known = len(keras.Layer.__subclasses__()), len(keras.Model.__subclasses__())
    return match["base"] if base in _layer_names(known) else segment


@functools.lru_cache(maxsize=1)
def _layer_names(_known: tuple[int, int]) -> frozenset[str]:
    return frozenset(map(snake_case, _class_names(keras.Layer)))


def _class_names(cls: type) -> Iterator[str]:
    yield cls.__name__
    derived: type
    for derived in cls.__subclasses__():
        yield from _class_names(derived)
