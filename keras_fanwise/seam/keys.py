"""The names of random streams: which weights share their values under one seed.

The key of a weight is the path of its layer, its name and its shape, without the numbers
that Keras adds to make the names of layers unique: with them, building a model twice in one
process would give it other weights the second time. What takes their place is the rank of
a layer among those of its class in the layer that holds both. Whether a user named a layer
is noted when it is made, since its name does not tell.
"""

import bisect
import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_fanwise.arguments import split_number
from keras_fanwise.backends.private_keras import own_variables, scopes, sublayers
from keras_fanwise.seam.weights import OwnedWeight

_MARK = "_keras_fanwise_origin"
_FROM_USER = "_keras_fanwise_named_by_user"


def install() -> None:
    """Wraps `keras.Layer.__init__`, once, to note whether a user named the layer.

    Keras keeps no account of it: a name such as `dense_1` does not tell, and the numbers
    that it has given so far also belong to layers of other models.
    """
    original = keras.Layer.__init__
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def init(self: keras.Layer, *args: Any, **kwargs: Any) -> None:
        # A config says all three of any layer, and may hold a name that Keras made. Of a
        # Sequential it says no more than a user does.
        of_config = ("trainable" in kwargs and "dtype" in kwargs) or isinstance(
            self, keras.Sequential
        )
        if kwargs.get("name") is not None and not of_config:
            # Past Keras and PyTorch, which are not ready for attributes yet.
            object.__setattr__(self, _FROM_USER, True)
        original(self, *args, **kwargs)

    # Keras reads the arguments of constructors without following wrappers.
    init.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    setattr(init, _MARK, True)
    keras.Layer.__init__ = init
    # On the class, so that all layers have the same attributes, whoever made them.
    setattr(keras.Layer, _FROM_USER, False)


# What Keras calls a weight that nobody named, before the number.
_UNNAMED = "variable"
_NUMBERED = re.compile(rf"^{_UNNAMED}_\d+$")


def weight_name(layer: keras.Layer, name: str | None) -> str:
    """Of one that is about to be added to a layer.

    Keras numbers weights that nobody named through all layers; the place in the layer is
    the same whenever it is built.
    """
    return name or f"{_UNNAMED}_{len(layer.variables)}"


def seam_key(layer: keras.Layer, name: str, shape: Sequence[int]) -> str:
    """The key of a weight that is about to be added to a layer.

    A name that a user gave is kept whole. Layers of a functional model are built before the
    model is: of these nothing is known but their own names.
    """
    path = layer.path or layer.name
    owners = scopes()
    if path != "/".join(scope for scope, _ in owners):
        owners = [(scope, None) for scope in path.split("/")[:-1]] + [(layer.name, layer)]
    segments: list[str] = []
    parent = None
    for scope, owner in owners:
        # Whether it is in the path of its layers depends on how it was made.
        if isinstance(owner, keras.Sequential) and _made_by_keras(owner, True):
            parent = None
            continue
        segments.append(scope if owner is None else _segment(owner, parent, True))
        parent = owner
    ordinal = sum(variable.name == name for variable in own_variables(layer))
    return _key([*segments, _with_number(name, ordinal)], shape)


def model_keys(weights: Sequence[OwnedWeight]) -> list[str]:
    """The keys of all weights of a model, each another.

    They follow from the names, the classes and the order of the layers alone, so that a
    model that is loaded or cloned has the same: whether a user named a layer `dense_1` is
    not known of it, and does not count.
    """
    ordinals: Counter[str] = Counter()
    keys = []
    names: dict[tuple[int, ...], str] = {}  # of layers, by all that hold them
    inside, numbers = functools.cache(sublayers), functools.cache(_numbers)
    for owned in weights:
        segments = []
        for place, layer in enumerate(owned.holders[1:], 1):
            holders = tuple(map(id, owned.holders[: place + 1]))
            if holders not in names:
                inside_out = reversed(owned.holders[:place])
                has_it = (each for each in inside_out if layer in inside(each))
                names[holders] = _segment(layer, next(has_it, None), False, numbers)
            segments.append(names[holders])
        name = _NUMBERED.sub(_UNNAMED, owned.variable.name)
        key = _key([*segments, name], owned.variable.shape)
        # Weights of one name in one layer, or in layers of one name.
        keys.append(_with_number(key, ordinals[key]))
        ordinals[key] += 1
    return keys


def _numbers(layer: keras.Layer, users_are_known: bool) -> dict[str, list[int]]:
    """Of the layers inside one that Keras named, their numbers by class, in order."""
    splits = {_made_by_keras(each, users_are_known) for each in sublayers(layer)}
    numbers: dict[str, list[int]] = {}
    for base, number in sorted(filter(None, splits)):
        numbers.setdefault(base, []).append(number)
    return numbers


def _segment(
    layer: keras.Layer,
    parent: keras.Layer | None,
    users_are_known: bool,
    numbers: Callable[[keras.Layer, bool], dict[str, list[int]]] = _numbers,
) -> str:
    """The name of a layer, or, if Keras made it, the class and the rank in the parent."""
    split = _made_by_keras(layer, users_are_known)
    if split is None or parent is None:
        return str(layer.name) if split is None else split[0]
    base, number = split
    siblings = numbers(parent, users_are_known).get(base, [])
    return _with_number(base, bisect.bisect_left(siblings, number))


def _made_by_keras(layer: keras.Layer, users_are_known: bool) -> tuple[str, int] | None:
    is_of_user = users_are_known and getattr(layer, _FROM_USER)
    return None if is_of_user else split_number(layer)


def _with_number(name: str, number: int) -> str:
    return f"{name}#{number}" if number else name


def _key(segments: Sequence[str], shape: Sequence[int]) -> str:
    return f"{'/'.join(segments)} {'x'.join(str(int(size)) for size in shape)}"
