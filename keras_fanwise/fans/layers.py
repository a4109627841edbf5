"""The matrices that a weight is made of, and its fans, which follow from them.

What stands side by side in a weight, each part a linear map of its own, is told apart:
the gates of a recurrent kernel, the groups of a convolution, the channels of a depthwise
one, the values of a batch label. In the shapes, k stands for the kernel size, i and o for
input and output channels, g for groups, m for the depth multiplier, n for gates and u for
units.
"""

import functools
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
from keras import layers

from keras_fanwise.arguments import dimensions, fail
from keras_fanwise.fans.counting import Equation, Fans, axes_fans, shape_fans


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
        parts: what the matrices of a stack belong to: `"gates"`, `"groups"`, `"channels"`,
            `"labels"` of an equation or `"units"`.
        is_lookup: whether an input picks one of the rows, and is not multiplied by all.
        unit_axes: of an equation, the axes of the layer's output, from its end, along which
            `batch` and `outputs` stand; `None` if their number is not known.
    """

    shape: tuple[int, ...]
    batch: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    taps: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    causal: bool = False
    parts: str = ""
    is_lookup: bool = False
    unit_axes: tuple[int, ...] | None = ()

    @property
    def is_transposed(self) -> bool:
        """Whether it is a convolution that runs backwards."""
        return bool(self.taps) and self.taps[0] in self.outputs

    @property
    def fans(self) -> Fans:
        """The fans of each of the matrices.

        An output sums over all taps of a convolution. An input lies under all of them in
        turn only if the stride is 1: on average it lies under one in `prod(strides)`.
        Dilation spreads the taps and does not change their number.
        """
        inputs: float = 1 if self.is_lookup else self._size(self.inputs)
        outputs: float = self._size(self.outputs)
        if self.taps:
            taps, strides = self._size(self.taps), math.prod(self.strides)
            if self.is_transposed:
                inputs = _ratio(inputs * taps, strides)
            else:
                outputs = _ratio(outputs * taps, strides)
        return Fans(inputs, outputs)

    def _size(self, axes: tuple[int, ...]) -> int:
        size, shape = 1, self.shape
        for axis in axes:
            size *= shape[axis]
        return size

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

    def unit_factors(self, factors: np.ndarray) -> np.ndarray:
        """A number for each unit, in the order of the output, in a shape like `shape`."""
        units = {*self.batch, *self.outputs} - {*self.taps}
        if self.unit_axes:
            factors = factors.transpose(np.argsort(np.argsort(self.unit_axes)))
        ones = [size if axis in units else 1 for axis, size in enumerate(self.shape)]
        return factors.reshape(ones)


def _ratio(number: float, divisor: int) -> float:
    """An integer where it is one."""
    return number // divisor if number % divisor == 0 else number / divisor


def _matrix(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(i, o)."""
    return Matrices(shape, (), (0,), (1,)) if len(shape) == 2 else None


