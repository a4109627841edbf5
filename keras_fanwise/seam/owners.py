"""Which layer has which weight of a model."""

from typing import NamedTuple

import keras

from keras_fanwise.arguments import fail
from keras_fanwise.backends.private_keras import all_layers

# Layers whose kernels are those of a Fourier transform, and not learned.
FIXED_KERNELS = getattr(keras.layers, "STFTSpectrogram", ())

NOT_BUILT = "built, and have weights: call it on a batch, or begin it with keras.Input"


class OwnedWeight(NamedTuple):
    """A weight and where it is.

    Attributes:
        layer: the innermost layer that has it.
        holders: all layers that have it, from the model inwards.
        variable: the weight itself.
    """

    layer: keras.Layer
    holders: tuple[keras.Layer, ...]
    variable: keras.Variable


def all_weights(model: keras.Layer) -> list[keras.Variable]:
    """The weights of a model, as far as it is no layer of one of its own.

    Raises:
        ValueError: it is, or a layer inside it is.
    """
    try:
        return list(model.weights)
    except RecursionError:
        allowed = "without layers that are inside themselves"
        raise fail(ValueError, "model", allowed, model.name) from None


def owned_weights(model: keras.Layer) -> list[OwnedWeight]:
    """Every weight of a model once, in the model's order.

    A layer's public `weights` hold those of the layers inside it too, and only models
    list their layers in public.

    Raises:
        TypeError: `model` is not a Keras model or layer.
        ValueError: `model` has no weights yet.
    """
    if not isinstance(model, keras.Layer):
        raise fail(TypeError, "model", "a Keras model or layer", model)
    if not all_weights(model):
        raise fail(ValueError, "model", NOT_BUILT, model)
    owners: dict[int, keras.Layer] = {}
    holders: dict[int, list[keras.Layer]] = {}
    for layer in all_layers(model):
        inner = {id(weight) for sub in all_layers(layer)[1:] for weight in sub.weights}
        for weight in layer.weights:
            holders.setdefault(id(weight), []).append(layer)
            if id(weight) not in inner:
                owners.setdefault(id(weight), layer)
    return [
        OwnedWeight(owners[id(weight)], tuple(holders[id(weight)]), weight)
        for weight in model.weights
    ]
