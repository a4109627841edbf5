"""The definition of the fans, measured on layers that run.

Fill the weight with ones and all other weights of its layer with zeros. Feed ones:
what an output unit gives is the number of weights that feed it. Send ones back: what
arrives at an input unit is the number of output units that it feeds. Both are
averaged away from the border, over a whole number of strides.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_fanwise import Fans, layer_fans


class Map(NamedTuple):
    """A linear map that a weight is the kernel of.

    `function` takes an array like `x`. `outputs` and `inputs` say how many units of
    the first axes after the batch to average over, in the middle. `others` are values
    of other weights. Where the map cannot be run backwards, `units` is the number of
    its inputs: connections are then counted from the output and shared among these.
    """

    function: Any
    x: np.ndarray
    outputs: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    others: dict[str, np.ndarray] = {}  # noqa: RUF012
    units: int | None = None


class Lookup(NamedTuple):
    """A weight, as it was added to a layer, and the fans that were looked up for it."""

    layer: keras.layers.Layer
    name: str
    shape: tuple[int, ...]
    fans: Fans


@contextlib.contextmanager
def looked_up_while_built():
    """Looks the fans of every weight up just before it is created."""
    lookups: list[Lookup] = []
    original = keras.layers.Layer.add_weight

    @functools.wraps(original)
    def add_weight(self, *args, **kwargs):
        shape = args[0] if args else kwargs.get("shape") or ()
        name = kwargs.get("name")
        lookups.append(Lookup(self, name, tuple(shape), layer_fans(self, name, shape)))
        return original(self, *args, **kwargs)

    keras.layers.Layer.add_weight = add_weight
    try:
        yield lookups
    finally:
        keras.layers.Layer.add_weight = original


def build(layer, *input_shapes) -> list[Lookup]:
    with looked_up_while_built() as lookups:
        layer.build(*input_shapes)
    return lookups


def ones(*shape) -> np.ndarray:
    return np.ones(shape, "float32")


def measure(layer, name, linear_map: Map) -> Fans:
    for weight in layer.weights:
        value = linear_map.others.get(weight.name, np.zeros(weight.shape))
        weight.assign(np.ones(weight.shape) if weight.name == name else value)
    y, gradient = forward_and_back(linear_map.function, linear_map.x)
    fan_in = middle(y, linear_map.outputs).mean() / linear_map.x.max()
    if linear_map.units is None:
        # An input that is zero, as in a one-hot vector, is one that was not fed.
        fan_out = middle(gradient, linear_map.inputs).mean()
    else:
        fan_out = fan_in * y.size / linear_map.units
    return Fans(float(fan_in), float(fan_out))


def middle(values: np.ndarray, lengths: tuple[int, ...]) -> np.ndarray:
    for axis, length in enumerate(lengths, start=1):
        start = (values.shape[axis] - length) // 2
        values = np.take(values, range(start, start + length), axis)
    return values


def forward_and_back(function, x, cotangent=None):
    """The output for `x`, and what comes back for a cotangent, by default ones."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        gradient = tape.gradient(y, x, cotangent, unconnected_gradients="zero")
    elif keras.backend.backend() == "jax":
        import jax

        y, back = jax.vjp(function, jax.numpy.asarray(x))
        (gradient,) = back(jax.numpy.ones_like(y) if cotangent is None else cotangent)
    else:
        import torch

        device = ops.zeros(()).device
        x = torch.tensor(x, device=device, requires_grad=True)
        y = function(x)
        if cotangent is None:
            cotangent = torch.ones_like(y)
        cotangent = torch.as_tensor(cotangent, device=device)
        (gradient,) = torch.autograd.grad(y, x, cotangent, allow_unused=True)
        gradient = torch.zeros_like(x) if gradient is None else gradient
    return ops.convert_to_numpy(y), ops.convert_to_numpy(gradient)


# The maps of each layer, by weight. A name instead of maps: the fans are those of
# that weight. STATE: feeds no unit; the fans are 1 and 1 by convention.
STATE = "state"


def maps(layer) -> dict[str, list[Map] | str]:
    """The maps of the weights of a layer that has been built."""
    config = layer.get_build_config()
    if "shapes_dict" in config:
        shape = next(iter(config["shapes_dict"].values()))
    else:
        shape = config["input_shape"]
    for cls in type(layer).__mro__:
        if cls.__name__ in _MAPS:
            return _MAPS[cls.__name__](layer, shape)
    raise AssertionError(f"no oracle for {type(layer).__name__}")


def _fed_ones(layer, shape):
    return ones(*(2 if size is None else size for size in shape))


def _dense(layer, shape):
    return {"kernel": [Map(layer, _fed_ones(layer, shape))], "bias": "kernel"}


def _conv(layer, shape):
    return {
        "kernel": [Map(layer, _fed_ones(layer, shape), _one(layer), layer.strides)],
        "bias": "kernel",
    }


def _conv_transpose(layer, shape):
    return {
        "kernel": [Map(layer, _fed_ones(layer, shape), layer.strides, _one(layer))],
        "bias": "kernel",
    }


def _one(layer):
    return (1,) * len(layer.strides)


