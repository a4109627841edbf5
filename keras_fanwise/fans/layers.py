"""The matrices that a weight is made of: which of its axes are inputs and which outputs.

What stands side by side in a weight, each part a linear map of its own, is told apart:
the gates of a recurrent kernel, the groups of a convolution, the channels of a depthwise
one, the values of a batch label. `layer_matrices` of `lookup.py` reads this table. In the
shapes, k stands for the kernel size, i and o for input and output channels, g for groups,
n for gates and u for units.
"""

import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
from keras import layers

from keras_fanwise.arguments import dimensions, fail
from keras_fanwise.fans.counting import (
    Equation,
    Fans,
    einsum_fans,
    lora_equations,
    parse_equation,
    shape_fans,
)


class Matrices(NamedTuple):
    """A weight as a stack of matrices, from inputs to outputs.

    Attributes:
        shape: of the weight, with axes split in two where they hold several matrices.
        batch: the axes of that shape along which the matrices stand.
        inputs: those of the rows of a matrix.
        outputs: those of its columns.
        taps: of these axes, those of the receptive field of a convolution.
        strides: of the convolution, one for each tap axis.
        causal: whether the last tap, not the middle one, sees its own position.
    """

    shape: tuple[int, ...]
    batch: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    taps: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    causal: bool = False

    @property
    def stack_shape(self) -> tuple[int, int, int]:
        """How many matrices there are, of how many rows and columns."""
        count, rows, columns = (
            math.prod(self.shape[axis] for axis in axes)
            for axes in (self.batch, self.inputs, self.outputs)
        )
        return count, rows, columns

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

    def central(self) -> tuple["Matrices", tuple[slice, ...]]:
        """The matrices of the central taps, as many as the strides, and where they stand.

        Between the middle of a kernel and the border are as many taps as Keras pads, so
        that the output is not shifted against the input; a causal kernel ends at its own
        position.
        """
        shape, index = list(self.shape), [slice(None)] * len(self.shape)
        for axis, stride in zip(self.taps, self.strides, strict=True):
            size = shape[axis]
            shape[axis] = min(size, stride)
            start = size - shape[axis]
            start = start if self.causal else start // 2
            index[axis] = slice(start, start + shape[axis])
        return self._replace(shape=tuple(shape)), tuple(index)


# The matrices of a weight, from its layer and its shape; `None` if the shape is not what
# the layer should have.
MatricesRow = Callable[[layers.Layer, tuple[int, ...]], Matrices | None]


def shape_matrices(shape: Sequence[int]) -> Matrices | None:
    """By Keras's rule: the last axis are outputs, all others inputs.

    Those before the last two are taps. `None` for shapes of less than two axes.
    """
    last = len(shape) - 1
    if last < 1:
        return None
    taps = tuple(range(last - 1))
    return Matrices(
        tuple(shape), (), tuple(range(last)), (last,), taps, strides=(1,) * len(taps)
    )


