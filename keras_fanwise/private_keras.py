"""The only module that uses what Keras keeps private, and may change at any time."""

import keras
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope


def is_shape_inference(variable: keras.Variable) -> bool:
    """Whether Keras is only inferring shapes, so that no value drawn now is kept.

    A model that creates its weights in `call` is traced once to learn their shapes.
    Weights are not filled then but asked for placeholders, by a call of their
    initializer that looks like any other. Keras has no public way to ask for this
    state.

    Args:
        variable: one that would be read; in a stateless scope to which the caller gave
            a value for it, values drawn from it are meant to be kept.
    """
    return (
        in_stateless_scope() and get_stateless_scope().get_current_value(variable) is None
    )


def owned_weights(model: keras.Layer) -> list[tuple[keras.Layer, keras.Variable]]:
    """Every weight of a model once, with the layer that owns it, in the model's order.

    A layer's public `weights` hold those of the layers inside it too, and only models
    list their layers in public.
    """
    owners: dict[int, keras.Layer] = {}
    for layer in _layers(model):
        inner = {id(weight) for sub in _layers(layer)[1:] for weight in sub.weights}
        for weight in layer.weights:
            if id(weight) not in inner:
                owners.setdefault(id(weight), layer)
    return [(owners[id(weight)], weight) for weight in model.weights]


def _layers(layer: keras.Layer) -> list[keras.Layer]:
    """The layer itself, then all inside it."""
    return list(layer._flatten_layers(include_self=True, recursive=True))
