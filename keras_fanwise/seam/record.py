"""The record of which weight was filled by which initializer."""

import functools
from collections.abc import Sequence
from typing import Any

import keras

from keras_fanwise.seam.owners import OwnedWeight

_RECORD = "_keras_fanwise_given_initializer"


def record(variable: keras.Variable, initializer: Any) -> None:
    """Notes what `add_weight` was given to fill a weight."""
    setattr(variable, _RECORD, initializer)


def recorded(variable: keras.Variable) -> Any:
    """What `add_weight` was given to fill a weight.

    `None` if the weight was not made by it, or before the import of this package.
    """
    return getattr(variable, _RECORD, None)


def replace(layer: keras.Layer, variable: keras.Variable, initializer: Any) -> None:
    """Makes an initializer the one that fills a weight, also in the layer's config."""
    names = attributes_holding(layer, recorded(variable))
    record(variable, initializer)
    # One that fills several weights stays with the others.
    if isinstance(initializer, keras.initializers.Initializer) and len(names) == 1:
        setattr(layer, names[0], initializer)


def attributes_holding(layer: keras.Layer, initializer: Any) -> list[str]:
    """The attributes of a layer that hold an initializer."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return []  # a name is the same object wherever it stands
    return [name for name, value in vars(layer).items() if value is initializer]


def weight_initializers(weights: Sequence[OwnedWeight]) -> list[Any]:
    """The initializer that fills each weight; `None` where nobody knows it.

    Those of layers that were built after the import of this package were recorded then.
    """
    twin = functools.cache(_initializers_of_twin)
    initializers = []
    for owned in weights:
        known = recorded(owned.variable)
        if known is None:
            known = twin(owned.layer).get(owned.variable.name)
        initializers.append(keras.initializers.get(known))
    return initializers


def initializer_name(initializer: Any) -> str:
    """That of its class, or of the function that it is."""
    return getattr(initializer, "__name__", type(initializer).__name__)


def _initializers_of_twin(layer: keras.Layer) -> dict[str, Any]:
    """By name, what another layer of the same config fills its weights with.

    For layers that were built before this package was imported.
    """
    try:
        twin = type(layer).from_config(layer.get_config())
        twin.build_from_config(layer.get_build_config())
        return {weight.name: recorded(weight) for weight in twin.weights}
    except Exception:  # of other people's code: what is not known is reported as such
        return {}
