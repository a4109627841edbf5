"""Layers keep the variance that their initializer promises, forward and backward.

For unit Gaussian input, away from borders, Var(y) is fan_in Var(w) and, for a unit
Gaussian cotangent, Var(dx) is fan_out Var(w). Each figure is the mean over draws of
the weight; its tolerance comes from how these draws scatter.
"""

import math

import keras
import numpy as np
import pytest

from support.fan_oracle import forward_and_back, middle
from support.models import values_of
from support.processes import fewer_by_default

layers = keras.layers
# The draws are the same on every backend, and so are the maps of the layers.
DRAWS = 12
# Standard errors of a mean of 12, whose deviation is estimated from the same 12.
ALLOWED = 6.0


def conv(cls, filters, size, strides=1, **arguments):
    return lambda **kw: cls(
        filters, size, strides=strides, use_bias=False, **arguments, **kw
    )


# From 3.15 on Keras counts the fan_in of an EinsumDense by its equation.
EINSUM = hasattr(keras.initializers.VarianceScaling(), "input_axes")

# name: (make, name of the initializer argument, input shape, true fans, what a central
# output and input is, whether Keras's he and glorot are right)
ROWS = {
    "Dense 256 to 256": (
        lambda **kw: layers.Dense(256, use_bias=False, **kw),
        "kernel_initializer", (128, 256), (256, 256), (), (True, True),
    ),
    "Conv2D 64 to 128": (
        conv(layers.Conv2D, 128, 3),
        "kernel_initializer", (2, 12, 12, 64), (576, 1152), 6, (True, True),
    ),
    "Conv2D 64 to 128, groups 4": (
        conv(layers.Conv2D, 128, 3, groups=4),
        "kernel_initializer", (1, 10, 10, 64), (144, 288), 4, (True, False),
    ),
    **{
        f"DepthwiseConv2D, {channels} channels": (
            lambda **kw: layers.DepthwiseConv2D(3, use_bias=False, **kw),
            "depthwise_initializer", (4, 12, 12, channels), (9, 9), 6,
            (False, False),
        )
        for channels in (32, 128, 512)
    },
    "Conv2DTranspose 256 to 64, 3x3": (
        conv(layers.Conv2DTranspose, 64, 3),
        "kernel_initializer", (2, 12, 12, 256), (2304, 576), 6, (False, True),
    ),
    "Conv2DTranspose 256 to 64, 4x4, stride 2": (
        conv(layers.Conv2DTranspose, 64, 4, 2),
        "kernel_initializer", (2, 12, 12, 256), (1024, 1024), 6, (True, False),
    ),
    "Conv2DTranspose 64 to 256, 4x4, stride 2": (
        conv(layers.Conv2DTranspose, 256, 4, 2),
        "kernel_initializer", (2, 12, 12, 64), (256, 4096), 6, (False, False),
    ),
    "Conv2DTranspose 64 to 3, 4x4, stride 2": (
        conv(layers.Conv2DTranspose, 3, 4, 2),
        "kernel_initializer", (4, 12, 12, 64), (256, 48), 6, (False, False),
    ),
    "EinsumDense, 8 experts": (
        lambda **kw: layers.EinsumDense("ebd,edf->ebf", (64, 128), **kw),
        "kernel_initializer", (8, 64, 128), (128, 128), (), (EINSUM, False),
    ),
}  # fmt: skip
SCALES = {
    "he_normal": (2.0, "in"),
    "glorot_uniform": (1.0, "avg"),
}


def weight_variance(name, fan_in, fan_out):
    scale, mode = SCALES[name]
    return scale / (fan_in if mode == "in" else (fan_in + fan_out) / 2)


