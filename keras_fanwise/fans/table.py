"""The fans of every weight of Keras's own layers.

`keras_fanwise.layer_fans` reads this table. In the shapes, k stands for the kernel
size, i and o for input and output channels, g for groups and u for units.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from keras import layers

from keras_fanwise.fans.counting import Fans, shape_fans
from keras_fanwise.fans.einsum import Equation, einsum_fans, lora_equations, parse_equation

# How the fans of a weight are counted: from its layer and its shape (`None` if the
# shape is not what the layer should have), or as those of another weight of the
# layer, which is named.
Row = Callable[[layers.Layer, tuple[int, ...]], Fans | None] | str


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


_ROWS: dict[tuple[str, ...], Mapping[str, Row]] = {
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
TABLE: dict[type, Mapping[str, Row]] = {
    getattr(layers, name): rows
    for names, rows in _ROWS.items()
    for name in names
    # RMSNormalization is newer than the oldest Keras supported.
    if hasattr(layers, name)
}

# By weight name, for the layers that `is_convolutional_cell` recognizes.
CONVOLUTIONAL_CELL: Mapping[str, Row] = {
    "kernel": _conv_gates,
    "recurrent_kernel": _conv_recurrent_gates,
    "bias": "kernel",
}