def _separable(layer, shape):
    x = _fed_ones(layer, shape)
    hidden = layer.pointwise_kernel.shape[-2]
    depthwise, pointwise = (
        np.zeros(weight.shape)
        for weight in (layer.depthwise_kernel, layer.pointwise_kernel)
    )
    depthwise[tuple(size // 2 for size in layer.kernel_size)] = 1
    pointwise[..., :hidden] = np.eye(hidden)
    positions = np.prod(layer.compute_output_shape(x.shape)[:-1])
    return {
        "depthwise_kernel": [
            Map(
                lambda x: layer(x)[..., :hidden],
                x,
                _one(layer),
                layer.strides,
                {"pointwise_kernel": pointwise},
            )
        ],
        "pointwise_kernel": [
            Map(
                layer,
                x,
                _one(layer),
                others={"depthwise_kernel": depthwise},
                units=int(positions * hidden),
            )
        ],
        "bias": "pointwise_kernel",
    }


class PreActivations:
    """Activations that show what they are given: the linear maps of the gates."""

    def __init__(self):
        self.seen = []

    def gate(self, z):
        self.seen.append(z)
        return ops.ones_like(z)

    def candidate(self, z):
        self.seen.append(z)
        return z


def _cell(layer, shape):
    x, state = ones(2, shape[-1]), ones(2, layer.units)
    return _gates(layer, x, state)


def _conv_cell(layer, shape):
    x = ones(1, *shape[1:])
    state = ones(*layer.get_initial_state(1)[0].shape)
    return _gates(layer, x, state, _one(layer), layer.strides)


def _gates(layer, x, state, one=(), strides=()):
    pre_activations = layer.activation.__self__
    one_state = isinstance(layer, (keras.layers.SimpleRNNCell, keras.layers.GRUCell))

    def run(x, state, gate):
        pre_activations.seen.clear()
        layer(x, [state] if one_state else [state, ops.zeros_like(state)])
        return pre_activations.seen[gate]

    run(x, state, 0)
    # An LSTM applies its activation to the carry as well, last.
    gates = range(len(pre_activations.seen) - (not one_state))
    return {
        "kernel": [
            Map(functools.partial(run, state=0 * state, gate=gate), x, one, strides)
            for gate in gates
        ],
        "recurrent_kernel": [
            Map(functools.partial(run, 0 * x, gate=gate), state, one, one) for gate in gates
        ],
        "bias": "kernel",
    }


def _embedding(layer, shape):
    tokens = np.arange(layer.input_dim)
    return {
        # One token is read, and each of the others as good as not there.
        "embeddings": [
            Map(lambda x: x @ layer(tokens), ones(1, layer.input_dim) * (tokens == 1))
        ],
        "reverse_embeddings": [
            Map(lambda x: layer(x, reverse=True), ones(2, layer.output_dim))
        ],
    }


def _attention(layer, shape):
    dimension = shape[0][-1]

    def score(x, key):
        """The score of one key; another, of 0, is what the softmax compares it with."""
        keys = ops.stack([key(x), ops.zeros_like(x)], axis=1)
        query = ops.zeros_like(x) if concatenates else ops.ones_like(x)
        inputs = [ops.expand_dims(query, 1), keys]
        _, weights = layer(inputs, return_attention_scores=True)
        return ops.log(weights[..., 0]) - ops.log(weights[..., 1])

    additive = isinstance(layer, keras.layers.AdditiveAttention)
    concatenates = additive or layer.score_mode == "concat"
    key = ops.arctanh if concatenates else (lambda x: x)
    x = 0.5 * ones(1, dimension)
    name = (
        "concat_score_weight" if layer.score_mode == "concat" and not additive else "scale"
    )
    return {name: [Map(functools.partial(score, key=key), x)]}


def _prelu(layer, shape):
    return {"alpha": [Map(lambda x: -layer(-x), _fed_ones(layer, shape))]}


def _spectrogram(layer, shape):
    step = layer.frame_step or layer.frame_length // 2
    linear_map = Map(layer, _fed_ones(layer, shape), (1,), (step,))
    return {"real_kernel": [linear_map], "imag_kernel": [linear_map]}


def _normalization(layer, shape):
    """Fed with what stays as it is: mean 0 and variance 1 along every axis."""
    x = _fed_ones(layer, shape) * (-1.0) ** np.indices(_fed_ones(layer, shape).shape).sum(0)
    x = x.astype("float32")
    scale = [Map(lambda x: layer(x) * x, x, units=x.size)]
    return {
        "gamma": scale,
        "scale": scale,
        "beta": [Map(layer, x, units=x.size)],
        **dict.fromkeys(("moving_mean", "moving_variance", "moving_stddev"), STATE),
        **dict.fromkeys(("renorm_mean", "renorm_stddev"), STATE),
    }


def _batch_normalization(layer, shape):
    x = _fed_ones(layer, shape)
    others = {"moving_variance": np.ones(shape[-1])}
    return {
        **_normalization(layer, shape),
        "gamma": [Map(layer, x, others=others)],
        "beta": [Map(layer, x, others=others, units=x.size)],
    }


_MAPS = {
    "Dense": _dense,
    # Of ones its ternary kernel is ones, by every threshold below 1.
    "TernaryDense": _dense,
    "EinsumDense": _dense,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _conv),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _conv),
    **{f"Conv{rank}DTranspose": _conv_transpose for rank in (1, 2, 3)},
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    **dict.fromkeys(("SimpleRNNCell", "LSTMCell", "GRUCell"), _cell),
    "ConvLSTMCell": _conv_cell,
    "Embedding": _embedding,
    "Attention": _attention,
    "PReLU": _prelu,
    "STFTSpectrogram": _spectrogram,
    "BatchNormalization": _batch_normalization,
    **dict.fromkeys(("LayerNormalization", "GroupNormalization"), _normalization),
    "RMSNormalization": _normalization,
    "Normalization": lambda layer, shape: dict.fromkeys(
        ("mean", "variance", "count"), STATE
    ),
    "SpectralNormalization": lambda layer, shape: {"vector_u": STATE},
}