def measured(row, initializer, *, back=True):
    """Var(y) / Var(x) and Var(dx) / Var(dy), one of each for every draw of the weight."""
    make, argument, shape, _, length, _ = row
    # An even length holds whole periods of the strides.
    lengths = (length,) * 2 if length else ()
    rng = np.random.default_rng(0)
    forward, backward = [], []
    for seed in range(DRAWS):
        layer = make(**{argument: type(initializer)(seed=seed)})
        x = rng.standard_normal(shape).astype("float32")
        layer.build(shape)
        if back:
            size = layer.compute_output_shape(shape)
            y, dx = forward_and_back(layer, x, rng.standard_normal(size).astype("float32"))
            backward.append(np.mean(middle(dx, lengths) ** 2))
        else:
            y = values_of(layer(x))
        forward.append(np.mean(middle(y, lengths) ** 2))
    return np.array(forward), np.array(backward)


def deviation(values, expected):
    """From the expected value, in standard errors."""
    return abs(values.mean() - expected) / (values.std(ddof=1) / math.sqrt(values.size))


@pytest.mark.few(5)
@pytest.mark.parametrize("name", fewer_by_default(SCALES, "he_normal"))
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_variance_is_kept_forward_and_backward(row, name):
    fan_in, fan_out = row[3]
    variance = weight_variance(name, fan_in, fan_out)
    initializer = keras.initializers.get(f"fanwise_{name}")
    forward, backward = measured(row, initializer)
    assert deviation(forward, fan_in * variance) < ALLOWED
    assert deviation(backward, fan_out * variance) < ALLOWED
    # The scatter is small enough for the factors by which Keras is wrong to show.
    assert forward.std(ddof=1) / math.sqrt(DRAWS) < 0.1 * forward.mean()


@pytest.mark.few(5)
@pytest.mark.parametrize("name", fewer_by_default(SCALES, "he_normal"))
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_built_in_fails_where_its_fans_are_wrong(row, name):
    fan_in, fan_out = row[3]
    variance = weight_variance(name, fan_in, fan_out)
    forward, _ = measured(row, keras.initializers.get(name), back=False)
    right = deviation(forward, fan_in * variance) < ALLOWED
    assert right == row[5][list(SCALES).index(name)]


def separable(prefix, seed):
    layer = layers.SeparableConv2D(
        128,
        3,
        use_bias=False,
        depthwise_initializer=keras.initializers.get(
            {"class_name": prefix, "config": {"seed": seed}}
        ),
        pointwise_initializer=keras.initializers.get(
            {"class_name": prefix, "config": {"seed": seed + 100}}
        ),
    )
    layer.build((None, 12, 12, 128))
    return layer


@pytest.mark.parametrize(("name", "kept"), [("he_normal", 4.0), ("lecun_normal", 1.0)])
def test_separable_convolution(name, kept):
    """Two linear maps in a row: the gains multiply."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 12, 12, 128)).astype("float32")
    for prefix, right in (("fanwise_", True), ("", False)):
        gains = np.array(
            [
                np.mean(keras.ops.convert_to_numpy(separable(prefix + name, seed)(x)) ** 2)
                for seed in range(DRAWS)
            ]
        )
        assert (deviation(gains, kept) < ALLOWED) == right


@pytest.mark.parametrize("cls", [layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell])
def test_the_gates_of_a_recurrent_kernel(cls):
    """Each gate is a matrix of its own, so Glorot's condition holds gate by gate."""
    inputs, units = 96, 64
    cell = cls(
        units,
        kernel_initializer="fanwise_glorot_uniform",
        recurrent_initializer="fanwise_glorot_uniform",
    )
    cell.build((None, inputs))
    built_in = cls(units)
    built_in.build((None, inputs))

    def mean(layer):
        values = keras.ops.convert_to_numpy(layer.kernel)
        gates = values.shape[1] // units
        error = math.sqrt(0.8 / values.size)  # the kurtosis of a uniform is 1.8
        return np.mean(values**2) * (inputs + units) / 2, error, gates

    value, error, _ = mean(cell)
    assert abs(value - 1) < 5 * error
    recurrent = keras.ops.convert_to_numpy(cell.recurrent_kernel)
    assert abs(np.mean(recurrent**2) * units - 1) < 5 * math.sqrt(0.8 / recurrent.size)
    value, error, gates = mean(built_in)
    assert (abs(value - 1) < 5 * error) == (gates == 1)
