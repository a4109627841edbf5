"""Which layer has which weight of a model."""

from typing import Any, NamedTuple

import keras

from keras_fanwise.arguments import fail
from keras_fanwise.backends.private_keras import all_layers

# Layers whose kernels are those of a Fourier transform, and not learned.
FIXED_KERNELS = getattr(keras.layers, "STFTSpectrogram", ())

NOT_BUILT = "built, and have weights: call it on a batch, or begin it with keras.Input"

# How the names end of what may have two axes and is no matrix.
NO_KERNELS = ("bias", "gamma", "beta", "alpha", "scale", "moving_mean", "moving_variance")


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

    @property
    def is_named_kernel(self) -> bool:
        """Whether it is called a kernel, as in all of Keras's layers."""
        return str(self.variable.name).endswith("kernel")

    @property
    def is_matrix(self) -> bool:
        """Whether it is called a kernel, or could be one of another name."""
        variable = self.variable
        return self.is_named_kernel or (
            len(variable.shape) > 1
            and bool(variable.trainable)
            and "float" in str(variable.dtype)
            and not str(variable.name).endswith((*NO_KERNELS, "embeddings"))
        )

    @property
    def is_kernel(self) -> bool:
        """Whether it is called so, or looks as if the inputs were multiplied by it.

        Layers of one's own call a matrix as they like, or not at all. Nothing else is
        likely of one that is learned, is no table to look up, and has as many rows as the
        layer was built for input units.
        """
        shape = tuple(self.variable.shape)
        return self.is_named_kernel or (
            self.is_matrix
            and len(shape) == 2
            and 1 not in shape
            and "embedding" not in self.variable.name
            and not is_of_keras(self.layer)
            and shape[0] in _input_units(self.layer)
        )


def _input_units(layer: keras.Layer) -> set[int | None]:
    """The last axes of all inputs that a layer was built for."""
    config = layer.get_build_config() or {}
    shapes = [config.get("input_shape"), config.get("shapes_dict")]
    units: set[int | None] = set()

    def add(shape: Any) -> None:
        if isinstance(shape, (tuple, list)) and shape:
            units.add(shape[-1])

    keras.tree.map_shape_structure(add, shapes)
    return units


def is_of_keras(layer: Any) -> bool:
    """Whether it is one of the layers that Keras has, and not of a subclass."""
    return getattr(keras.layers, type(layer).__name__, None) is type(layer)


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
