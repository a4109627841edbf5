"""The recipe "critical" keeps the signal of a plain network over its depth."""

import math

import keras
import numpy as np
import pytest

import keras_fanwise as kf

from support.models import values_of

layers = keras.layers
DEPTH, WIDTH = 40, 128


def plain(activation, depth=DEPTH, head="linear"):
    hidden = [layers.Dense(WIDTH, activation) for _ in range(depth)]
    last = layers.Dense(WIDTH, head)
    return keras.Sequential([keras.Input((WIDTH,)), *hidden, last])


def convolutional(activation, depth=DEPTH):
    hidden = [layers.Conv2D(16, 3, padding="same", activation=activation)]
    hidden += [
        layers.Conv2D(16, 3, padding="same", activation=activation)
        for _ in range(depth - 1)
    ]
    return keras.Sequential([keras.Input((6, 6, 16)), *hidden])


def variances(model, x):
    """Those before the activation of each layer with a kernel."""
    found = []
    for layer in model.layers:
        if getattr(layer, "kernel", None) is not None:
            own, layer.activation = layer.activation, keras.activations.linear
            before = layer(x)
            layer.activation = own
            found.append(float(values_of(before).var()))
            x = own(before)
        else:
            x = layer(x)
    return found


def standard_normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


# Of 16 · 128 numbers that are not independent between the layers: three times what
# independent layers would give, about √(2/(16·128)) each.
@pytest.mark.parametrize(("activation", "q"), [("tanh", 1 / DEPTH), ("relu", 1.0)])
def test_dense_layers_keep_q(activation, q):
    model = plain(activation)
    kf.initialize(model, "critical", seed=0)
    *hidden, last = variances(model, standard_normal(16, WIDTH))
    # tanh has orthogonal layers that hardly bend; ReLU's lose half of the units at random.
    within = 0.1 if activation == "tanh" else 5 * math.sqrt(5 * DEPTH / (16 * WIDTH))
    assert np.abs(np.log(np.array(hidden) / q)).max() < within
    assert abs(math.log(last)) < within


def test_he_on_tanh_does_not():
    model = plain("tanh")
    kf.initialize(model, "he", seed=0)
    assert variances(model, standard_normal(16, WIDTH))[DEPTH - 2] > 10 / DEPTH


def test_convolutions_keep_q():
    model = convolutional("tanh")
    report = kf.initialize(model, "critical", seed=0)
    # The last has no activation to wait for.
    found = variances(model, standard_normal(32, 6, 6, 16))[:-1]
    assert np.abs(np.log(np.array(found) * (DEPTH - 1))).max() < 0.1
    names = {row.initializer.split("(")[0] for row in report.rows}
    assert names == {"FanwiseDeltaOrthogonal", "FanwiseNormal", "Zeros"}


def test_each_layer_by_its_kind():
    image = keras.Input((16, 16, 4))
    x = layers.Conv2D(8, 3, 2, "same", name="stem", use_bias=False)(image)
    x = layers.LeakyReLU(negative_slope=0.1)(x)
    x = layers.Conv2D(16, 3, name="grow")(x)
    x = layers.LeakyReLU(negative_slope=0.1)(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Activation("gelu")(x)
    x = layers.Dense(5, "softmax", name="head")(layers.Flatten()(x))
    model = keras.Model(image, x)
    report = kf.initialize(model, "critical", seed=0)
    scale = 2 / 1.01
    moment = 1 / scale
    gelu = kf.criticality("gelu")
    after_gelu = (gelu.q - gelu.bias_variance) / gelu.weight_variance
    stds = {
        "stem": (1 / 36) ** 0.5,
        # Columns of length 1 with the signal on twice as many units, in one tap of nine.
        "grow": (scale * 2 / 16 / 9) ** 0.5,
        "depthwise": (gelu.q / moment / 9) ** 0.5,
        "head": (1 / after_gelu / 256) ** 0.5,
    }
    rows = {row.path: row for row in report.rows}
    for name, std in stds.items():
        assert rows[f"{name}/kernel"].std_asked == pytest.approx(std, rel=1e-6)
        if name != "stem":
            assert rows[f"{name}/bias"].initializer == "Zeros"
    families = [rows[f"{name}/kernel"].initializer.split("(")[0] for name in stds]
    gaussian = "FanwiseVarianceScaling"
    assert families == [gaussian, "FanwiseDeltaOrthogonal", gaussian, "FanwiseOrthogonal"]


def test_biases_are_drawn():
    model = plain("silu", depth=3)
    kf.initialize(model, "critical", seed=0)
    biases = np.concatenate([values_of(model.layers[i].bias) for i in (1, 2)])
    asked = kf.criticality("silu").bias_variance
    assert abs(biases.var() / asked - 1) < 5 * math.sqrt(2 / biases.size)
    assert (values_of(model.layers[0].bias) == 0).all()


def branched():
    x = keras.Input((4,))
    y = layers.Dense(4)(x)
    return keras.Model(x, layers.Dense(4)(layers.Add()([x, y])))


REFUSED = {
    "branches": (branched, "without branches"),
    "normalization": (
        lambda: keras.Sequential(
            [keras.Input((4,)), layers.Dense(4), layers.BatchNormalization()]
        ),
        "of layers with weights only",
    ),
    "recurrent": (
        lambda: keras.Sequential([keras.Input((4, 4)), layers.LSTM(4)]),
        "of layers with weights only",
    ),
    "no critical point": (
        lambda: plain("softplus", 2),
        r"`model` must be of activations with a critical point.*\(Dense\) with softplus",
    ),
    "none at this depth": (
        lambda: plain("sigmoid", 2),
        r"`model` must be of activations with a critical point.*\(Dense\) with sigmoid",
    ),
    "two activations": (
        lambda: keras.Sequential(
            [keras.Input((4,)), layers.Dense(4, "tanh"), layers.ReLU(), layers.Dense(2)]
        ),
        "at most one activation",
    ),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_plain_is_refused(build, message):
    model = build()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        kf.initialize(model, "critical")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_rules_of_ones_own_come_first():
    model = plain("tanh", 2)
    rules = [kf.Rule("zeros", path=model.layers[-1].kernel.path), *kf.recipes()["critical"]]
    kf.initialize(model, rules, seed=0)
    assert (values_of(model.layers[-1].kernel) == 0).all()
