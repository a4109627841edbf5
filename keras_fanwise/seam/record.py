"""The record of which weight was filled by which initializer."""

import contextlib
import functools
import inspect
import types
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.arguments import is_of_keras
from keras_fanwise.backends.private_keras import (
    build_like,
    kept_names,
    lists_layers,
    unfilled_variables,
)
from keras_fanwise.initializers.base import random_state_kept
from keras_fanwise.initializers.counterparts import contents, random_inside
from keras_fanwise.seam.weights import OwnedWeight

_RECORD = "_keras_fanwise_given_initializer"
# Whether that is another than its layer gave the weight when it was built.
_REPLACED = "_keras_fanwise_replaced_initializer"
# In bytes: an initializer that holds on to an array of this size is not kept alive.
_LARGE = 2**16


def record(variable: keras.Variable, initializer: Any) -> None:
    """Notes what `add_weight` was given to fill a weight."""
    if any(getattr(value, "nbytes", 0) >= _LARGE for value in _held(initializer)):
        with contextlib.suppress(TypeError):  # some have no weak references
            initializer = weakref.ref(initializer)
    setattr(variable, _RECORD, initializer)


def recorded(variable: keras.Variable) -> Any:
    """What that was; `None` if nobody knows it, as of weights made before the import."""
    initializer = getattr(variable, _RECORD, None)
    return initializer() if isinstance(initializer, weakref.ref) else initializer


def _held(initializer: Any) -> Iterable[Any]:
    """What is kept alive by an initializer, at the first glance."""
    if isinstance(initializer, types.FunctionType):
        return [*contents(initializer).values(), *(initializer.__defaults__ or ())]
    if isinstance(initializer, functools.partial):
        return [*initializer.args, *initializer.keywords.values()]
    return getattr(initializer, "__dict__", {}).values()


def _is_replaced(variable: keras.Variable) -> bool:
    return getattr(variable, _REPLACED, False)


@random_state_kept()
def weight_initializers(weights: Sequence[OwnedWeight]) -> list[Any]:
    """The initializer that fills each weight; `None` where nobody knows it."""
    twin = functools.cache(_twin)
    initializers = []
    for owned in weights:
        known = recorded(owned.variable)
        if known is None and id(owned.variable) in twin(owned.layer):
            known = twin(owned.layer)[id(owned.variable)].initializer
        if keras.ops.is_tensor(known) or isinstance(known, np.ndarray):
            known = keras.initializers.Constant(known)
        initializers.append(keras.initializers.get(known))
    return initializers


def assigned_when_built(weights: Sequence[OwnedWeight]) -> list[bool | None]:
    """Whether a layer assigned a value to a weight when it was built, if that is known."""
    twin = functools.cache(_twin)
    answers: list[bool | None] = []
    for owned in weights:
        # A layer may assign to the weights of those inside it.
        inside = owned.holders[owned.holders.index(_saved(owned)) :]
        if _is_replaced(owned.variable) or all(map(is_of_keras, inside)):
            answers.append(False)
            continue
        place = id(owned.variable)
        known = (found[place] for found in map(twin, inside) if place in found)
        answers.append(next(known, _Twin(None, None)).assigned)
    return answers


def initializer_name(initializer: Any) -> str:
    """That of its class, or of the function that it is."""
    return getattr(initializer, "__name__", type(initializer).__name__)


