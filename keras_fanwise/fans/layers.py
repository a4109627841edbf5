"""The matrices that a weight is made of, and its fans, which follow from them.

What stands side by side in a weight, each part a linear map of its own, is told apart:
the gates of a recurrent kernel, the groups of a convolution, the channels of a depthwise
one, the values of a batch label. In the shapes, k stands for the kernel size, i and o for
input and output channels, g for groups, m for the depth multiplier, n for gates and u for
units.
"""

import dataclasses
import functools
import inspect
import math
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import keras
import numpy as np
from keras import layers

from keras_fanwise.arguments import dimensions, fail
from keras_fanwise.fans.counting import Equation, Fans, axes_fans, shape_fans


@dataclasses.dataclass(frozen=True)
class Matrices:
    """A weight as a stack of matrices, from inputs to outputs."""

    shape: tuple[int, ...]  # of the weight, with axes split that hold several matrices
    batch: tuple[int, ...]  # the axes of that shape along which the matrices stand
    inputs: tuple[int, ...]  # those of the rows of a matrix
    outputs: tuple[int, ...]  # those of its columns
    taps: tuple[int, ...] = ()  # of these axes, the receptive field of a convolution
    strides: tuple[int, ...] = ()  # of the convolution, one for each tap axis
    causal: bool = False  # whether the last tap, not the middle one, sees its own position
    parts: str = ""  # a stack of "gates", "groups", "channels", "labels" or "units"
    is_lookup: bool = False  # an input picks one of the rows, and is not multiplied by all
    # Of an equation, the axes of the layer's output, from its end, along which `batch` and
    # `outputs` stand; `None` if their number is not known.
    unit_axes: tuple[int, ...] | None = ()

    @property
    def is_transposed(self) -> bool:
        """Whether it is a convolution that runs backwards."""
        return bool(self.taps) and self.taps[0] in self.outputs

    @functools.cached_property
    def fans(self) -> Fans:
        """The fans of each of the matrices."""
        # An output sums over all taps of a convolution. An input lies under all of them in
        # turn only if the stride is 1: on average it lies under one in `prod(strides)`.
        inputs = 1 if self.is_lookup else self._size(self.inputs)
        outputs = self._size(self.outputs)
        taps, strides = self._size(self.taps), math.prod(self.strides)
        if self.is_transposed:
            return Fans(_ratio(inputs * taps, strides), outputs)
        # The taps of a convolution are among its inputs.
        return Fans(inputs, _ratio(outputs * taps, strides))

    def _size(self, axes: tuple[int, ...]) -> int:
        return math.prod(self.shape[axis] for axis in axes)

    @property
    def stack_shape(self) -> tuple[int, int, int]:
        """How many matrices there are, of how many rows and columns."""
        return self._size(self.batch), self._size(self.inputs), self._size(self.outputs)

    def stack(self, weight: np.ndarray) -> np.ndarray:
        """The matrices of a weight; shape (matrices, inputs, outputs)."""
        order = (*self.batch, *self.inputs, *self.outputs)
        matrices: np.ndarray = weight.reshape(self.shape).transpose(order)
        return matrices.reshape(self.stack_shape)

    def unstack(self, matrices: np.ndarray) -> np.ndarray:
        """The weight, of `shape`, that is made of these matrices."""
        order = (*self.batch, *self.inputs, *self.outputs)
        weight = matrices.reshape([self.shape[axis] for axis in order])
        return np.transpose(weight, np.argsort(order).tolist())

    def central(self, single: bool = False) -> tuple["Matrices", tuple[slice, ...]]:
        """The matrices of the central taps, as many as the strides, and where they stand.

        The first of them, alone if `single`, sees the position of the output itself: before
        it are as many taps as Keras pads. In a causal kernel it is the last one.
        """
        shape, index = list(self.shape), [slice(None)] * len(self.shape)
        for axis, stride in zip(self.taps, self.strides, strict=True):
            size = shape[axis]
            shape[axis] = min(size, 1 if single and self.causal else stride)
            start = size - shape[axis]
            start = start if self.causal else start // 2
            shape[axis] = 1 if single else shape[axis]
            index[axis] = slice(start, start + shape[axis])
        return dataclasses.replace(self, shape=tuple(shape)), tuple(index)

    def unit_factors(self, factors: np.ndarray) -> np.ndarray:
        """A number for each unit, in the order of the output, in a shape like `shape`."""
        units = {*self.batch, *self.outputs} - {*self.taps}
        if self.unit_axes:
            factors = factors.transpose(np.argsort(np.argsort(self.unit_axes)))
        ones = [size if axis in units else 1 for axis, size in enumerate(self.shape)]
        return factors.reshape(ones)


