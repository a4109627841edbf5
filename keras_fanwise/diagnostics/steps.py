"""One call of an operation in a model, and what it does to a signal."""

import functools
from collections.abc import Sequence
from typing import Any

import keras

from keras_fanwise.naming import snake_case
from keras_fanwise.seam.owners import is_of_keras

_PRODUCTS = (
    "Conv",
    "ConvTranspose",
    "DepthwiseConv",
    "Dot",
    "Einsum",
    "Matmul",
    "SeparableConv",
    "Tensordot",
)
# Of `keras.ops` and layers, those that are not linear and no activation by name.
_NONLINEAR = ("Abs", "Exp", "Maximum", "Minimum", "PReLU", "Power", "ReLU", "Square")


class Step:
    """One call of an operation; several of one layer are several steps.

    Attributes:
        operation: a layer, or one of `keras.ops`; `None` for an input of the model.
        before: the steps whose outputs it takes, in the order of its arguments.
        holders: the layers that call it, from the model inwards.
        weights: that it applies.
        shape: of what it gives first.
        dtype: likewise.
        is_signal: whether it gives floats that come of floats: not a mask.
        place: in the order of the calls.
    """

    def __init__(
        self,
        operation: Any,
        before: Sequence["Step"],
        holders: tuple[keras.Layer, ...],
        weights: Sequence[keras.Variable],
        output: keras.KerasTensor,
        place: int,
    ) -> None:
        self.operation = operation
        self.before = tuple(before)
        self.holders = holders
        self.weights = tuple(weights)
        self.shape = tuple(output.shape)
        self.dtype = keras.backend.standardize_dtype(output.dtype)
        self.place = place
        # Not by recursion: networks are deep.
        self.is_signal: bool = "float" in self.dtype and (
            not self.before
            or isinstance(operation, keras.Layer)
            or any(step.is_signal for step in self.before)
        )

    @property
    def kind(self) -> str:
        """The name of the operation's class."""
        return type(self.operation).__name__

    @property
    def path(self) -> str:
        """Of the layer, or of the layer that calls the operation, and the operation."""
        inner = self.holders[-1] if len(self.holders) > 1 else None
        if isinstance(self.operation, keras.Layer) or inner is None:
            return str(getattr(self.operation, "path", None) or self.operation.name)
        return f"{inner.path or inner.name}/{self.kind.lower()}"

    @functools.cached_property
    def kernels(self) -> list[keras.Variable]:
        """What the signal is multiplied by as by a matrix, the last one last."""
        layer = self.operation
        if not isinstance(layer, keras.Layer):
            return [w for w in self.weights if is_product(layer) and is_kernel(w)]
        if isinstance(layer, keras.layers.Embedding):
            return []
        kernels = [weight for weight in self.weights if is_kernel(weight)]
        if is_of_keras(layer):  # others may name theirs as they like
            kernels = [weight for weight in kernels if "kernel" in weight.name]
        return kernels

    @functools.cached_property
    def gamma(self) -> keras.Variable | None:
        """A scale that the signal is multiplied by, unit by unit."""
        if self.kind == "Multiply":
            own = self.weights
        elif self.kind == "RMSNormalization" and is_of_keras(self.operation):
            own = tuple(weight for weight in self.weights if weight.name == "scale")
        else:
            own = tuple(weight for weight in self.weights if weight.name == "gamma")
        return own[0] if len(own) == 1 and not self.kernels else None

    @functools.cached_property
    def activation(self) -> str:
        """The name of a function that is not linear; of somebody's own, of its class."""
        if isinstance(self.operation, keras.Layer):
            function = getattr(self.operation, "activation", None)
            if function is keras.activations.linear:
                return ""
            if function is not None:
                return str(getattr(function, "__name__", type(function).__name__))
            if self.kernels and not is_of_keras(self.operation):
                return self.kind
        name = snake_case(self.kind)
        nonlinear = hasattr(keras.activations, name) or self.kind in _NONLINEAR
        return name if nonlinear and name != "linear" else ""

    @property
    def grows(self) -> bool:
        """Whether it makes images larger."""
        if "Transpose" in self.kind:
            return self.kind.startswith("Conv")
        return self.kind.startswith(("UpSampling", "Resiz"))


def is_product(operation: Any) -> bool:
    """Whether an operation of `keras.ops` multiplies by a matrix or convolves."""
    return type(operation).__name__ in _PRODUCTS


def is_kernel(weight: keras.Variable) -> bool:
    """Whether a weight can be a matrix that a signal is multiplied by."""
    return len(weight.shape) > 1 and "float" in str(weight.dtype)
