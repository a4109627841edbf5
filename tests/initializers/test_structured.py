"""Structured initializers, each against what its paper says the layer does with it."""

import json

import keras
import ml_dtypes
import numpy as np
import pytest
from scipy import stats

import keras_fanwise as kf

LAYERS = keras.layers


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


# Dirac: what goes in comes out.

SAME = {"padding": "same", "kernel_initializer": "fanwise_dirac"}
IDENTITIES = {
    "dense": (LAYERS.Dense(5, kernel_initializer="fanwise_dirac"), (2, 5)),
    "einsum": (
        LAYERS.EinsumDense("abc,cd->abd", (None, 5), kernel_initializer="fanwise_dirac"),
        (2, 3, 5),
    ),
    "heads": (
        LAYERS.EinsumDense("abhc,hcd->abhd", (None, 2, 5), kernel_initializer="fanwise_dirac"),
        (2, 3, 2, 5),
    ),
    "1d": (LAYERS.Conv1D(3, 3, **SAME), (2, 7, 3)),
    "even": (LAYERS.Conv1D(3, 4, **SAME), (2, 7, 3)),
    "dilated": (LAYERS.Conv1D(3, 3, dilation_rate=2, **SAME), (2, 9, 3)),
    "causal": (
        LAYERS.Conv1D(3, 3, padding="causal", kernel_initializer="fanwise_dirac"),
        (2, 7, 3),
    ),
    "2d": (LAYERS.Conv2D(3, (3, 5), **SAME), (2, 7, 6, 3)),
    "groups": (LAYERS.Conv2D(6, 3, groups=3, **SAME), (2, 5, 5, 6)),
    "3d": (LAYERS.Conv3D(2, 3, **SAME), (1, 4, 4, 4, 2)),
    "depthwise": (
        LAYERS.DepthwiseConv2D(3, padding="same", depthwise_initializer="fanwise_dirac"),
        (2, 5, 5, 3),
    ),
    "separable": (
        LAYERS.SeparableConv2D(
            3, 3, padding="same",
            depthwise_initializer="fanwise_dirac", pointwise_initializer="fanwise_dirac",
        ),
        (2, 5, 5, 3),
    ),
    "transposed": (LAYERS.Conv2DTranspose(3, 3, **SAME), (2, 5, 5, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", IDENTITIES)
def test_dirac_gives_the_input_back(name):
    layer, shape = IDENTITIES[name]
    layer = type(layer).from_config(layer.get_config())
    x = normal(*shape)
    np.testing.assert_array_equal(numpy(layer(x)), x)


def test_dirac_through_strides_and_more_channels():
    x = normal(1, 8, 3)
    layer = LAYERS.Conv1D(5, 3, strides=2, **SAME)
    y = numpy(layer(x))
    np.testing.assert_array_equal(y[..., :3], x[:, ::2])
    assert not y[..., 3:].any()
    fewer = LAYERS.Conv1D(2, 3, **SAME)
    np.testing.assert_array_equal(numpy(fewer(x)), x[..., :2])
    causal = LAYERS.Conv1D(
        3, 4, strides=2, padding="causal", kernel_initializer="fanwise_dirac"
    )
    np.testing.assert_array_equal(numpy(causal(x)), x[:, ::2])
    transposed = numpy(LAYERS.Conv1DTranspose(3, 4, strides=2, **SAME)(x))
    np.testing.assert_array_equal(transposed[:, ::2], x)
    assert not transposed[:, 1::2].any()
    depthwise = LAYERS.DepthwiseConv1D(
        3, padding="same", depth_multiplier=2, depthwise_initializer=kf.FanwiseDirac(2.0)
    )
    y = numpy(depthwise(x))
    np.testing.assert_array_equal(y[..., ::2], 2 * x)
    assert not y[..., 1::2].any()


def test_dirac_keeps_the_state_of_a_simple_rnn():
    """The IRNN: with an identity and ReLU the state adds up what comes."""
    layer = LAYERS.SimpleRNN(
        3, "relu", kernel_initializer="fanwise_dirac", recurrent_initializer="fanwise_dirac"
    )
    x = np.abs(normal(2, 5, 3))
    np.testing.assert_allclose(numpy(layer(x)), x.sum(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (LAYERS.LSTM(3, kernel_initializer="fanwise_dirac"), (None, 5, 3)),
        (LAYERS.Embedding(5, 3, "fanwise_dirac"), (None, 2)),
        (LAYERS.Dense(3, bias_initializer="fanwise_dirac"), (None, 3)),
    ],
)
def test_dirac_is_refused_where_nothing_can_come_back(layer, shape):
    with pytest.raises(
        ValueError, match="kernel of a dense layer, a convolution or a Simpl"
    ):
        type(layer).from_config(layer.get_config()).build(shape)


# Upsampling: as `keras.ops.image.resize`, away from the border.


def resized(x, size, interpolation="bilinear"):
    try:
        return numpy(keras.ops.image.resize(x, size, interpolation))
    except ImportError as error:  # of Keras 3.8 and 3.9 on PyTorch
        pytest.skip(str(error))


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize(("stride", "sizes"), [(2, (4, 5, 6)), (3, (5, 6, 7))])
def test_upsampling_resizes(interpolation, stride, sizes):
    x = normal(2, 6, 7, 3)
    size = (6 * stride, 7 * stride)
    wanted = resized(x, size, interpolation)
    for k in sizes:
        layer = LAYERS.Conv2DTranspose(
            3, k, strides=stride, padding="same",
            kernel_initializer=kf.FanwiseUpsampling(interpolation),
        )  # fmt: skip
        try:
            y = numpy(layer(x))
        except UserWarning as warning:  # Keras 3.13 and older pads otherwise on PyTorch
            pytest.skip(str(warning))
        inner = slice(stride, -stride)
        np.testing.assert_allclose(y[:, inner, inner], wanted[:, inner, inner], atol=1e-5)


def test_upsampling_of_one_and_three_axes_with_strides_of_their_own():
    x = normal(1, 6, 2)
    line = LAYERS.Conv1DTranspose(
        2, 4, strides=2, padding="same", kernel_initializer="fanwise_upsampling"
    )
    wanted = resized(x[:, :, None], (12, 1))[:, :, 0]
    np.testing.assert_allclose(numpy(line(x))[:, 1:-1], wanted[:, 1:-1], atol=1e-6)
    cube = normal(1, 3, 4, 5, 1)
    layer = LAYERS.Conv3DTranspose(
        1, (1, 2, 4), strides=(1, 2, 2), padding="same",
        kernel_initializer=kf.FanwiseUpsampling("nearest"),
    )  # fmt: skip
    repeated = cube.repeat(2, 2).repeat(2, 3)
    np.testing.assert_allclose(numpy(layer(cube)), repeated, atol=1e-6)


def test_upsampling_with_valid_padding_stands_in_the_middle():
    x = normal(1, 6, 1)
    kwargs = {"strides": 2, "kernel_initializer": "fanwise_upsampling"}
    same = numpy(LAYERS.Conv1DTranspose(1, 4, padding="same", **kwargs)(x))
    valid = numpy(LAYERS.Conv1DTranspose(1, 4, padding="valid", **kwargs)(x))
    np.testing.assert_allclose(valid[:, 1:-1], same, atol=1e-6)


def test_upsampling_is_refused_elsewhere():
    kwargs = {"strides": 2, "padding": "same", "kernel_initializer": "fanwise_upsampling"}
    for layer, message in [
        (LAYERS.Conv1DTranspose(2, 3, **kwargs), "of 4 taps or more along axis 0"),
        (LAYERS.Conv1DTranspose(3, 4, **kwargs), "as many outputs as inputs"),
        (LAYERS.Conv1D(2, 4, **kwargs), "of a transposed convolution, inside a layer"),
    ]:
        with pytest.raises(ValueError, match=message):
            layer.build((None, 5, 2))
    with pytest.raises(ValueError, match="inside a layer"):
        kf.FanwiseUpsampling()((4, 4, 2, 2))


# Subpixel: the phases of a channel are equal.


def depth_to_space(x, factor):
    """By the definition of TensorFlow's operation, channels last."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, factor, factor, c // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h * factor, w * factor, -1)


@pytest.mark.parametrize("factor", [2, 3])
def test_subpixel_starts_without_a_checkerboard(factor):
    initializer = kf.FanwiseSubpixel(kf.FanwiseHeNormal(seed=1), factor)
    layer = LAYERS.Conv2D(2 * factor**2, 3, padding="same", kernel_initializer=initializer)
    image = depth_to_space(numpy(layer(normal(1, 6, 6, 4))), factor)
    blocks = image[:, ::factor, ::factor].repeat(factor, 1).repeat(factor, 2)
    np.testing.assert_allclose(image, blocks, atol=1e-6)
    plain = LAYERS.Conv2D(2 * factor**2, 3, padding="same")  # the planted fault
    image = depth_to_space(numpy(plain(normal(1, 6, 6, 4))), factor)
    blocks = image[:, ::factor, ::factor].repeat(factor, 1).repeat(factor, 2)
    assert np.abs(image - blocks).max() > 0.1


@pytest.mark.skipif(
    not hasattr(keras.ops, "depth_to_space"),
    reason="the oldest Keras has no such operation",
)
def test_subpixel_reads_the_order_of_depth_to_space():
    """Of Keras's own operation, which has another order with channels first."""
    for data_format in ("channels_last", "channels_first"):
        initializer = kf.FanwiseSubpixel("fanwise_glorot_uniform")
        layer = LAYERS.Conv2D(
            12, 1, data_format=data_format, kernel_initializer=initializer
        )
        shape = (1, 5, 5, 4) if data_format == "channels_last" else (1, 4, 5, 5)
        layer.build(shape)
        x = normal(*shape)
        if data_format == "channels_first":
            x = x.transpose(0, 2, 3, 1)
        y = x @ numpy(layer.kernel)[0, 0]  # as the convolution, on every device
        y = y if data_format == "channels_last" else y.transpose(0, 3, 1, 2)
        if data_format == "channels_first" and keras.backend.backend() == "tensorflow":
            continue  # TensorFlow has it on GPUs alone
        image = numpy(keras.ops.depth_to_space(y, 2, data_format=data_format))
        image = image if data_format == "channels_last" else image.transpose(0, 2, 3, 1)
        blocks = image[:, ::2, ::2].repeat(2, 1).repeat(2, 2)
        np.testing.assert_allclose(image, blocks, atol=1e-6)


def test_the_variance_of_subpixel_is_that_of_one_phase():
    for name, scale, per_phase in [("he", 2.0, False), ("glorot", 2.0, True)]:
        initializer = kf.FanwiseSubpixel(f"fanwise_{name}_normal")
        layer = LAYERS.Conv2D(4 * 64, 3, kernel_initializer=initializer)
        layer.build((None, 8, 8, 32))
        kernel = numpy(layer.kernel)
        fans = 9 * 32 + (9 * 64 if per_phase else 0)
        count = kernel.size // 4
        error = 3 * np.sqrt(2 / count)  # three standard errors, of a normal's variance
        assert abs(kernel.var() * fans / scale - 1) < error


def test_subpixel_of_one_and_three_axes_and_of_a_dense_layer():
    for layer, shape, phases in [
        (LAYERS.Conv1D(8, 3, kernel_initializer=kf.FanwiseSubpixel()), (None, 9, 4), 2),
        (
            LAYERS.Conv3D(16, 1, kernel_initializer=kf.FanwiseSubpixel()),
            (None, 4, 4, 4, 2),
            8,
        ),
        (LAYERS.Dense(18, kernel_initializer=kf.FanwiseSubpixel(factor=3)), (None, 4), 9),
        (
            LAYERS.SeparableConv2D(8, 3, pointwise_initializer=kf.FanwiseSubpixel()),
            (None, 9, 9, 4),
            4,
        ),
    ]:
        layer.build(shape)
        kernel = numpy(layer.weights[1 if "separable" in layer.name else 0])
        parts = np.split(kernel, phases, axis=-1)
        assert all(np.array_equal(part, parts[0]) for part in parts)
        assert len(np.unique(parts[0])) == parts[0].size


def test_subpixel_is_refused_elsewhere():
    given = kf.FanwiseSubpixel()
    with pytest.raises(ValueError, match="a multiple of 4 outputs"):
        LAYERS.Conv2D(6, 3, kernel_initializer=given).build((None, 8, 8, 4))
    for layer in (
        LAYERS.Conv2D(8, 3, groups=2, kernel_initializer=given),
        LAYERS.Conv2DTranspose(8, 3, kernel_initializer=given),
        LAYERS.DepthwiseConv2D(3, depth_multiplier=2, depthwise_initializer=given),
    ):
        with pytest.raises(ValueError, match="neither in groups nor depthwise"):
            layer.build((None, 8, 8, 4))
    for wrong in ("he_normal", "no_such", 3, kf.FanwiseNormal(sampler="backend")):
        with pytest.raises(ValueError, match="initializer of keras_fanwise"):
            kf.FanwiseSubpixel(wrong)


# Chrono: times of all lengths.


def gates(layer, shape, number):
    layer.build(shape)
    bias = numpy(layer.cell.bias)
    return np.split(bias.astype("float64"), number, axis=-1)


def test_chrono_times_are_uniform():
    given = kf.FanwiseChronoBias(100, seed=3)
    n = 4096
    kwargs = {"recurrent_initializer": "zeros", "bias_initializer": given}
    lstm = LAYERS.LSTM(n, unit_forget_bias=False, **kwargs)
    i, f, c, o = gates(lstm, (None, 5, 1), 4)
    np.testing.assert_array_equal(i, -f)
    assert not c.any()
    assert not o.any()
    uniform = stats.uniform(1, 98)
    assert stats.kstest(np.exp(f), uniform.cdf).pvalue > 1e-3
    # A planted fault: of times that are uniform up to 90 the test says no.
    assert stats.kstest(1 + (np.exp(f) - 1) * 0.9, uniform.cdf).pvalue < 1e-3
    for reset_after in (True, False):
        gru = LAYERS.GRU(n, reset_after=reset_after, **kwargs)
        z, r, h = gates(gru, (None, 5, 1), 3)
        if reset_after:
            assert not z[1].any()
            z = z[0]
        assert stats.kstest(np.exp(z), uniform.cdf).pvalue > 1e-3
        assert not r.any()
        assert not h.any()


def test_what_chrono_expects_is_what_it_draws():
    given = kf.FanwiseChronoBias(50)
    kwargs = {"recurrent_initializer": "zeros", "bias_initializer": given}
    for layer in (
        LAYERS.LSTM(4096, unit_forget_bias=False, **kwargs),
        LAYERS.GRU(4096, **kwargs),
    ):
        layer.build((None, 5, 1))
        values = numpy(layer.cell.bias).astype("float64")
        site = kf.Site.of(layer.cell, "bias", values.shape)
        _family, spread, mean = given.expected(values.shape, site)
        assert abs(values.mean() - mean) < 4 * spread / np.sqrt(4096)
        assert abs(values.std() / spread - 1) < 4 / np.sqrt(4096)


def test_chrono_in_wrappers_and_convolutional_cells():
    given = kf.FanwiseChronoBias(9, seed=1)
    both = LAYERS.Bidirectional(
        LAYERS.LSTM(4, unit_forget_bias=False, bias_initializer=given)
    )
    both.build((None, 5, 2))
    one, other = (
        numpy(layer.cell.bias) for layer in (both.forward_layer, both.backward_layer)
    )
    assert not np.array_equal(one, other)
    layer = LAYERS.ConvLSTM1D(3, 3, unit_forget_bias=False, bias_initializer=given)
    layer.build((None, 5, 8, 2))
    assert 0 < numpy(layer.cell.bias)[3:6].max() <= np.log(8) + 1e-6


def test_chrono_is_refused_elsewhere():
    given = kf.FanwiseChronoBias(9)
    with pytest.raises(ValueError, match="unit_forget_bias"):
        LAYERS.LSTM(4, bias_initializer=given).build((None, 5, 2))
    for layer in (
        LAYERS.SimpleRNN(4, bias_initializer=given),
        LAYERS.GRU(4, kernel_initializer=given),
    ):
        with pytest.raises(ValueError, match="bias of an LSTM, GRU or ConvLSTM"):
            layer.build((None, 5, 2))
    with pytest.raises(ValueError, match="a number above 2"):
        kf.FanwiseChronoBias(2)


# SIREN: the distribution of the paper, whatever the depth.


def sine_chain(initializers):
    """Signals before each sine, after it, and the gradient that comes back there."""
    x = np.random.default_rng(1).uniform(-1, 1, size=(256, 2)).astype("float32")
    befores, afters, derivatives, kernels = [], [], [], []
    for initializer in initializers:
        layer = LAYERS.Dense(512, kernel_initializer=initializer, use_bias=False)
        befores.append(30.0 * numpy(layer(x)).astype("float64"))
        x = np.sin(befores[-1])
        afters.append(x)
        kernels.append(numpy(layer.kernel).astype("float64"))
    back = np.random.default_rng(2).normal(size=x.shape)
    for before, kernel in zip(befores[::-1], kernels[::-1], strict=True):
        derivatives.append(back := back * np.cos(before))
        back = 30.0 * back @ kernel.T
    return befores, afters, derivatives[::-1]


def test_siren_keeps_its_distribution_through_ten_layers():
    """Arcsine on (-1, 1) after each sine, and as large from layer to layer, both ways.

    The paper's arcsine is that of normals of large variance; from those of variance 0.8,
    where v = 1 - exp(-2 v), a sine is within 0.07 of it.
    """
    arcsine = stats.arcsine(-1, 2).cdf

    def measure(initializers):
        befores, afters, derivatives = sine_chain(initializers)
        distances = [
            stats.kstest(after.ravel()[::37], arcsine, method="asymp").statistic
            for after in afters
        ]
        stds = np.array([[part.std() for part in way] for way in (befores, derivatives)])
        steps = stds[:, 2:] / stds[:, 1:-1]
        return max(distances), np.abs(np.log(steps)).max()

    siren = [kf.FanwiseSiren(first=n == 0, seed=n) for n in range(10)]
    distance, step = measure(siren)
    assert distance < 0.08
    assert step < np.log(1.1)
    # The planted fault: the right limit for any other network.
    distance, step = measure([kf.FanwiseLecunUniform(seed=n) for n in range(10)])
    assert step > np.log(1.1)


# What all share: the protocol.

STARTS = {
    "dirac": (
        lambda seed: LAYERS.Conv2D(4, 3, kernel_initializer=kf.FanwiseDirac(0.5)),
        (None, 6, 6, 4),
    ),
    "upsampling": (
        lambda seed: LAYERS.Conv2DTranspose(
            4, 4, strides=2, kernel_initializer=kf.FanwiseUpsampling("nearest")
        ),
        (None, 6, 6, 4),
    ),
    "subpixel": (
        lambda seed: LAYERS.Conv2D(
            8, 3,
            kernel_initializer=kf.FanwiseSubpixel(kf.FanwiseHeUniform(seed=seed)),
        ),
        (None, 6, 6, 4),
    ),
    "chrono": (
        lambda seed: LAYERS.GRU(4, bias_initializer=kf.FanwiseChronoBias(20, seed=seed)),
        (None, 5, 3),
    ),
    "siren": (
        lambda seed: LAYERS.Dense(8, kernel_initializer=kf.FanwiseSiren(20, seed=seed)),
        (None, 3),
    ),
}  # fmt: skip


def weight_of(layer):
    if isinstance(layer, LAYERS.GRU):
        return layer.cell.bias
    return layer.kernel


@pytest.mark.parametrize("name", STARTS)
def test_the_protocol(name, tmp_path):
    make, shape = STARTS[name]
    layer, again = make(1), make(1)
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, layer(inputs))
    again.build(shape)
    first = numpy(weight_of(layer))
    # The same seed, the same values; a config that is JSON gives them too.
    same = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    same.build(shape)
    np.testing.assert_array_equal(numpy(weight_of(same)), first)
    # What is expected is what is there.
    site = kf.Site.of(
        layer.cell if name == "chrono" else layer, weight_of(layer).name, first.shape
    )
    argument = "bias_initializer" if name == "chrono" else "kernel_initializer"
    initializer = getattr(layer.cell if name == "chrono" else layer, argument)
    _family, spread, mean = initializer.expected(first.shape, site)
    if name in ("dirac", "upsampling"):
        assert first.mean() == pytest.approx(mean)
        assert first.std() == pytest.approx(spread)
    # 16-bit types are the float32 draw, rounded; slices are parts of the whole.
    whole = numpy(initializer.draw(first.shape, "float32", site=site))
    for dtype, half_type in ((np.float16, "float16"), (ml_dtypes.bfloat16, "bfloat16")):
        half = numpy(initializer.draw(first.shape, half_type, site=site))
        np.testing.assert_array_equal(half, whole.astype(dtype))
    # A saved model has the initializer, and a new seed gives new values of its kind.
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(numpy(weight_of(loaded.layers[-1])), first)
    kf.reinitialize(loaded, seed=7)
    fresh = numpy(weight_of(loaded.layers[-1]))
    assert np.array_equal(fresh, first) == (name in ("dirac", "upsampling"))
