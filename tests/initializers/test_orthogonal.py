"""Orthogonal initializers: the singular values of the layers' linear maps."""

import random

import keras
import numpy as np
import pytest
from keras import layers

import keras_fanwise as kf
from keras_fanwise.fans.layers import layer_matrices
from keras_fanwise.initializers.base import Site

from support.layer_examples import pads_strides, pads_transposed
from support.models import values_of
from support.processes import fewer_by_default

DELTA, ORTHOGONAL = "fanwise_delta_orthogonal", "fanwise_orthogonal"
GAIN = 1.5


def operator(layer, shape):
    """The linear map of a layer, measured by unit impulses: inputs × outputs."""
    count = int(np.prod(shape))
    impulses = np.eye(count, dtype="float32").reshape(count, *shape)
    return values_of(layer(impulses)).reshape(count, -1)


def singular_values(matrix):
    return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)


def conv(cls, *args, name=DELTA, padding="same", **kwargs):
    """A convolution all of whose kernels are drawn by the initializer of this name."""
    kernels = ["kernel_initializer"]
    if issubclass(cls, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        kernels = ["depthwise_initializer"]
    elif issubclass(cls, (layers.SeparableConv1D, layers.SeparableConv2D)):
        kernels = ["depthwise_initializer", "pointwise_initializer"]
    kwargs |= dict.fromkeys(kernels, name)
    return cls(*args, padding=padding, use_bias=False, **kwargs)


# A convolution, and the shape of an image with a number of channels.
CONVOLUTIONS = {
    "narrow to wide": ((layers.Conv1D, 6, 3), {}, (8, 4)),
    "wide to narrow": ((layers.Conv2D, 3, 3), {}, (5, 5, 5)),
    "causal": ((layers.Conv1D, 5, 4), {"padding": "causal"}, (8, 4)),
    "even kernels": ((layers.Conv2D, 5, (4, 2)), {}, (5, 5, 5)),
    "dilation": ((layers.Conv2D, 5, 3), {"dilation_rate": 2}, (6, 6, 5)),
    "one tap": ((layers.Conv2D, 5, 1), {}, (3, 3, 5)),
    "groups that grow": ((layers.Conv2D, 6, 3), {"groups": 2}, (4, 4, 4)),
    "groups that shrink": ((layers.Conv2D, 4, 3), {"groups": 2}, (4, 4, 6)),
    "strides, many outputs": ((layers.Conv2D, 20, 4), {"strides": 2}, (6, 6, 4)),
    "strides, few outputs": ((layers.Conv2D, 7, 3), {"strides": 2}, (6, 6, 4)),
    "strides beyond the kernel": ((layers.Conv1D, 3, 2), {"strides": 3}, (9, 4)),
    "strides of one axis": (
        (layers.Conv3D, 7, (3, 1, 2)),
        {"strides": (1, 1, 2)},
        (3, 3, 4, 3),
    ),
    "transposed": ((layers.Conv2DTranspose, 4, 3), {}, (4, 4, 6)),
    "transposed, growing": ((layers.Conv2DTranspose, 8, 3), {}, (4, 4, 6)),
    "transposed, strides": ((layers.Conv2DTranspose, 4, 4), {"strides": 2}, (4, 4, 6)),
    "transposed, few": ((layers.Conv1DTranspose, 2, 5), {"strides": 2}, (6, 6)),
    "depthwise": ((layers.DepthwiseConv2D, 3), {}, (4, 4, 4)),
    "depthwise, more filters": ((layers.DepthwiseConv1D, 3), {"depth_multiplier": 3}, (6, 4)),
    "depthwise, strides": (
        (layers.DepthwiseConv2D, 4),
        {"strides": 2, "depth_multiplier": 3},
        (6, 6, 3),
    ),
    "separable": ((layers.SeparableConv2D, 9, 3), {"depth_multiplier": 2}, (4, 4, 4)),
}  # fmt: skip
if keras.backend.backend() == "tensorflow":
    del CONVOLUTIONS["groups that grow"], CONVOLUTIONS["groups that shrink"]


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_delta_convolutions_are_isometries(case):
    if case == "transposed, few" and not pads_transposed():
        pytest.skip("this Keras leaves out what is at the border")
    if case == "strides of one axis" and not pads_strides():
        pytest.skip("this Keras pads the other axes as well")
    arguments, options, shape = CONVOLUTIONS[case]
    random.seed(1)
    found = singular_values(operator(conv(*arguments, **options), shape))
    np.testing.assert_allclose(found, 1.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["wide to narrow", "even kernels", "transposed"])
def test_keras_orthogonal_is_no_isometry(case):
    arguments, options, shape = CONVOLUTIONS[case]
    random.seed(1)
    found = singular_values(operator(conv(*arguments, name="orthogonal", **options), shape))
    assert found.max() > 1.2 or found.max() < 0.6
    assert found.min() < 0.5


def test_one_tap_alone_loses_what_a_stride_passes_over():
    layer = conv(layers.Conv1D, 8, 3, strides=2)
    layer.build((None, 8, 4))
    kernel = np.zeros(layer.kernel.shape, "float32")
    kernel[1] = np.eye(4, 8)
    layer.kernel.assign(kernel)
    found = singular_values(operator(layer, (8, 4)))
    assert np.count_nonzero(found < 1e-6) == found.size // 2


@pytest.mark.parametrize("forward", [True, False])
def test_gain_multiplies(forward):
    layer = conv(
        layers.Conv1D, 6 if forward else 2, 3, name=kf.FanwiseDeltaOrthogonal(GAIN)
    )
    found = singular_values(operator(layer, (5, 4)))
    np.testing.assert_allclose(found, GAIN, rtol=1e-6)


def test_no_isometry_is_an_error_that_says_why():
    image, few = keras.Input((8, 4)), keras.Input((8, 1))
    with pytest.raises(
        ValueError,
        match=r"^stem/kernel of shape \(2, 4, 9\): `shape` must be of a kernel that is as "
        r"large as its strides \(3,\), for there is no isometry: no tap reads some of the "
        r"inputs, and the 8 that one position reads are fewer than its 9 outputs",
    ):
        layers.Conv1D(9, 2, strides=3, kernel_initializer=DELTA, name="stem")(image)
    with pytest.raises(ValueError, match="no tap reaches some of the outputs, and the 2"):
        conv(layers.Conv1DTranspose, 1, 2, strides=3)(image)
    # As many inputs as one position reaches, and a kernel as large as the strides.
    conv(layers.Conv1DTranspose, 2, 2, strides=3)(image)
    conv(layers.Conv1DTranspose, 1, 3, strides=3)(few)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.Dense(3, kernel_initializer=DELTA, name="head"), (2, 4)),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), kernel_initializer=DELTA, name="head"), (2, 4, 5)),
        (lambda: layers.LSTMCell(3, kernel_initializer=DELTA, name="head"), (2, 4)),
    ],
)  # fmt: skip
def test_delta_is_for_convolutions(layer, shape):
    with pytest.raises(
        ValueError, match=r"head/kernel of shape \(.*\): `shape` must be the shape of a con"
    ):
        layer().build(shape)


