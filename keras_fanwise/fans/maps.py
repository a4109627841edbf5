"""The matrices that a weight is made of: which of its axes are inputs and which outputs.

What stands side by side in a weight, each part a linear map of its own, is told apart:
the gates of a recurrent kernel, the groups of a convolution, the channels of a depthwise
one, the values of a batch label. `layer_matrices` of `lookup.py` reads this table. In the
shapes, k stands for the kernel size, i and o for input and output channels, g for groups,
n for gates and u for units.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from keras import layers

from keras_fanwise.fans.einsum import parse_equation


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
Row = Callable[[layers.Layer, tuple[int, ...]], Matrices | None]


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


def _einsum(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
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


def _gates(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(i, n*u): n matrices side by side."""
    if len(shape) != 2:
        return None
    return _split(shape, layer.units)


def _conv(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(*k, i/g, o): the outputs of a group stand side by side."""
    causal = getattr(layer, "padding", None) == "causal"
    return _convolution(shape, layer.strides, shape[-1] // layer.groups, causal)


def _conv_transpose(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(*k, o, i): a convolution run backwards, from its outputs to its inputs."""
    backwards = _convolution(shape, layer.strides, shape[-1])
    return backwards and backwards._replace(
        inputs=backwards.outputs, outputs=backwards.inputs
    )


def _depthwise(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(*k, i, m): i convolutions side by side, each from 1 channel to m."""
    rank = len(layer.strides)
    if len(shape) != rank + 2:
        return None
    taps = tuple(range(rank))
    return Matrices(shape, (rank,), taps, (rank + 1,), taps, tuple(layer.strides))


def _pointwise(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(1.., i, o): the strides of the layer are those of its depthwise kernel."""
    return _convolution(shape, (1,) * len(layer.strides), shape[-1])


def _conv_gates(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(*k, i, n*f): n convolutions side by side."""
    return _convolution(shape, layer.strides, layer.filters)


def _conv_recurrent_gates(layer: layers.Layer, shape: tuple[int, ...]) -> Matrices | None:
    """(*k, f, n*f): likewise, without strides."""
    return _convolution(shape, (1,) * len(layer.strides), layer.filters)


def _convolution(
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


_ROWS: dict[tuple[str, ...], Mapping[str, Row]] = {
    # Also inside MultiHeadAttention and GroupQueryAttention.
    ("EinsumDense",): {"kernel": _einsum},
    ("Conv1D", "Conv2D", "Conv3D"): {"kernel": _conv},
    ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"): {"kernel": _conv_transpose},
    ("DepthwiseConv1D", "DepthwiseConv2D"): {"kernel": _depthwise},
    ("SeparableConv1D", "SeparableConv2D"): {
        "depthwise_kernel": _depthwise,
        "pointwise_kernel": _pointwise,
    },
    ("SimpleRNNCell", "LSTMCell", "GRUCell"): {
        "kernel": _gates,
        "recurrent_kernel": _gates,
    },
}

# By layer class, then by weight name. Subclasses inherit.
MATRICES: dict[type, Mapping[str, Row]] = {
    getattr(layers, name): rows for names, rows in _ROWS.items() for name in names
}

# By weight name, for the layers that `is_convolutional_cell` recognizes.
CELL_MATRICES: Mapping[str, Row] = {
    "kernel": _conv_gates,
    "recurrent_kernel": _conv_recurrent_gates,
}