def attributes_holding(layer: keras.Layer, initializer: Any) -> list[str]:
    """The attributes of a layer that hold an initializer."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return []  # a name is the same object wherever it stands
    return [name for name, value in vars(layer).items() if value is initializer]


def initializer_argument(owned: OwnedWeight) -> str:
    """The argument, of its layer or one that holds it, that sets its initializer; or ""."""
    stem = owned.variable.name.rsplit("/", 1)[-1]
    held = attributes_holding(owned.layer, _source(owned))
    names = [name.lstrip("_") for name in held]
    names = sorted(names, key=lambda name: not name.startswith(stem))
    for name in [*names, f"{stem}_initializer"]:
        for layer in reversed(owned.holders):
            if name in inspect.signature(type(layer).__init__).parameters:
                return name
    return ""


def replace(weights: Sequence[OwnedWeight], initializers: Sequence[Any]) -> None:
    """Makes these initializers, where not `None`, those of a model's weights and configs.

    A layer takes over an initializer into an attribute if all weights that the attribute
    fills, in the layer and in those inside it, now have the same one.
    """
    before = [_source(owned) for owned in weights]
    changed = [
        owned
        for owned, old, new in zip(weights, before, initializers, strict=True)
        if new is not None and not _same(new, old)
    ]
    for layer in dict.fromkeys(holder for owned in weights for holder in owned.holders):
        inside = [place for place, owned in enumerate(weights) if layer in owned.holders]
        for name, value in list(vars(layer).items()):
            if not isinstance(value, keras.initializers.Initializer) and not (
                name.endswith("initializer") and (callable(value) or isinstance(value, str))
            ):
                continue
            # Inner layers are given copies, which are told from others by their configs.
            filled = [place for place in inside if before[place] is value]
            filled = filled or [place for place in inside if _same(value, before[place])]
            new = [initializers[place] for place in filled]
            if not new or not isinstance(new[0], keras.initializers.Initializer):
                continue
            if all(_same(new[0], each) for each in new) and not _same(new[0], value):
                setattr(layer, name, new[0])
    for owned, initializer in zip(weights, initializers, strict=True):
        if initializer is not None:
            record(owned.variable, initializer)
    for owned in changed:
        setattr(owned.variable, _REPLACED, True)


def _source(owned: OwnedWeight) -> Any:
    """What a weight was given, or the attribute of its layer of which that was a copy."""
    initializer = recorded(owned.variable)
    # From Keras 3.15 on `EinsumDense` makes one, of the same seed, with axes.
    if not isinstance(initializer, keras.initializers.VarianceScaling):
        return initializer

    def copied(each: keras.initializers.VarianceScaling) -> dict[str, Any]:
        axes = {"input_axes": None, "output_axes": None}
        return {**each.get_config(), **axes, "seed": each.seed}

    alike = (each for each in vars(owned.layer).values() if type(each) is type(initializer))
    equal = (each for each in alike if copied(each) == copied(initializer))
    return next(equal, initializer)


def _same(one: Any, other: Any) -> bool:
    """Whether two initializers are equal, by their classes and configs."""
    if one is other:
        return True
    one, other = (
        keras.initializers.get(each) if isinstance(each, str) else each
        for each in (one, other)
    )
    if isinstance(one, keras.initializers.Initializer):
        return type(one) is type(other) and one.get_config() == other.get_config()
    if getattr(one, "__code__", None) is not getattr(other, "__code__", ()):
        return False
    inside, others = random_inside(one), random_inside(other)
    return 0 < len(inside) == len(others) and all(map(_same, inside, others))


def unsaved(weights: Sequence[OwnedWeight]) -> dict[str, str]:
    """The paths of weights whose initializer a saved model does not hold, and why."""
    twin = functools.cache(_twin)
    reasons = {}
    for owned in filter(lambda owned: _is_replaced(owned.variable), weights):
        layer, initializer = _saved(owned), recorded(owned.variable)
        is_whole = layer is owned.layer and is_of_keras(layer)
        if is_whole and attributes_holding(layer, initializer):
            continue
        name = type(layer).__name__
        known = twin(layer).get(id(owned.variable))
        if known is None:
            reasons[owned.variable.path] = f"no other {name} can be made from its config"
        elif not _fill_alike(known.initializer, initializer, owned.variable):
            reasons[owned.variable.path] = (
                f"saved with the config of {name}, which does not hold it"
            )
    return reasons


def _saved(owned: OwnedWeight) -> keras.Layer:
    """The outermost layer whose config is all that is saved of those inside it."""
    configs = (layer for layer in owned.holders if not lists_layers(layer))
    return next(configs, owned.holders[-1])


def _fill_alike(one: Any, other: Any, variable: keras.Variable) -> bool:
    if one is None or other is None:
        return False
    both = [keras.initializers.get(each) for each in (one, other)]
    if _same(*both):
        return True
    if any(isinstance(each, keras.initializers.Initializer) for each in both):
        return False
    shape, dtype = tuple(variable.shape), variable.dtype
    values = (keras.ops.convert_to_numpy(each(shape, dtype=dtype)) for each in both)
    return bool(np.array_equal(*values))


class _Twin(NamedTuple):
    initializer: Any
    assigned: bool | None  # whether it was given a value when that layer was built


def _twin(layer: keras.Layer) -> dict[int, _Twin]:
    """The weights of another layer of the same config, by the ids of this layer's."""
    # Some layers, such as stateful ones, make variables of values, which must be filled.
    for block in (unfilled_variables(), kept_names()):
        try:
            with block as scope:
                twin = type(layer).from_config(layer.get_config())
                build_like(twin, layer)
        except Exception:  # of other people's code: what is not known is reported as such
            continue
        if list(map(_kind, layer.weights)) != list(map(_kind, twin.weights)):
            break
        return {
            id(own): _Twin(
                recorded(other), scope and scope.get_current_value(other) is not None
            )
            for own, other in zip(layer.weights, twin.weights, strict=True)
        }
    return {}


def _kind(variable: keras.Variable) -> tuple[str, tuple[int, ...]]:
    """What is alike in a twin: Keras numbers the names of weights that have none."""
    return variable.name.rstrip("_0123456789"), tuple(variable.shape)