def _einsum_matrices(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    inputs, kernel, output = parse_equation(layer.equation)
    if len(set(kernel)) < len(kernel) or len(kernel) != len(shape):
        return None
    batch, rows, columns = [], [], []
    for axis, label in enumerate(kernel):
        if label not in output:
            rows.append(axis)
        elif label in inputs:
            batch.append(axis)
        else:
            columns.append(axis)
    return Matrices(shape, tuple(batch), tuple(rows), tuple(columns))


def _gates_matrices(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(i, n*u): n matrices side by side."""
    if len(shape) != 2:
        return None
    return _split(shape, layer.units)


def _conv_matrices(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(*k, i/g, o): the outputs of a group stand side by side."""
    causal = getattr(layer, "padding", None) == "causal"
    return _convolution_matrices(shape, layer.strides, shape[-1] // layer.groups, causal)


def _conv_transpose_matrices(
    layer: layers.Layer, shape: tuple[int, ...]
) -> Matrices | None:
    """(*k, o, i): a convolution run backwards, from its outputs to its inputs."""
    backwards = _convolution_matrices(shape, layer.strides, shape[-1])
    return backwards and backwards._replace(
        inputs=backwards.outputs, outputs=backwards.inputs
    )


def _depthwise_matrices(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(*k, i, m): i convolutions side by side, each from 1 channel to m."""
    rank = len(layer.strides)
    if len(shape) != rank + 2:
        return None
    taps = tuple(range(rank))
    return Matrices(shape, (rank,), taps, (rank + 1,), taps, tuple(layer.strides))


def _pointwise_matrices(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(1.., i, o): the strides of the layer are those of its depthwise kernel."""
    return _convolution_matrices(shape, (1,) * len(layer.strides), shape[-1])


def _conv_gates_matrices(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(*k, i, n*f): n convolutions side by side."""
    return _convolution_matrices(shape, layer.strides, layer.filters)


def _conv_recurrent_gates_matrices(
    layer: layers.Layer, shape: tuple[int, ...]
) -> Matrices | None:
    """(*k, f, n*f): likewise, without strides."""
    return _convolution_matrices(shape, (1,) * len(layer.strides), layer.filters)


def _convolution_matrices(
    shape: tuple[int, ...], strides: Sequence[int], outputs: int, causal: bool = False
) -> Matrices | None:
    if len(shape) != len(strides) + 2:
        return None
    taps = tuple(range(len(strides)))
    split = _split(shape, outputs)
    return split and split._replace(taps=taps, strides=tuple(strides), causal=causal)


def _split(shape: tuple[int, ...], outputs: int) -> Matrices | None:
    """Matrices side by side along the last axis, each of so many outputs."""
    if not outputs or shape[-1] % outputs:
        return None
    last = len(shape) - 1
    split = (*shape[:-1], shape[-1] // outputs, outputs)
    return Matrices(split, (last,), tuple(range(last)), (last + 1,))


_MATRICES: dict[tuple[str, ...], Mapping[str, MatricesRow]] = {
    # Also inside MultiHeadAttention and GroupQueryAttention.
    ("EinsumDense",): {"kernel": _einsum_matrices},
    ("Conv1D", "Conv2D", "Conv3D"): {"kernel": _conv_matrices},
    ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"): {
        "kernel": _conv_transpose_matrices
    },
    ("DepthwiseConv1D", "DepthwiseConv2D"): {"kernel": _depthwise_matrices},
    ("SeparableConv1D", "SeparableConv2D"): {
        "depthwise_kernel": _depthwise_matrices,
        "pointwise_kernel": _pointwise_matrices,
    },
    ("SimpleRNNCell", "LSTMCell", "GRUCell"): {
        "kernel": _gates_matrices,
        "recurrent_kernel": _gates_matrices,
    },
}

# By layer class, then by weight name. Subclasses inherit.
MATRICES: dict[type, Mapping[str, MatricesRow]] = {
    getattr(layers, name): rows for names, rows in _MATRICES.items() for name in names
}

# By weight name, for the layers that `is_convolutional_cell` recognizes.
CELL_MATRICES: Mapping[str, MatricesRow] = {
    "kernel": _conv_gates_matrices,
    "recurrent_kernel": _conv_recurrent_gates_matrices,
}


# How the fans of a weight are counted: from its layer and its shape (`None` if the
# shape is not what the layer should have), or as those of another weight of the
# layer, which is named.
FansRow = Callable[[layers.Layer, tuple[int, ...]], Fans | None] | str


def _one_to_one(layer: layers.Layer, shape: tuple[int, ...]) -> Fans:
    """One weight for each unit; also the state of a layer, which feeds no unit."""
    return Fans(1, 1)


def _matrix(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(i, o)."""
    return Fans(*shape) if len(shape) == 2 else None


def _lookup(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(v, d): of v rows, a token reads one, of d numbers."""
    return Fans(1, shape[1]) if len(shape) == 2 else None


def _weighted_sum(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(i,): into one unit."""
    return Fans(shape[0], 1) if len(shape) == 1 else None


def _gates(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(i, n*u): n matrices side by side, each counted alone."""
    return Fans(shape[0], layer.units) if len(shape) == 2 else None


def _einsum(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    return _einsum_of(parse_equation(layer.equation), shape)


def _einsum_lora_a(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    return _einsum_of(lora_equations(parse_equation(layer.equation))[0], shape)


def _einsum_lora_b(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    return _einsum_of(lora_equations(parse_equation(layer.equation))[1], shape)


def _einsum_of(equation: Equation, shape: tuple[int, ...]) -> Fans | None:
    # The ranks differ where quantization has packed the kernel into a matrix.
    return einsum_fans(equation, shape) if len(shape) == len(equation.kernel) else None


def _conv(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(*k, i/g, o): each input channel feeds the outputs of its group."""
    return _convolution(shape, layer.strides, layer.groups)


def _conv_lora_a(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(*k, i/g, rank): all groups use it, each for hidden units of its own."""
    return _convolution(shape, layer.strides)


def _conv_lora_b(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(rank, o): the hidden units of a group feed the outputs of that group."""
    return _convolution(shape, (), layer.groups)


def _pointwise(layer: layers.Layer, shape: tuple[int, ...]) -> Fans:
    """(1.., i, o): a convolution that looks at one position."""
    return shape_fans(shape)


def _conv_transpose(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(*k, o, i): a convolution run backwards, from its outputs to its inputs."""
    backwards = _convolution(shape, layer.strides)
    return backwards and Fans(backwards.fan_out, backwards.fan_in)


def _depthwise(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(*k, i, m): i convolutions side by side, each from 1 channel to m."""
    return _convolution((*shape[:-2], 1, *shape[-1:]), layer.strides)


def _spectrogram(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(k, 1, o), with the default of `frame_step` that the layer documents."""
    return _convolution(shape, (layer.frame_step or layer.frame_length // 2,))


def _conv_gates(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(*k, i, n*f): n convolutions side by side, each to f filters."""
    return _convolution((*shape[:-1], layer.filters), layer.strides)


def _conv_recurrent_gates(layer: layers.Layer, shape: tuple[int, ...]) -> Fans | None:
    """(*k, f, n*f): likewise, of the state, which is convolved without strides."""
    return _convolution((*shape[:-1], layer.filters), (1,) * len(layer.strides))


def _convolution(
    shape: Sequence[int], strides: Sequence[int], groups: int = 1
) -> Fans | None:
    """(*k, i/g, o).

    An output sums over all taps of the kernel. An input lies under all of them in
    turn only if the stride is 1: on average it lies under one in `prod(strides)`.
    Dilation spreads the taps and does not change their number.
    """
    if len(shape) != len(strides) + 2:
        return None
    fan_in, fan_out = shape_fans(shape)
    sharing = groups * math.prod(strides)
    exact = fan_out % sharing == 0
    return Fans(fan_in, fan_out // sharing if exact else fan_out / sharing)


def is_convolutional_cell(layer: layers.Layer) -> bool:
    """Whether `layer` is the cell of a convolutional recurrent layer.

    Keras does not make the class of the cell of `ConvLSTM2D` public: the cell is
    recognized by what it has.
    """
    return (
        hasattr(layer, "recurrent_initializer")
        and hasattr(layer, "filters")
        and isinstance(getattr(layer, "strides", None), tuple)
    )


_FANS: dict[tuple[str, ...], Mapping[str, FansRow]] = {
    ("Dense",): {
        "kernel": _matrix,
        "bias": "kernel",
        "lora_kernel_a": _matrix,
        "lora_kernel_b": _matrix,
    },
    # Also inside MultiHeadAttention and GroupQueryAttention.
    ("EinsumDense",): {
        "kernel": _einsum,
        "bias": "kernel",
        "lora_kernel_a": _einsum_lora_a,
        "lora_kernel_b": _einsum_lora_b,
    },
    ("Conv1D", "Conv2D", "Conv3D"): {
        "kernel": _conv,
        "bias": "kernel",
        "lora_kernel_a": _conv_lora_a,
        "lora_kernel_b": _conv_lora_b,
    },
    ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"): {
        "kernel": _conv_transpose,
        "bias": "kernel",
    },
    ("DepthwiseConv1D", "DepthwiseConv2D"): {"kernel": _depthwise, "bias": "kernel"},
    ("SeparableConv1D", "SeparableConv2D"): {
        "depthwise_kernel": _depthwise,
        "pointwise_kernel": _pointwise,
        "bias": "pointwise_kernel",
    },
    ("SimpleRNNCell", "LSTMCell", "GRUCell"): {
        "kernel": _gates,
        "recurrent_kernel": _gates,
        "bias": "kernel",
    },
    # ReversibleEmbedding is one, too.
    ("Embedding",): {
        "embeddings": _lookup,
        "reverse_embeddings": _matrix,
        "lora_embeddings_a": _lookup,
        "lora_embeddings_b": _matrix,
    },
    ("Attention",): {"scale": _one_to_one, "concat_score_weight": _one_to_one},
    ("AdditiveAttention",): {"scale": _weighted_sum},
    ("STFTSpectrogram",): {"real_kernel": _spectrogram, "imag_kernel": _spectrogram},
    ("PReLU",): {"alpha": _one_to_one},
    ("GroupNormalization", "LayerNormalization"): {
        "gamma": _one_to_one,
        "beta": _one_to_one,
    },
    ("BatchNormalization",): dict.fromkeys(
        (
            "gamma",
            "beta",
            "moving_mean",
            "moving_variance",
            "moving_stddev",
            "renorm_mean",
            "renorm_stddev",
        ),
        _one_to_one,
    ),
    ("RMSNormalization",): {"scale": _one_to_one},
    ("Normalization",): dict.fromkeys(("mean", "variance", "count"), _one_to_one),
    ("SpectralNormalization",): {"vector_u": _one_to_one},
}

# By layer class, then by weight name. Subclasses inherit.
TABLE: dict[type, Mapping[str, FansRow]] = {
    getattr(layers, name): rows
    for names, rows in _FANS.items()
    for name in names
    # RMSNormalization is newer than the oldest Keras supported.
    if hasattr(layers, name)
}

# By weight name, for the layers that `is_convolutional_cell` recognizes.
CONVOLUTIONAL_CELL: Mapping[str, FansRow] = {
    "kernel": _conv_gates,
    "recurrent_kernel": _conv_recurrent_gates,
    "bias": "kernel",
}


FansRule = Callable[[Any, str, tuple[int, ...]], Fans | None]
_FansRule = TypeVar("_FansRule", bound=FansRule)

# What `register_fans` was told, by layer class.
_registered: dict[type, FansRule] = {}


def layer_fans(layer: keras.layers.Layer, weight_name: str, shape: Sequence[int]) -> Fans:
    """The fans of a weight of a layer.

    For the linear map that the weight is part of, `fan_in` is the mean number of
    weights that feed one output unit and `fan_out` the mean number of output units
    that one input unit feeds, away from the padded border. With independent weights
    of mean 0, `Var(y) = fan_in * Var(w) * E[x**2]`, and for the gradients on their
    way back `Var(dx) = fan_out * Var(w) * Var(dy)`.

    Of the classes of the layer, from its own to its most distant ancestor, the first
    that knows the weight answers: by the rule that `register_fans` was given for it
    or, if it is a layer of Keras, by the table of this package. A bias has the fans of
    the kernel whose outputs it is added to, as long as the layer has that kernel
    already. All other weights have those of Keras's shape rule, `shape_fans`.

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
    if not isinstance(layer, keras.layers.Layer):
        raise fail(TypeError, "layer", "a keras.layers.Layer", layer)
    if not isinstance(weight_name, str):
        raise fail(TypeError, "weight_name", "a string", weight_name)
    answers = _answers(layer, weight_name, dimensions(shape))
    return next(fans for fans in answers if fans is not None)


def layer_matrices(
    layer: keras.layers.Layer, weight_name: str, shape: Sequence[int]
) -> Matrices | None:
    """The matrices that a weight of a layer is made of.

    As in `layer_fans`, the first class of the layer that knows the weight answers. Where
    that is a rule of `register_fans`, which tells no axes, and for all other weights it is
    Keras's rule: the last axis are outputs.

    Args:
        layer: the layer that owns the weight.
        weight_name: the name that the weight was given.
        shape: of the weight.

    Returns:
        The matrices; `None` for weights of less than two axes.

    Raises:
        TypeError: a registered rule returned something other than `Fans` or `None`.
        ValueError: a registered rule returned a fan that is not a number of 0 or more.

    Example: the four gates of an LSTM.

    >>> import keras
    >>> layer_matrices(keras.layers.LSTMCell(8), "kernel", (5, 32)).stack_shape
    (4, 5, 8)
    """
    shape = tuple(shape)
    for cls in type(layer).__mro__:
        rule = _registered.get(cls)
        if rule and _checked(rule(layer, weight_name, shape), rule) is not None:
            return shape_matrices(shape)
        row = MATRICES.get(cls, {}).get(weight_name)
        if row is not None:
            return row(layer, shape) or shape_matrices(shape)
    if is_convolutional_cell(layer) and weight_name in CELL_MATRICES:
        return CELL_MATRICES[weight_name](layer, shape) or shape_matrices(shape)
    return shape_matrices(shape)


def register_fans(*layer_classes: type) -> Callable[[_FansRule], _FansRule]:
    """Registers a function that knows the fans of the weights of a layer.

    The function is called with the layer, the name of a weight and its shape, a tuple
    of integers. It returns the `Fans` of the weight, or `None` for weights that it
    leaves to the ancestors of the layer's class. Subclasses inherit it, unless they
    have one of their own. A second function for the same class replaces the first.

    It may be called before the layer has its weights: what it reads of the layer must
    be set before `add_weight` is called.

    Args:
        layer_classes: one or more subclasses of `keras.layers.Layer`; also those of
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
    if not layer_classes or not all(map(_is_layer_class, layer_classes)):
        allowed = "one or more subclasses of keras.layers.Layer"
        raise fail(TypeError, "layer_classes", allowed, layer_classes)

    def decorate(rule: _FansRule) -> _FansRule:
        if not callable(rule):
            allowed = "a function of a layer, a weight name and a shape"
            raise fail(TypeError, "rule", allowed, rule)
        _registered.update(dict.fromkeys(layer_classes, rule))
        return rule

    return decorate


def _is_layer_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, keras.layers.Layer)


def _answers(
    layer: keras.layers.Layer, name: str, shape: tuple[int, ...]
) -> Iterator[Fans | None]:
    """What each source says in turn; the last one always knows."""
    for cls in type(layer).__mro__:
        if cls in _registered:
            yield _checked(_registered[cls](layer, name, shape), _registered[cls])
        if cls in TABLE:
            yield _by_row(TABLE[cls].get(name), layer, shape)
    if is_convolutional_cell(layer):
        yield _by_row(CONVOLUTIONAL_CELL.get(name), layer, shape)
    yield shape_fans(shape)


def _by_row(
    row: FansRow | None, layer: keras.layers.Layer, shape: tuple[int, ...]
) -> Fans | None:
    if row is None:
        return None
    if callable(row):
        return row(layer, shape)
    # `layer.kernel` fails until a layer is built; the list of its weights does not.
    for weight in layer.weights:
        if weight.name == row:
            return layer_fans(layer, weight.name, weight.shape)
    return None


def _checked(fans: Any, rule: FansRule) -> Fans | None:
    """The answer of a registered rule, which is other people's code."""
    if fans is None:
        return None
    name = getattr(rule, "__qualname__", repr(rule))
    allowed = f"keras_fanwise.Fans of two finite numbers of 0 or more, or None, from {name}"
    if not isinstance(fans, Fans):
        raise fail(TypeError, "fans", allowed, fans)
    plain = [_plain(fan) for fan in fans]
    if not all(0 <= fan < math.inf for fan in plain):
        raise fail(ValueError, "fans", allowed, fans)
    return Fans(*plain)


def _plain(fan: Any) -> float:
    """A number of any library as Python's own; what is no number is not finite."""
    if not isinstance(fan, numbers.Real):
        return math.nan
    try:
        number = float(fan)
    except OverflowError:
        return math.inf
    return int(fan) if isinstance(fan, numbers.Integral) else number
