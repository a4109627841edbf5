"""What a model says of its layers that explains its signal."""

from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_fanwise.backends.private_keras import predecessors

# Of the kernels of a chain so many stand on its longest path: a residual network has a few
# more, at its shortcuts.
_CHAIN = 0.8
# Layers that are an activation, and have it in their name alone.
_ACTIVATIONS = {"ReLU": "relu", "LeakyReLU": "leaky_relu", "ELU": "elu"}


class Anatomy(NamedTuple):
    """What explains the signal of a model.

    Attributes:
        activations: that of each measured call; `None` where it is linear or unknown.
        zeros: whether all that a call gives is 0 because a kernel or a γ is 0.
        chain: whether the kernels stand one behind the other, and not side by side.
        sums: how many additions there are.
        branches: counts those that are residual, which takes a while.
    """

    activations: list[str | None]
    zeros: list[bool]
    chain: bool = True
    sums: int = 0
    branches: Callable[[], int] = lambda: 0


def measured_layers(model: keras.Layer) -> dict[keras.Layer, str]:
    """The layers of a model, and in place of models inside it their layers, with paths.

    Keras puts the name of a model before those of the layers that it builds, and not of
    those that have nothing to build; here it stands before all of them, or none.
    """
    inner = model.layers if isinstance(model, keras.Model) else []
    if not inner:
        return {model: model.path or model.name}
    scopes = [(layer.path or "").rpartition("/")[0] for layer in inner]
    scope = next((one for one in scopes if one.rpartition("/")[2] == model.name), "")
    paths: dict[keras.Layer, str] = {}
    for layer in inner:
        for measured, path in measured_layers(layer).items():
            whole = f"{scope}/{path}" if scope and "/" not in path else path
            paths.setdefault(measured, whole)
    return paths


def has_kernel(layer: keras.Layer) -> bool:
    """Whether the layer has a weight of two axes or more."""
    return any(len(weight.shape) > 1 for weight in layer.weights)


def activation_of(layer: keras.Layer) -> str | None:
    """The name of a layer's activation, which need not be one of Keras's."""
    if isinstance(layer, keras.layers.RNN):  # whose gates are another matter
        return None
    function = getattr(layer, "activation", None)
    own = str(getattr(function, "__name__", "linear"))
    name = _ACTIVATIONS.get(type(layer).__name__, own)
    return None if name == "linear" else name


def own_gain(activation: str) -> str | None:
    """How the scale is written for an activation that is none of Keras's."""
    if hasattr(keras.activations, activation):
        return None
    known = activation if activation.isidentifier() else "activation"
    return f"gain({known}) ** 2"


def is_zero(layer: keras.Layer) -> bool:
    """Whether a kernel or a scale of the layer is 0, so that it gives nothing yet."""
    return any(
        not keras.ops.convert_to_numpy(weight.value).any()
        for weight in layer.trainable_weights
        if len(weight.shape) > 1 or weight.name in ("gamma", "scale")
    )


def is_chain(model: keras.Layer) -> bool:
    """Whether the kernels of a model stand one behind the other.

    Of models without a graph that can be read it is taken for granted.
    """
    longest, kernels = _longest_path(model)
    return longest >= _CHAIN * kernels


def _longest_path(model: keras.Layer) -> tuple[int, int]:
    """The most kernels that a signal passes, and how many there are."""
    edges = predecessors(model)
    if edges is None:
        kernels = sum(map(has_kernel, measured_layers(model)))
        return kernels, kernels
    ends: dict[int, int] = {}
    kernels = 0
    for operation, before in edges:  # from the inputs on
        longest, inside = 0, 0
        if isinstance(operation, keras.Layer):
            longest, inside = _longest_path(operation)
        kernels += inside
        ends[id(operation)] = longest + max((ends.get(id(o), 0) for o in before), default=0)
    return max(ends.values(), default=0), kernels


def sums(model: keras.Layer) -> int:
    """How many additions the graph of a model has."""
    edges = predecessors(model) or []
    return sum(
        sums(operation)
        if isinstance(operation, keras.Model)
        else type(operation).__name__ == "Add"
        for operation, _ in edges
    )
