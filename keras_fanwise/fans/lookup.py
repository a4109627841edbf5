"""Which fans a weight has, by the layer that owns it."""

import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import keras

from keras_fanwise.arguments import dimensions, fail
from keras_fanwise.fans.counting import Fans, shape_fans
from keras_fanwise.fans.maps import CELL_MATRICES, MATRICES, Matrices, shape_matrices
from keras_fanwise.fans.table import CONVOLUTIONAL_CELL, TABLE, Row, is_convolutional_cell

FansRule = Callable[[Any, str, tuple[int, ...]], Fans | None]
_FansRule = TypeVar("_FansRule", bound=FansRule)

# What `register_fans` was told, by layer class.
_registered: dict[type, FansRule] = {}


def layer_fans(layer: keras.layers.Layer, weight_name: str, shape: Sequence[int]) -> Fans:
    """The fans of a weight of a layer.

    For the linear map that the weight is part of, `fan_in` is the mean number of
    weights that feed one output unit and `fan_out` the mean number of output units
    that one input unit feeds, away from the padded border. With independent weights
    of mean 0, `Var(y) = fan_in * Var(w) * E[x**2]`, and for the gradients on their
    way back `Var(dx) = fan_out * Var(w) * Var(dy)`.

    Of the classes of the layer, from its own to its most distant ancestor, the first
    that knows the weight answers: by the rule that `register_fans` was given for it
    or, if it is a layer of Keras, by the table of this package. A bias has the fans of
    the kernel whose outputs it is added to, as long as the layer has that kernel
    already. All other weights have those of Keras's shape rule, `shape_fans`.

    The answer is the same while the layer is being built and afterwards.

    Args:
        layer: the layer that owns the weight. A wrapper or a recurrent layer owns
            none: its inner layer or its `cell` does.
        weight_name: the name that the weight was given, as in `weight.name`.
        shape: list or tuple of integers that are 0 or more.

    Raises:
        TypeError: an argument is of the wrong type, or a registered rule returned
            something other than `Fans` or `None`.
        ValueError: a dimension is negative, or a registered rule returned a fan that
            is not a finite number of 0 or more.

    Reference: Glorot and Bengio 2010, <https://proceedings.mlr.press/v9/glorot10a.html>,
    equations 5 and 6.

    Example: of a depthwise kernel, an output unit sees one channel only.

    >>> import keras
    >>> layer = keras.layers.DepthwiseConv2D(3)
    >>> layer_fans(layer, "kernel", (3, 3, 64, 1))
    Fans(fan_in=9, fan_out=9)
    """
    if not isinstance(layer, keras.layers.Layer):
        raise fail(TypeError, "layer", "a keras.layers.Layer", layer)
    if not isinstance(weight_name, str):
        raise fail(TypeError, "weight_name", "a string", weight_name)
    answers = _answers(layer, weight_name, dimensions(shape))
    return next(fans for fans in answers if fans is not None)


def layer_matrices(
    layer: keras.layers.Layer, weight_name: str, shape: Sequence[int]
) -> Matrices | None:
    """The matrices that a weight of a layer is made of.

    As in `layer_fans`, the first class of the layer that knows the weight answers. Where
    that is a rule of `register_fans`, which tells no axes, and for all other weights it is
    Keras's rule: the last axis are outputs.

    Args:
        layer: the layer that owns the weight.
        weight_name: the name that the weight was given.
        shape: of the weight.

    Returns:
        The matrices; `None` for weights of less than two axes.

    Raises:
        TypeError: a registered rule returned something other than `Fans` or `None`.
        ValueError: a registered rule returned a fan that is not a number of 0 or more.

    Example: the four gates of an LSTM.

    >>> import keras
    >>> layer_matrices(keras.layers.LSTMCell(8), "kernel", (5, 32)).stack_shape
    (4, 5, 8)
    """
    shape = tuple(shape)
    for cls in type(layer).__mro__:
        rule = _registered.get(cls)
        if rule and _checked(rule(layer, weight_name, shape), rule) is not None:
            return shape_matrices(shape)
        row = MATRICES.get(cls, {}).get(weight_name)
        if row is not None:
            return row(layer, shape) or shape_matrices(shape)
    if is_convolutional_cell(layer) and weight_name in CELL_MATRICES:
        return CELL_MATRICES[weight_name](layer, shape) or shape_matrices(shape)
    return shape_matrices(shape)


