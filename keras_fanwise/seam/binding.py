"""The seam: tells an initializer which weight of which layer it fills.

Keras gives an initializer a shape and nothing else. The one public place that knows the
layer, the name of the weight and the initializer together is `keras.Layer.add_weight`,
so importing the package wraps it: an initializer of ours is replaced, for this weight
only, by a copy of it that knows the weight, and any other passes through untouched. It
is the only thing in Keras that the package changes.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_fanwise.arguments import in_weight
from keras_fanwise.naming import weight_path
from keras_fanwise.seam.retrofit import retrofitted

_MARK = "_keras_fanwise_seam"
_GIVEN = "_keras_fanwise_given_initializer"


def install() -> None:
    """Wraps `keras.Layer.add_weight`, once."""
    original = keras.Layer.add_weight
    if not hasattr(original, _MARK):
        wrapper = _wrapped(original)
        setattr(wrapper, _MARK, True)
        keras.Layer.add_weight = wrapper


def _wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def add_weight(self: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        # In every Keras that takes them by position they stand in this order.
        arguments = (
            dict(zip(("shape", "initializer", "dtype"), args, strict=False)) | kwargs
        )
        given = arguments.get("initializer")
        if given is None:
            given = _default(self, arguments.get("dtype"))
        given = _resolved(given, self)
        bound = _bound(given, self, arguments.get("shape"), kwargs)
        if len(args) > 1:
            args = (args[0], bound, *args[2:])
        else:
            kwargs["initializer"] = bound
        variable = original(self, *args, **kwargs)
        setattr(variable, _GIVEN, given)
        return variable

    return add_weight


def _default(layer: keras.Layer, dtype: Any) -> str:
    """What `add_weight` uses for a weight of which nobody said how to fill it."""
    dtype = keras.backend.standardize_dtype(dtype or layer.variable_dtype)
    return "glorot_uniform" if "float" in dtype else "zeros"


def given_initializer(variable: keras.Variable) -> Any:
    """What `add_weight` was given to fill a weight.

    `None` if the weight was not made by it, or before the import of this package.
    """
    return getattr(variable, _GIVEN, None)


def give(layer: keras.Layer, variable: keras.Variable, initializer: Any) -> None:
    """Makes an initializer the one that a weight was given, also in the layer's config."""
    before = given_initializer(variable)
    setattr(variable, _GIVEN, initializer)
    names = _attributes(layer, before)
    # One that fills several weights stays with the others.
    if isinstance(initializer, keras.initializers.Initializer) and len(names) == 1:
        setattr(layer, names[0], initializer)


def _attributes(layer: keras.Layer, initializer: Any) -> list[str]:
    """The attributes of a layer that hold an initializer."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return []  # a name is the same object wherever it stands
    return [name for name, value in vars(layer).items() if value is initializer]


def _bound(initializer: Any, layer: keras.Layer, shape: Any, kwargs: dict[str, Any]) -> Any:
    # By attribute, not by class: this wrapper may meet the classes of a later import of
    # the package.
    bind = getattr(initializer, "_bound_to", None)
    if bind is None:
        return initializer
    # Keras numbers weights that nobody named through all layers; this place is the same
    # whenever the layer is built.
    name = kwargs.get("name") or f"variable_{len(layer.variables)}"
    shape = () if shape is None else shape
    try:
        return bind(layer, name, shape)
    except (TypeError, ValueError) as error:
        raise in_weight(error, weight_path(layer, name), shape) from error


def _resolved(identifier: Any, layer: keras.Layer) -> Any:
    """What Keras makes of the identifier, if that is ours; otherwise the identifier."""
    if isinstance(identifier, dict):
        identifier = keras.initializers.get(identifier)
    found = identifier
    if isinstance(identifier, str):
        found = keras.saving.get_registered_object(identifier)
    if isinstance(found, type) and hasattr(found, "_bound_to"):
        return found()
    if hasattr(found, "_bound_to"):
        return found
    replacement = retrofitted(identifier)
    if replacement is not identifier:
        # A layer that was made outside the block is to save what it uses.
        for name in _attributes(layer, identifier):
            setattr(layer, name, replacement)
    return replacement