def test_outside_a_layer():
    kernel = values_of(kf.FanwiseDeltaOrthogonal(seed=1)((3, 5, 4, 6)))
    centre = kernel[1, 2].astype(np.float64)
    np.testing.assert_allclose(centre @ centre.T, np.eye(4), atol=1e-6)
    assert np.count_nonzero(kernel) == centre.size
    for shape in ((), (3,)):
        with pytest.raises(ValueError, match="two axes or more"):
            kf.FanwiseOrthogonal()(shape)
    with pytest.raises(ValueError, match="taps have axes of their own"):
        kf.FanwiseDeltaOrthogonal()((3, 4))
    assert values_of(kf.FanwiseOrthogonal()((0, 3))).shape == (0, 3)
    assert values_of(kf.FanwiseDeltaOrthogonal()((3, 0, 3))).shape == (3, 0, 3)


@pytest.mark.parametrize("gain", [0, -1.0, float("nan"), float("inf"), "1", True])
def test_bad_gains(gain):
    for cls in (kf.FanwiseOrthogonal, kf.FanwiseDeltaOrthogonal):
        with pytest.raises(
            (TypeError, ValueError), match=r"`gain` must be .* Received: gain="
        ):
            cls(gain)


def convolved(image, kernel):
    """Of 3 × 3 taps, with zeros around, by NumPy."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    return np.einsum("xycij,ijco->xyo", windows, kernel)


def gains_of(name, depth):
    """How many times as long a signal and a gradient are behind so many layers."""
    rng = np.random.default_rng(0)
    initializer = keras.initializers.get(name)
    signal, gradient = (rng.standard_normal((5, 5, 4)) for _ in range(2))
    before = [np.linalg.norm(signal), np.linalg.norm(gradient)]
    for seed in range(depth):
        initializer = type(initializer)(seed=seed)
        kernel = values_of(initializer((3, 3, 4, 4))).astype(np.float64)
        signal = convolved(signal, kernel)
        gradient = convolved(gradient, np.flip(kernel, (0, 1)).swapaxes(2, 3))
    return np.array([np.linalg.norm(signal), np.linalg.norm(gradient)]) / before


def test_a_thousand_layers_keep_the_length_of_signals_and_gradients():
    np.testing.assert_allclose(gains_of(DELTA, 1000), 1.0, rtol=0.01)


@pytest.mark.parametrize("name", ["glorot_uniform", "orthogonal", "fanwise_orthogonal"])
def test_a_hundred_others_do_not(name):
    assert np.all(gains_of(name, 100) < 0.01)


# FanwiseOrthogonal, over the axes that the layers' maps have.


def check_orthogonal(matrices, gain=1.0):
    for matrix in matrices:
        found = singular_values(matrix)
        np.testing.assert_allclose(found, gain, rtol=0, atol=1e-6 * gain)


RECURRENT = {
    "SimpleRNN": (layers.SimpleRNN, 1),
    "LSTM": (layers.LSTM, 4),
    "GRU": (layers.GRU, 3),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_every_gate_is_orthogonal(name):
    cls, gates = RECURRENT[name]
    layer = cls(6, kernel_initializer=ORTHOGONAL, recurrent_initializer=ORTHOGONAL)
    layer.build((None, 3, 9))
    for weight in (layer.cell.kernel, layer.cell.recurrent_kernel):
        check_orthogonal(np.split(values_of(weight), gates, axis=1))
    theirs = cls(6)
    theirs.build((None, 3, 9))
    if gates > 1:  # Keras's: orthogonal as one matrix
        with pytest.raises(AssertionError):
            check_orthogonal(
                np.split(values_of(theirs.cell.recurrent_kernel), gates, axis=1)
            )


def test_every_gate_of_a_convolutional_cell():
    layer = layers.ConvLSTM2D(
        4, (3, 2), kernel_initializer=ORTHOGONAL, recurrent_initializer=DELTA
    )
    layer.build((None, 2, 8, 8, 3))
    kernel, recurrent = (
        values_of(w) for w in (layer.cell.kernel, layer.cell.recurrent_kernel)
    )
    check_orthogonal([gate.reshape(18, 4) for gate in np.split(kernel, 4, axis=-1)])
    check_orthogonal(np.split(recurrent[1, 0], 4, axis=-1))
    assert np.count_nonzero(recurrent) == 4 * 4 * 4


def built(layer, shape):
    layer.build(shape)
    return values_of(layer.weights[0])


def test_axes_of_other_layers():
    options = {"kernel_initializer": kf.FanwiseOrthogonal(GAIN)}
    dense = built(layers.Dense(7, **options), (2, 4))
    check_orthogonal([dense], GAIN)
    einsum = layers.EinsumDense("ebd,edf->ebf", (None, 2, 6), **options)
    check_orthogonal(built(einsum, (3, 2, 5)), GAIN)
    heads = layers.EinsumDense("abc,cde->abde", (None, 2, 3), **options)
    check_orthogonal([built(heads, (2, 4, 5)).reshape(5, 6)], GAIN)
    output = layers.EinsumDense("abde,dec->abc", (None, 5), **options)
    check_orthogonal([built(output, (2, 4, 2, 3)).reshape(6, 5)], GAIN)
    per_head = layers.EinsumDense("abhc,dhc->abhd", (None, 2, 3), **options)
    check_orthogonal(np.moveaxis(built(per_head, (2, 4, 2, 5)), 1, 0), GAIN)
    plain = built(layers.Conv2D(5, 3, **options), (2, 8, 8, 4))
    check_orthogonal([plain.reshape(36, 5)], GAIN)
    grouped = built(layers.Conv2D(6, 3, groups=2, **options), (2, 8, 8, 4))
    check_orthogonal(
        [grouped[..., :3].reshape(18, 3), grouped[..., 3:].reshape(18, 3)], GAIN
    )
    transposed = built(layers.Conv2DTranspose(3, 2, **options), (2, 8, 8, 5))
    check_orthogonal([transposed.reshape(12, 5)], GAIN)
    options = {"depthwise_initializer": ORTHOGONAL}
    depthwise = built(
        layers.DepthwiseConv2D(3, depth_multiplier=2, **options), (2, 8, 8, 4)
    )
    check_orthogonal(depthwise.transpose(2, 0, 1, 3).reshape(4, 9, 2))
    # The length of each filter is 1: the variance of the signal is kept.
    np.testing.assert_allclose((depthwise**2).sum(axis=(0, 1)), 1.0, rtol=1e-6)


def test_layers_of_other_people_go_by_the_shape():
    class Mine(layers.Conv2D):
        pass

    @kf.register_fans(Mine)
    def rule(layer, name, shape):
        return kf.Fans(1, 1) if name == "kernel" else None

    grouped = Mine(6, 3, groups=2, kernel_initializer=ORTHOGONAL)
    check_orthogonal([built(grouped, (None, 8, 8, 4)).reshape(18, 6)])
    assert layer_matrices(grouped, "bias", (6,)) is None
    assert layer_matrices(layers.Conv2D(6, 3), "kernel", (3, 4)).stack_shape == (1, 3, 4)


@pytest.mark.parametrize("name", fewer_by_default(["LSTM", "GRU"], "LSTM"))
@pytest.mark.parametrize(
    "policy",
    fewer_by_default(
        ["bfloat16", "float16", "mixed_bfloat16", "mixed_float16"], "bfloat16"
    ),
)
def test_recurrent_layers_in_16_bits(name, policy, tmp_path):
    make = getattr(layers, name)
    model = keras.Sequential(
        [
            keras.Input((3, 4)),
            make(5, kernel_initializer=ORTHOGONAL, recurrent_initializer=ORTHOGONAL,
                 dtype=policy, name="body"),
            layers.Dense(1, dtype=policy),
        ]
    )  # fmt: skip
    kernel = model.get_layer("body").cell.recurrent_kernel
    dtype = "float32" if "mixed" in policy else policy
    assert keras.backend.standardize_dtype(kernel.dtype) == dtype
    gates = np.split(values_of(keras.ops.cast(kernel, "float32")), 3 + (name == "LSTM"), 1)
    steps = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(policy, 2.0**-24)
    for gate in gates:
        np.testing.assert_allclose(singular_values(gate), 1.0, rtol=0, atol=3 * steps)
    model.compile("sgd", "mse")
    x, y = np.ones((8, 3, 4), "float32"), np.ones((8, 1), "float32")
    before = values_of(keras.ops.cast(kernel, "float32"))
    assert np.isfinite(model.train_on_batch(x, y))
    assert not np.array_equal(values_of(keras.ops.cast(kernel, "float32")), before)
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    assert type(again.get_layer("body").cell.recurrent_initializer) is kf.FanwiseOrthogonal
    np.testing.assert_array_equal(
        *(values_of(keras.ops.cast(each(x), "float32")) for each in (model, again))
    )


def test_parts_are_those_of_the_whole():
    layer = layers.Conv2D(6, 3, groups=2, name="conv")
    site = Site.of(layer, "kernel", (3, 3, 2, 6))
    for cls in (kf.FanwiseOrthogonal, kf.FanwiseDeltaOrthogonal):
        initializer = cls(seed=1)
        expected = initializer.expected(site.shape, site)
        draw = (kf.Stream(5), expected, site.shape, "float32")
        whole = initializer.sample(*draw, site=site)
        index = (slice(0, 2), slice(1, 3), slice(0, 2), slice(2, 5))
        part = initializer.sample(*draw, index=index, site=site)
        assert np.array_equal(part, whole[index])
        assert np.sqrt(np.mean(whole**2)) == pytest.approx(expected.std, rel=1e-12)


def test_all_types_are_roundings_of_one_draw():
    values = {
        dtype: values_of(keras.ops.cast(kf.FanwiseOrthogonal(seed=1)((40, 30), dtype=dtype), "float32"))
        for dtype in ("float32", "float16")
    }  # fmt: skip
    assert np.array_equal(values["float32"].astype(np.float16), values["float16"])