def _ratio(number: int, divisor: int) -> float:
    """An integer where it is one."""
    return number // divisor if number % divisor == 0 else number / divisor


# Each of these makes the matrices of a shape, or `None` where the shape is another than the
# layer should have. What they gave is kept, with its fans.


@functools.lru_cache
def _side_by_side(
    shape: tuple[int, ...],
    strides: tuple[int, ...] = (),
    parts: str = "",
    count: int = 1,
    *,
    outputs: int = 0,
    causal: bool = False,
    is_transposed: bool = False,
    is_lookup: bool = False,
) -> Matrices | None:
    """So many matrices, or of so many outputs each, along the last axis, after taps."""
    taps = tuple(range(len(strides)))
    last = len(taps) + 1
    if len(shape) != last + 1 or shape[last] % (outputs or count):
        return None
    count = shape[last] // outputs if outputs else count
    split = (*shape[:last], count, shape[last] // count)
    front, back = tuple(range(last)), (last + 1,)
    if is_transposed:
        front, back = back, front
    return Matrices(split, (last,), front, back, taps, strides, causal, parts, is_lookup)


@functools.lru_cache
def _channels(shape: tuple[int, ...], strides: tuple[int, ...]) -> Matrices | None:
    """(*k, i, m): i convolutions side by side, each from 1 channel to m."""
    rank = len(strides)
    taps = tuple(range(rank))
    if len(shape) != rank + 2:
        return None
    return Matrices(shape, (rank,), taps, (rank + 1,), taps, strides, parts="channels")


@functools.lru_cache
def _of_equation(
    equation: str, shape: tuple[int, ...], factor: int | None = None
) -> Matrices | None:
    """Labels that the kernel shares with the input alone are inputs, and so on."""
    # One of the input alone is summed before the kernel sees it, and counts in neither.
    terms = Equation.of(equation)
    inputs, kernel, output = terms if factor is None else terms.of_lora()[factor]
    if len(shape) != len(kernel):
        return None
    # A label that stands twice in the kernel takes its diagonal: one dimension.
    sizes = dict(zip(kernel, shape, strict=True))
    axes = list(enumerate(sizes))
    # From the end: what an ellipsis stands for is in front, or else of an unknown number.
    units = tuple(output.index(label) - len(output) for label in sizes if label in output)
    is_open = "..." in equation.partition("->")[2].lstrip(".")
    return Matrices(
        tuple(sizes.values()),
        tuple(axis for axis, label in axes if label in inputs and label in output),
        tuple(axis for axis, label in axes if label not in output),
        tuple(axis for axis, label in axes if label not in inputs),
        parts="labels",
        unit_axes=None if is_open else units,
    )


def shape_matrices(shape: Sequence[int]) -> Matrices | None:
    """By Keras's rule; `None` for shapes of less than two axes."""
    return _side_by_side(tuple(shape), (1,) * (len(shape) - 2)) if len(shape) > 1 else None


def _matrix(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(i, o)."""
    return _side_by_side(shape)


def _lookup(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(v, d): of v rows, a token reads one, of d numbers."""
    return _side_by_side(shape, is_lookup=True)


def _embeddings(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(v, d), of which quantization to 4 bits packs one axis."""
    if getattr(layer, "quantization_mode", None):
        shape = (layer.input_dim, layer.output_dim)
    return _lookup(layer, shape)


def _reverse_embeddings(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(d, v), likewise."""
    if getattr(layer, "quantization_mode", None):
        shape = (layer.output_dim, layer.input_dim)
    return _side_by_side(shape)


def _units(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices:
    """One weight for each unit; also the state of a layer, which feeds no unit."""
    return Matrices(shape, tuple(range(len(shape))), (), (), parts="units")


def _dense(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(i, o), of which quantization to 4 bits packs one axis."""
    axes = getattr(layer.input_spec, "axes", None) or {}  # which it has once it is built
    if getattr(layer, "quantization_mode", None) and -1 in axes:
        shape = (axes[-1], layer.units)
    return _side_by_side(shape)


def _einsum(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """By its equation, of the shape that it had before quantization."""
    if getattr(layer, "quantization_mode", None):
        shape = _unpacked_shape(layer)
    return _of_equation(layer.equation, shape)


def _unpacked_shape(layer: layers.EinsumDense) -> tuple[int, ...]:
    """Of the kernel, from the sizes that its labels have on both sides of the layer."""
    inputs, kernel, output = layer.equation.replace(" ", "").replace("->", ",").split(",")
    sizes: dict[str, int] = {}
    given = tuple(layer.get_build_config()["input_shape"])
    shapes = given, layer.compute_output_shape(given)
    for labels, shape in zip((inputs, output), map(tuple, shapes), strict=True):
        before, _, after = labels.partition("...")
        sizes.update(zip(before, shape, strict=False))
        sizes.update(zip(after[::-1], shape[::-1], strict=False))
    return tuple(sizes[label] for label in kernel)


def _gates(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(i, n*u): n matrices side by side."""
    return _side_by_side(shape, (), "gates", outputs=layer.units)


def _depthwise(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    return _channels(shape, tuple(layer.strides))


# The matrices of a weight, from its layer and its shape (`None` if the shape is not what
# the layer should have), or the weight of the layer whose fans it has, by name.
Row = Callable[[Any, tuple[int, ...]], Matrices | None] | str

_ROWS: dict[tuple[str, ...], Mapping[str, Row]] = {
    ("Dense",): {
        "kernel": _dense,
        "bias": "kernel",
        "lora_kernel_a": _matrix,
        "lora_kernel_b": _matrix,
    },
    # No heir of Dense. The kernel that it counts with is made of this one.
    ("TernaryDense",): {"kernel": _dense, "bias": "kernel"},
    # Also inside MultiHeadAttention and GroupQueryAttention.
    ("EinsumDense",): {
        "kernel": _einsum,
        "bias": "kernel",
        "lora_kernel_a": lambda layer, shape: _of_equation(layer.equation, shape, 0),
        "lora_kernel_b": lambda layer, shape: _of_equation(layer.equation, shape, 1),
    },
    ("Conv1D", "Conv2D", "Conv3D"): {
        # (*k, i/g, o): the outputs of a group stand side by side.
        "kernel": lambda layer, shape: _side_by_side(
            shape,
            tuple(layer.strides),
            "groups",
            layer.groups,
            causal=layer.padding == "causal",
        ),
        "bias": "kernel",
        # (*k, i/g, rank): all groups use it, each for hidden units of its own.
        "lora_kernel_a": lambda layer, shape: _side_by_side(shape, tuple(layer.strides)),
        # (rank, o): the hidden units of a group feed the outputs of that group.
        "lora_kernel_b": lambda layer, shape: _side_by_side(
            shape, (), "groups", layer.groups
        ),
    },
    ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"): {
        # (*k, o, i): a convolution run backwards, from its outputs to its inputs.
        "kernel": lambda layer, shape: _side_by_side(
            shape, tuple(layer.strides), is_transposed=True
        ),
        "bias": "kernel",
    },
    ("DepthwiseConv1D", "DepthwiseConv2D"): {"kernel": _depthwise, "bias": "kernel"},
    ("SeparableConv1D", "SeparableConv2D"): {
        "depthwise_kernel": _depthwise,
        # (1.., i, o): the strides of the layer are those of its depthwise kernel.
        "pointwise_kernel": lambda layer, shape: _side_by_side(
            shape, (1,) * len(layer.strides)
        ),
        "bias": "pointwise_kernel",
    },
    ("SimpleRNNCell", "LSTMCell", "GRUCell"): {
        "kernel": _gates,
        "recurrent_kernel": _gates,
        "bias": "kernel",
    },
    # ReversibleEmbedding is one, too.
    ("Embedding",): {
        "embeddings": _embeddings,
        "reverse_embeddings": _reverse_embeddings,
        "lora_embeddings_a": _lookup,
        "lora_embeddings_b": _matrix,
    },
    ("AdditiveAttention",): {
        # (i,): into one unit.
        "scale": lambda layer, shape: (
            Matrices(shape, (), (0,), ()) if len(shape) == 1 else None
        )
    },
    # (k, 1, o), with the default of `frame_step` that the layer documents.
    ("STFTSpectrogram",): dict.fromkeys(
        ("real_kernel", "imag_kernel"),
        lambda layer, shape: _side_by_side(
            shape, (layer.frame_step or layer.frame_length // 2,)
        ),
    ),
    ("Attention",): dict.fromkeys(("scale", "concat_score_weight"), _units),
    ("PReLU",): {"alpha": _units},
    ("GroupNormalization", "LayerNormalization"): {"gamma": _units, "beta": _units},
    ("BatchNormalization",): {
        **dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), _units),
        **dict.fromkeys(("moving_stddev", "renorm_mean", "renorm_stddev"), _units),
    },
    ("RMSNormalization",): {"scale": _units},
    ("Normalization",): dict.fromkeys(("mean", "variance", "count"), _units),
    ("SpectralNormalization",): {"vector_u": _units},
}

# By layer class, then by weight name. Subclasses inherit. The oldest Keras has not all.
TABLE: dict[type, Mapping[str, Row]] = {
    getattr(layers, name): rows
    for names, rows in _ROWS.items()
    for name in names
    if hasattr(layers, name)
}

# Likewise, for the layers that `is_convolutional_cell` recognizes.
CONVOLUTIONAL_CELL: Mapping[str, Row] = {
    # (*k, i, n*f): n convolutions side by side, each to f filters.
    "kernel": lambda cell, shape: _side_by_side(
        shape, cell.strides, "gates", outputs=cell.filters
    ),
    # (*k, f, n*f): likewise, of the state, which is convolved without strides.
    "recurrent_kernel": lambda cell, shape: _side_by_side(
        shape, (1,) * len(cell.strides), "gates", outputs=cell.filters
    ),
    "bias": "kernel",
}


def is_convolutional_cell(layer: layers.Layer) -> bool:
    """Whether it is the cell of a ConvLSTM, whose class Keras does not make public."""
    return (
        hasattr(layer, "recurrent_initializer")
        and hasattr(layer, "filters")
        and isinstance(getattr(layer, "strides", None), tuple)
    )


FansRule = Callable[[Any, str, tuple[int, ...]], Fans | None]
_FansRule = TypeVar("_FansRule", bound=FansRule)

# What `register_fans` was told, by layer class.
_registered: dict[type, FansRule] = {}


def layer_fans(layer: layers.Layer, weight_name: str, shape: Sequence[int]) -> Fans:
    """The fans of a weight of a layer.

    Those of its linear map away from the padded border: with independent weights of mean 0,
    `Var(y) = fan_in * Var(w) * E[x**2]`, and for the gradients on their way back
    `Var(dx) = fan_out * Var(w) * Var(dy)`.

    Of the classes of the layer, from its own to its most distant ancestor, the first
    that knows the weight answers: by the rule that `register_fans` was given for it
    or, if it is a layer of Keras, by the table of this package. A bias has the fans of
    the kernel whose outputs it is added to, as long as the layer has that kernel
    already. All other weights have the fans of Keras's shape rule, `shape_fans`.

    The answer is the same while the layer is being built and afterwards.

    Args:
        layer: the layer that owns the weight. A wrapper or a recurrent layer owns
            none: its inner layer or its `cell` does.
        weight_name: the name that the weight was given, as in `weight.name`.
        shape: list or tuple of integers that are 0 or more.

    Raises:
        TypeError: an argument is of the wrong type, or a registered rule returned
            something other than `Fans` or `None`.
        ValueError: a dimension is negative, or a registered rule returned a fan that
            is not a finite number of 0 or more.

    Reference: Glorot and Bengio 2010, <https://proceedings.mlr.press/v9/glorot10a.html>,
    equations 5 and 6.

    Example: of a depthwise kernel, an output unit sees one channel only.

    >>> import keras
    >>> layer = keras.layers.DepthwiseConv2D(3)
    >>> layer_fans(layer, "kernel", (3, 3, 64, 1))
    Fans(fan_in=9, fan_out=9)
    """
    if not isinstance(layer, layers.Layer):
        raise fail(TypeError, "layer", "a keras.layers.Layer", layer)
    if not isinstance(weight_name, str):
        raise fail(TypeError, "weight_name", "a string", weight_name)
    shape = dimensions(shape)
    answer = _answer(layer, weight_name, shape)
    if answer is None:
        return shape_fans(shape)
    return answer.fans if isinstance(answer, Matrices) else answer


def layer_matrices(
    layer: layers.Layer, weight_name: str, shape: Sequence[int]
) -> Matrices | None:
    """By the table, or else by Keras's rule; `None` for weights of less than two axes."""
    shape = tuple(shape)
    return known_matrices(layer, weight_name, shape) or shape_matrices(shape)


def known_matrices(
    layer: layers.Layer, weight_name: str, shape: tuple[int, ...]
) -> Matrices | None:
    """Those that the table tells, and not Keras's rule; `None` for less than two axes."""
    if len(shape) < 2:
        return None
    # Packed kernels, and diagonals, are not made of what their layer multiplies by.
    found = _answer(layer, weight_name, shape)
    if isinstance(found, Matrices) and math.prod(found.shape) == math.prod(shape):
        return found
    return None


# From 3.15 on Keras counts all labels of the kernel of an `EinsumDense` that reach the
# output as outputs, and the others as inputs.
_KERAS_COUNTS_LABELS = (
    "input_axes" in inspect.signature(keras.initializers.VarianceScaling).parameters
)


def keras_fans(layer: layers.Layer, weight_name: str, shape: Sequence[int]) -> Fans:
    """The fans that the initializers of the installed Keras count: by the shape alone."""
    is_einsum = isinstance(layer, layers.EinsumDense) and weight_name == "kernel"
    if is_einsum and _KERAS_COUNTS_LABELS:
        _, kernel, output = Equation.of(layer.equation)
        if len(shape) == len(kernel):  # not packed by quantization
            outputs = [axis for axis, label in enumerate(kernel) if label in output]
            inputs = [axis for axis in range(len(shape)) if axis not in outputs]
            return axes_fans(shape, inputs, outputs)
    return shape_fans(shape)


def unit_axes(layer: layers.Layer, matrices: Matrices | None, rank: int) -> tuple[int, ...]:
    """The axes of a layer's output of this rank along which its units stand, in order."""
    if matrices is not None and matrices.unit_axes:
        return tuple(sorted(matrices.unit_axes))
    is_image = rank > 3 and not isinstance(layer, layers.Dense)
    default = keras.config.image_data_format() if is_image else "channels_last"
    first = (getattr(layer, "data_format", None) or default) == "channels_first"
    return (1,) if first and rank > 2 else (rank - 1,)


def register_fans(*layer_classes: type) -> Callable[[_FansRule], _FansRule]:
    """Registers a function that knows the fans of the weights of a layer.

    The function is called with the layer, the name of a weight and its shape, a tuple
    of integers. It returns the `Fans` of the weight, or `None` for weights that it
    leaves to the ancestors of the layer's class. Subclasses inherit it, unless they
    have one of their own. A second function for the same class replaces the first.

    It may be called before the layer has its weights: what it reads of the layer must
    be set before `add_weight` is called.

    Args:
        layer_classes: one or more subclasses of `keras.layers.Layer`; also layers of
            Keras itself, whose fans in the table are then asked for second.

    Returns:
        A decorator, which returns the function as it is.

    Raises:
        TypeError: `layer_classes` is empty or has something else in it, or what is
            decorated cannot be called.

    Example: a layer that mixes each unit with its two neighbours.

    >>> import keras
    >>> class Neighbours(keras.layers.Layer):
    ...     def build(self, input_shape):
    ...         self.kernel = self.add_weight(shape=(3, input_shape[-1]), name="kernel")
    >>> @register_fans(Neighbours)
    ... def neighbours_fans(layer, weight_name, shape):
    ...     return Fans(3, 3) if weight_name == "kernel" else None
    >>> layer_fans(Neighbours(), "kernel", (3, 64))
    Fans(fan_in=3, fan_out=3)
    """
    if not layer_classes or not all(
        isinstance(cls, type) and issubclass(cls, layers.Layer) for cls in layer_classes
    ):
        allowed = "one or more subclasses of keras.layers.Layer"
        raise fail(TypeError, "layer_classes", allowed, layer_classes)

    def decorate(rule: _FansRule) -> _FansRule:
        if not callable(rule):
            allowed = "a function of a layer, a weight name and a shape"
            raise fail(TypeError, "rule", allowed, rule)
        _registered.update(dict.fromkeys(layer_classes, rule))
        return rule

    return decorate


def _answer(
    layer: layers.Layer, name: str, shape: tuple[int, ...]
) -> Matrices | Fans | None:
    """What the first says that knows the weight."""
    for cls in type(layer).__mro__:
        if cls in _registered:
            answer = _registered[cls](layer, name, shape)
            if answer is not None:
                return _checked(answer, _registered[cls])
        if cls in TABLE and name in TABLE[cls]:
            found = _by_row(TABLE[cls][name], layer, shape)
            if found is not None:
                return found
    if is_convolutional_cell(layer) and name in CONVOLUTIONAL_CELL:
        return _by_row(CONVOLUTIONAL_CELL[name], layer, shape)
    return None


def _by_row(
    row: Row, layer: layers.Layer, shape: tuple[int, ...]
) -> Matrices | Fans | None:
    if callable(row):
        return row(layer, shape)
    # `layer.kernel` fails until a layer is built; the list of its weights does not.
    kernels = [weight for weight in layer.weights if weight.name == row]
    return layer_fans(layer, row, kernels[0].shape) if kernels else None


def _checked(answer: Any, rule: FansRule) -> Fans:
    """The answer of a rule, which is other people's code, in Python's own numbers."""
    name = getattr(rule, "__qualname__", repr(rule))
    allowed = f"keras_fanwise.Fans of two finite numbers of 0 or more, or None, from {name}"
    if not isinstance(answer, Fans):
        raise fail(TypeError, "fans", allowed, answer)
    plain = [
        int(fan) if isinstance(fan, numbers.Integral) else float(fan)
        for fan in answer
        if isinstance(fan, numbers.Real)
    ]
    if len(plain) < 2 or not all(0 <= fan <= sys.float_info.max for fan in plain):
        raise fail(ValueError, "fans", allowed, answer)
    return Fans(*plain)
