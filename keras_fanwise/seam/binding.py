"""The seam: tells an initializer which weight of which layer it fills, and its stream.

Keras passes an initializer only a shape. The one public place that knows the layer, the
name of the weight and the initializer together is `keras.Layer.add_weight`, so importing
the package wraps it: an initializer of ours, or one with such inside, is replaced by a
`Bound` one for this weight only, and any other passes through untouched.

The key of a weight names its random stream: the path of its layer, its name and its shape,
without the numbers that Keras adds to make the names of layers unique: with them, building
a model twice in one process would give it other weights the second time. What takes their
place is the rank of a layer among those of its class in the layer that holds both. Whether
a user named a layer is noted when it is made, since its name does not tell.
"""

import bisect
import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_fanwise.arguments import in_weight, is_of_keras, split_number, weight_path
from keras_fanwise.backends.private_keras import (
    SEAM,
    initializer_table,
    own_variables,
    scopes,
    sublayers,
    warn_if_the_seam_is_lost,
)
from keras_fanwise.initializers.base import Site
from keras_fanwise.initializers.counterparts import (
    drawing_for,
    random_inside,
    replaced_inside,
)
from keras_fanwise.seam.blocks import deferral, retrofitted
from keras_fanwise.seam.record import attributes_holding, record
from keras_fanwise.seam.weights import OwnedWeight

_FROM_USER = "_keras_fanwise_named_by_user"


def is_ours(initializer: Any) -> bool:
    """Whether an initializer, or a class of them, is of this or a later import."""
    return hasattr(initializer, "weight_seed")


class Bound(keras.initializers.Initializer):
    """What Keras is handed for one weight; the layer keeps the initializer itself."""

    def __init__(self, initializer: Any, site: Site) -> None:
        self._initializer = initializer
        self._site = site
        drawn = [initializer] if is_ours(initializer) else random_inside(initializer)
        # Of each initializer inside as of one alone.
        self._seeds = {id(one): one.weight_seed() for one in drawn if is_ours(one)}

    def __call__(self, shape: Sequence[int], dtype: Any = None, layout: Any = None) -> Any:
        """Draws the weight, the same values at every call but for a `SeedGenerator`."""
        initializer, site = self._initializer, self._site
        if is_ours(initializer):
            seed = self._seeds[id(initializer)]
            return initializer.draw(shape, dtype, layout, site=site, seed=seed)

        places = {one: place for place, one in enumerate(self._seeds)}

        def bound(value: Any) -> Any:
            if id(value) not in places:
                return value
            key = f"{site.key} inside {places[id(value)]}"
            return drawing_for(site, value, value, key, self._seeds[id(value)])

        return replaced_inside(initializer, bound)(shape, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        return dict(getattr(self._initializer, "get_config", dict)())


def install() -> None:
    """Wraps `add_weight` and `__init__` of `keras.Layer`, once; the last import counts."""
    if not hasattr(keras.Layer.add_weight, SEAM):
        _note_names()
        _wrap_add_weight()
    setattr(keras.Layer.add_weight, SEAM, (retrofitted, deferral))
    warn_if_the_seam_is_lost()


def _wrap_add_weight() -> None:
    original = keras.Layer.add_weight

    @functools.wraps(original)
    def add_weight(self: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        # In every Keras that takes them by position they stand in this order.
        arguments = (
            dict(zip(("shape", "initializer", "dtype"), args, strict=False)) | kwargs
        )
        if isinstance(arguments.get("shape"), str):  # a name: Keras tells what is wrong
            return original(self, *args, **kwargs)
        identifier = arguments.get("initializer")
        if identifier is None:  # as Keras does
            dtype = arguments.get("dtype") or self.variable_dtype
            is_float = "float" in keras.backend.standardize_dtype(dtype)
            identifier = "glorot_uniform" if is_float else "zeros"
        replaced, deferred = getattr(add_weight, SEAM)
        initializer = _resolved(identifier, self, replaced)
        filler = _bound(initializer, self, arguments.get("shape"), kwargs)
        if filler is initializer or is_ours(initializer):
            filler = deferred(filler, initializer)
        if len(args) > 1:
            args = (args[0], filler, *args[2:])
        else:
            kwargs["initializer"] = filler
        variable = original(self, *args, **kwargs)
        record(variable, initializer)
        if hasattr(filler, "watch"):
            filler.watch(variable)
        return variable

    keras.Layer.add_weight = add_weight


def _bound(initializer: Any, layer: keras.Layer, shape: Any, kwargs: dict[str, Any]) -> Any:
    if not is_ours(initializer) and (
        is_of_keras(initializer) or not any(map(is_ours, random_inside(initializer)))
    ):
        return initializer
    name = weight_name(layer, kwargs.get("name"))
    shape = () if shape is None else shape
    try:
        site = Site.of(layer, name, shape)
        return Bound(initializer, site._replace(key=seam_key(layer, name, shape)))
    except (TypeError, ValueError) as error:
        raise in_weight(error, weight_path(layer, name), shape) from error


def _resolved(identifier: Any, layer: keras.Layer, replaced: Callable[[Any], Any]) -> Any:
    """What Keras makes of the identifier, if that is ours; else the identifier."""
    if isinstance(identifier, dict):
        identifier = keras.initializers.get(identifier)
    ours = identifier
    if isinstance(identifier, str):
        ours = keras.saving.get_registered_object(identifier)
        ours = ours or initializer_table().get(identifier)
    if is_ours(ours):
        return ours() if isinstance(ours, type) else ours
    replacement = replaced(identifier)
    if replacement is not identifier:
        # A layer that was made outside the block is to save what it uses.
        for name in attributes_holding(layer, identifier):
            setattr(layer, name, replacement)
    return replacement


def _note_names() -> None:
    """Wraps `keras.Layer.__init__` to note whether a user named the layer."""
    original = keras.Layer.__init__

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
    keras.Layer.__init__ = init
    # On the class, so that all layers have the same attributes, whoever made them.
    setattr(keras.Layer, _FROM_USER, False)


# What Keras calls a weight that nobody named, before the number.
_UNNAMED = "variable"
_NUMBERED = re.compile(rf"^{_UNNAMED}_\d+$")


def weight_name(layer: keras.Layer, name: str | None) -> str:
    """Of one that is about to be added, by its place in the layer if nobody named it."""
    return name or f"{_UNNAMED}_{len(layer.variables)}"


def seam_key(layer: keras.Layer, name: str, shape: Sequence[int]) -> str:
    """The key of a weight that is about to be added to a layer."""
    path = layer.path or layer.name
    owners = scopes()
    # Layers of a functional model are built before it is: nothing but their names is known.
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
    # Of one that nobody named the place is enough, and Keras's numbers are the process's.
    names = [variable.name for variable in own_variables(layer)]
    ordinal = 0 if _NUMBERED.match(name) else names.count(name)
    return _key([*segments, _with_number(name, ordinal)], shape)


def model_keys(weights: Sequence[OwnedWeight]) -> list[str]:
    """The keys of all weights of a model, each another, and the same of one that is loaded.

    Of that it is not known whether a user named a layer `dense_1`, which does not count.
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
    if split is None:
        return str(layer.name)
    if parent is None:
        return split[0]
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
