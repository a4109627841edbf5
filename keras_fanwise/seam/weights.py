"""Which layer has which weight of a model, and what it does there."""

import enum
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from keras_fanwise.arguments import fail, is_of_keras
from keras_fanwise.backends.private_keras import all_layers, is_learned, own_variables

NOT_BUILT = "built, and have weights: call it on a batch, or begin it with keras.Input"


class OwnedWeight(NamedTuple):
    """A weight and where it is."""

    layer: keras.Layer  # the innermost that has it
    holders: tuple[keras.Layer, ...]  # all that have it, from the model inwards
    variable: keras.Variable


class Role(str, enum.Enum):
    """What a weight does in its layer."""

    KERNEL = "kernel"  # signals are multiplied by it, as by a matrix
    MATRIX = "matrix"  # it has the shape of a kernel, and nothing tells what it does
    LOOKUP = "lookup table"  # its rows are picked by number: tokens, positions, distances
    SCALE = "scale"  # multiplies a signal unit by unit: γ
    BIAS = "bias"  # is added to a signal: β
    STATE = "state"  # not learned: moving statistics, scales of quantized kernels
    OTHER = "something else"  # class tokens, slopes, scalars

    @property
    def is_matrix(self) -> bool:
        """Whether signals are multiplied by it, for all that is known."""
        return self in (Role.KERNEL, Role.MATRIX)


# What these hold is computed, such as a Fourier transform, and not learned.
_COMPUTED = getattr(keras.layers, "STFTSpectrogram", ())


def role(owned: OwnedWeight) -> Role:
    """What a weight does in its layer, by its name, and in other people's by its shape."""
    layer, variable = owned.layer, owned.variable
    name, shape = str(variable.name), tuple(variable.shape)
    # A quantized weight was learned, and is kept in integers now.
    is_quantized = getattr(layer, "quantization_mode", None) and name.endswith(
        ("kernel", "embeddings")
    )
    if isinstance(layer, _COMPUTED) or not (is_learned(layer, variable) or is_quantized):
        return Role.STATE
    if len(shape) > 1 and name.endswith(("kernel", "reverse_embeddings")):
        return Role.KERNEL
    if name.endswith(("bias", "beta")):
        return Role.BIAS
    if name.endswith(("gamma", "scale")):
        # That of AdditiveAttention multiplies before a sum over units.
        return (
            Role.OTHER if isinstance(layer, keras.layers.AdditiveAttention) else Role.SCALE
        )
    # Of (1, 1, units) every unit has one number, as of (units,).
    is_matrix = math.prod(shape[:-1]) > 1 and not name.endswith("alpha")
    if name.startswith("lora_"):
        return Role.MATRIX
    if name.endswith("embeddings") or (
        is_matrix and ("embedding" in name or name.endswith(("embed", "table")))
    ):
        return Role.LOOKUP
    if not is_matrix:
        return Role.OTHER
    is_kernel = "kernel" in name.split("_") or shape in _matrices_for_inputs(layer)
    return Role.KERNEL if is_kernel else Role.MATRIX


def _matrices_for_inputs(layer: keras.Layer) -> set[tuple[int, ...]]:
    """The shapes of the kernels of a layer of one's own.

    Those with as many rows as the layer was built for input units, or as another kernel has
    columns; so is each of a stack of them, such as experts or taps.
    """
    if is_of_keras(layer):
        return set()
    shapes = {tuple(variable.shape) for variable in own_variables(layer)}
    rest = {shape for shape in shapes if len(shape) > 1 and 1 not in shape}
    # The last axes of all inputs that the layer was built for.
    config = layer.get_build_config() or {}
    units: set[int | None] = set()

    def add(shape: Any) -> None:
        if isinstance(shape, (tuple, list)) and shape:
            units.add(shape[-1])

    keras.tree.map_shape_structure(
        add, [config.get("input_shape"), config.get("shapes_dict")]
    )
    reached: set[tuple[int, ...]] = set()
    # Of (inputs, heads, units) the first axis is that of the inputs, of a stack the last
    # but one.
    while found := {shape for shape in rest if {shape[0], shape[-2]} & units}:
        reached |= found
        rest -= found
        units.update(shape[-1] for shape in found)
    return reached


def weights_within(layer: keras.Layer) -> Iterator[OwnedWeight]:
    """The weights of a layer and of those inside it; it may have none, or not be built."""
    for inner in all_layers(layer):
        for variable in own_variables(inner):
            yield OwnedWeight(inner, (inner,), variable)


def has_kernel(layer: keras.Layer) -> bool:
    """Whether the layer, or one inside it, has matrices or looks signals up in a table."""
    kinds = (Role.KERNEL, Role.MATRIX, Role.LOOKUP)
    return any(role(owned) in kinds for owned in weights_within(layer))


def all_weights(model: keras.Layer) -> list[keras.Variable]:
    """Its weights; a ValueError if a layer is inside itself."""
    try:
        return list(model.weights)
    except RecursionError:
        allowed = "without layers that are inside themselves"
        raise fail(ValueError, "model", allowed, model.name) from None


def owned_weights(model: keras.Layer) -> list[OwnedWeight]:
    """Every weight of a model once, in the model's order; an error if it has none yet."""
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
