"""Which initializers the weights of a model were given."""

import functools
from collections.abc import Sequence
from typing import Any

import keras

from keras_fanwise.seam.binding import given_initializer
from keras_fanwise.seam.owners import OwnedWeight


def given_initializers(weights: Sequence[OwnedWeight]) -> list[Any]:
    """For each weight the initializer that it was given; `None` where nobody knows it.

    Those of layers that were built after the import of this package were recorded then.
    """
    twin = functools.cache(_initializers_of_twin)
    given = []
    for owned in weights:
        recorded = given_initializer(owned.variable)
        if recorded is None:
            recorded = twin(owned.layer).get(owned.variable.name)
        given.append(keras.initializers.get(recorded))
    return given


def initializer_name(initializer: Any) -> str:
    """That of its class, or of the function that it is."""
    return getattr(initializer, "__name__", type(initializer).__name__)


def _initializers_of_twin(layer: keras.Layer) -> dict[str, Any]:
    """By name, what another layer of the same config gives its weights.

    For layers that were built before this package was imported.
    """
    try:
        twin = type(layer).from_config(layer.get_config())
        twin.build_from_config(layer.get_build_config())
        return {weight.name: given_initializer(weight) for weight in twin.weights}
    except Exception:  # of other people's code: what is not known is reported as such
        return {}