def _lookup(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(v, d): of v rows, a token reads one, of d numbers."""
    return Matrices(shape, (), (0,), (1,), is_lookup=True) if len(shape) == 2 else None


def _units(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices:
    """One weight for each unit; also the state of a layer, which feeds no unit."""
    return Matrices(shape, tuple(range(len(shape))), (), (), parts="units")


def _dense(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(i, o), of which quantization to 4 bits packs one axis."""
    if getattr(layer, "quantization_mode", None) and layer.input_spec is not None:
        shape = (layer.input_spec.axes[-1], layer.units)
    return _matrix(layer, shape)


def _einsum(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """By its equation, of the shape that it had before quantization."""
    if getattr(layer, "quantization_mode", None):
        shape = tuple(getattr(layer, "original_kernel_shape", shape))
    found = _of_equation(Equation.of(layer.equation), shape)
    if found is not None and "..." in layer.equation.partition("->")[2].lstrip("."):
        return found._replace(unit_axes=None)  # axes of unknown number follow the units
    return found


def _einsum_lora(layer: layers.Layer, shape: tuple[int, ...], part: int) -> Matrices | None:
    return _of_equation(Equation.of(layer.equation).of_lora()[part], shape)


@functools.lru_cache
def _of_equation(equation: Equation, shape: tuple[int, ...]) -> Matrices | None:
    """Labels that the kernel shares with the input alone are inputs, and so on.

    A label of all three is a batch label: each of its values has a matrix of its own. One
    of the input alone is summed before the kernel sees it, and counts in neither.
    """
    if len(shape) != len(equation.kernel):
        return None
    # A label that stands twice in the kernel takes its diagonal: one dimension.
    sizes = dict(zip(equation.kernel, shape, strict=True))
    inputs, output = equation.inputs, equation.output
    axes = list(enumerate(sizes))
    # From the end: what an ellipsis stands for is in front.
    units = tuple(output.index(label) - len(output) for label in sizes if label in output)
    return Matrices(
        tuple(sizes.values()),
        tuple(axis for axis, label in axes if label in inputs and label in output),
        tuple(axis for axis, label in axes if label not in output),
        tuple(axis for axis, label in axes if label not in inputs),
        parts="labels",
        unit_axes=units,
    )


def _gates(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(i, n*u): n matrices side by side."""
    return _side_by_side(shape, (), "gates", outputs=layer.units)


def _conv_transpose(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(*k, o, i): a convolution run backwards, from its outputs to its inputs."""
    found = _side_by_side(shape, layer.strides)
    return found and found._replace(inputs=found.outputs, outputs=found.inputs)


def _depthwise(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(*k, i, m): i convolutions side by side, each from 1 channel to m."""
    strides, rank = tuple(layer.strides), len(layer.strides)
    taps = tuple(range(rank))
    if len(shape) != rank + 2:
        return None
    return Matrices(shape, (rank,), taps, (rank + 1,), taps, strides, parts="channels")


def _side_by_side(
    shape: tuple[int, ...],
    strides: Sequence[int] = (),
    parts: str = "",
    *,
    count: int = 1,
    outputs: int = 0,
    causal: bool = False,
) -> Matrices | None:
    """So many matrices, or of so many outputs each, along the last axis, after taps."""
    taps = tuple(range(len(strides)))
    last = len(taps) + 1
    if len(shape) != last + 1 or shape[last] % (outputs or count):
        return None
    count = shape[last] // outputs if outputs else count
    split, inputs = (*shape[:last], count, shape[last] // count), tuple(range(last))
    return Matrices(
        split, (last,), inputs, (last + 1,), taps, tuple(strides), causal, parts
    )


def shape_matrices(shape: Sequence[int]) -> Matrices | None:
    """By Keras's rule; `None` for shapes of less than two axes."""
    return _side_by_side(tuple(shape), (1,) * (len(shape) - 2)) if len(shape) > 1 else None


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
    # Also inside MultiHeadAttention and GroupQueryAttention.
    ("EinsumDense",): {
        "kernel": _einsum,
        "bias": "kernel",
        "lora_kernel_a": lambda layer, shape: _einsum_lora(layer, shape, 0),
        "lora_kernel_b": lambda layer, shape: _einsum_lora(layer, shape, 1),
    },
    ("Conv1D", "Conv2D", "Conv3D"): {
        # (*k, i/g, o): the outputs of a group stand side by side.
        "kernel": lambda layer, shape: _side_by_side(
            shape,
            layer.strides,
            "groups",
            count=layer.groups,
            causal=layer.padding == "causal",
        ),
        "bias": "kernel",
        # (*k, i/g, rank): all groups use it, each for hidden units of its own.
        "lora_kernel_a": lambda layer, shape: _side_by_side(shape, layer.strides),
        # (rank, o): the hidden units of a group feed the outputs of that group.
        "lora_kernel_b": lambda layer, shape: _side_by_side(
            shape, (), "groups", count=layer.groups
        ),
    },
    ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"): {
        "kernel": _conv_transpose,
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
        "embeddings": _lookup,
        "reverse_embeddings": _matrix,
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
    # Its moving statistics, and those of its renormalization.
    ("BatchNormalization",): {
        **dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), _units),
        **dict.fromkeys(("moving_stddev", "renorm_mean", "renorm_stddev"), _units),
    },
    ("RMSNormalization",): {"scale": _units},
    ("Normalization",): dict.fromkeys(("mean", "variance", "count"), _units),
    ("SpectralNormalization",): {"vector_u": _units},
}

# By layer class, then by weight name. Subclasses inherit.
TABLE: dict[type, Mapping[str, Row]] = {
    getattr(layers, name): rows
    for names, rows in _ROWS.items()
    for name in names
    # RMSNormalization is newer than the oldest Keras supported.
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
    shape = dimensions(shape)
    for answer in _answers(layer, weight_name, shape):
        if answer is not None:
            return answer.fans if isinstance(answer, Matrices) else answer
    return shape_fans(shape)


def layer_matrices(
    layer: keras.layers.Layer, weight_name: str, shape: Sequence[int]
) -> Matrices | None:
    """The matrices that a weight of a layer is made of, by the table or by Keras's rule.

    `None` for weights of less than two axes.

    Example: the four gates of an LSTM.

    >>> import keras
    >>> layer_matrices(keras.layers.LSTMCell(8), "kernel", (5, 32)).stack_shape
    (4, 5, 8)
    """
    shape = tuple(shape)
    return known_matrices(layer, weight_name, shape) or shape_matrices(shape)


def known_matrices(
    layer: keras.layers.Layer, weight_name: str, shape: tuple[int, ...]
) -> Matrices | None:
    """Those that the table tells, in the order of `layer_fans`, and not Keras's rule.

    `None` also for weights of less than two axes, and for those that are not made of what
    their layer multiplies by: packed ones, and diagonals.
    """
    if len(shape) < 2:
        return None
    answers = _answers(layer, weight_name, shape)
    found = next((answer for answer in answers if answer is not None), None)
    if isinstance(found, Matrices) and math.prod(found.shape) == math.prod(shape):
        return found
    return None


def keras_fans(layer: keras.Layer, weight_name: str, shape: Sequence[int]) -> Fans:
    """The fans that the initializers of the installed Keras count: by the shape alone.

    But for the kernel of an `EinsumDense`: from 3.15 on all its labels that reach the
    output count as outputs, and the others as inputs.
    """
    if (
        isinstance(layer, keras.layers.EinsumDense)
        and weight_name == "kernel"
        and hasattr(keras.initializers.VarianceScaling(), "input_axes")
    ):
        equation = Equation.of(layer.equation)
        outputs = [i for i, label in enumerate(equation.kernel) if label in equation.output]
        inputs = [i for i in range(len(shape)) if i not in outputs]
        if len(shape) == len(equation.kernel):  # not packed by quantization
            return axes_fans(shape, inputs, outputs)
    return shape_fans(shape)


def unit_axes(
    layer: keras.layers.Layer, matrices: Matrices | None, rank: int
) -> tuple[int, ...]:
    """The axes of a layer's output of this rank along which its units stand, in order.

    Those are its channels, but for an equation, which the matrices of its kernel tell.
    """
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
) -> Iterator[Matrices | Fans | None]:
    """What each source says in turn."""
    for cls in type(layer).__mro__:
        if cls in _registered:
            yield _checked(_registered[cls](layer, name, shape), _registered[cls])
        if cls in TABLE:
            yield _by_row(TABLE[cls].get(name), layer, shape)
    if is_convolutional_cell(layer):
        yield _by_row(CONVOLUTIONAL_CELL.get(name), layer, shape)


def _by_row(
    row: Row | None, layer: keras.layers.Layer, shape: tuple[int, ...]
) -> Matrices | Fans | None:
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