def register_fans(*layer_classes: type) -> Callable[[_FansRule], _FansRule]:
    """Registers a function that knows the fans of the weights of a layer.

    The function is called with the layer, the name of a weight and its shape, a tuple
    of integers. It returns the `Fans` of the weight, or `None` for weights that it
    leaves to the ancestors of the layer's class. Subclasses inherit it, unless they
    have one of their own. A second function for the same class replaces the first.

    It may be called before the layer has its weights: what it reads of the layer must
    be set before `add_weight` is called.

    Args:
        layer_classes: one or more subclasses of `keras.layers.Layer`; also those of
            Keras itself, whose fans in the table are then asked for second.

    Returns:
        A decorator, which returns the function as it is.

    Raises:
        TypeError: `layer_classes` is empty or has something else in it, or what is
            decorated cannot be called.

    Example: a layer that mixes each unit with its two neighbours.

    >>> import keras
    >>> class Neighbours(keras.layers.Layer):
    ...     def build(self, input_shape):
    ...         self.kernel = self.add_weight(shape=(3, input_shape[-1]), name="kernel")
    >>> @register_fans(Neighbours)
    ... def neighbours_fans(layer, weight_name, shape):
    ...     return Fans(3, 3) if weight_name == "kernel" else None
    >>> layer_fans(Neighbours(), "kernel", (3, 64))
    Fans(fan_in=3, fan_out=3)
    """
    if not layer_classes or not all(map(_is_layer_class, layer_classes)):
        allowed = "one or more subclasses of keras.layers.Layer"
        raise fail(TypeError, "layer_classes", allowed, layer_classes)

    def decorate(rule: _FansRule) -> _FansRule:
        if not callable(rule):
            allowed = "a function of a layer, a weight name and a shape"
            raise fail(TypeError, "rule", allowed, rule)
        _registered.update(dict.fromkeys(layer_classes, rule))
        return rule

    return decorate


def _is_layer_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, keras.layers.Layer)


def _answers(
    layer: keras.layers.Layer, name: str, shape: tuple[int, ...]
) -> Iterator[Fans | None]:
    """What each source says in turn; the last one always knows."""
    for cls in type(layer).__mro__:
        if cls in _registered:
            yield _checked(_registered[cls](layer, name, shape), _registered[cls])
        if cls in TABLE:
            yield _by_row(TABLE[cls].get(name), layer, shape)
    if is_convolutional_cell(layer):
        yield _by_row(CONVOLUTIONAL_CELL.get(name), layer, shape)
    yield shape_fans(shape)


def _by_row(
    row: Row | None, layer: keras.layers.Layer, shape: tuple[int, ...]
) -> Fans | None:
    if row is None:
        return None
    if callable(row):
        return row(layer, shape)
    # `layer.kernel` fails until a layer is built; the list of its weights does not.
    for weight in layer.weights:
        if weight.name == row:
            return layer_fans(layer, weight.name, weight.shape)
    return None


def _checked(fans: Any, rule: FansRule) -> Fans | None:
    """The answer of a registered rule, which is other people's code."""
    if fans is None:
        return None
    name = getattr(rule, "__qualname__", repr(rule))
    allowed = f"keras_fanwise.Fans of two finite numbers of 0 or more, or None, from {name}"
    if not isinstance(fans, Fans):
        raise fail(TypeError, "fans", allowed, fans)
    plain = [_plain(fan) for fan in fans]
    if not all(0 <= fan < math.inf for fan in plain):
        raise fail(ValueError, "fans", allowed, fans)
    return Fans(*plain)


def _plain(fan: Any) -> float:
    """A number of any library as Python's own; what is no number is not finite."""
    if not isinstance(fan, numbers.Real):
        return math.nan
    try:
        number = float(fan)
    except OverflowError:
        return math.inf
    return int(fan) if isinstance(fan, numbers.Integral) else number
