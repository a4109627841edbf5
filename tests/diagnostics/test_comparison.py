import math

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.fans.layers import keras_fans

layers = keras.layers


def a_model():
    inputs = keras.Input((12, 12, 8))
    x = layers.SeparableConv2D(16, 3)(inputs)
    x = layers.Conv2DTranspose(16, 4, 2)(x)
    x = layers.Reshape((-1, 16))(x)
    shared = layers.Dense(16)
    x = shared(shared(x))
    x = layers.MultiHeadAttention(2, 4)(x, x)
    return keras.Model(inputs, layers.Bidirectional(layers.LSTM(4))(x))


def test_every_weight_stands_there_once():
    model = a_model()
    rows = kf.fans_table(model).rows
    assert sorted(row.path for row in rows) == sorted(
        weight.path for weight in model.weights
    )
    owners = {row.path.split("/")[-2]: row.layer for row in rows}
    assert owners["lstm_cell"] == "LSTMCell"
    assert owners["query"] == "EinsumDense"


def test_a_model_in_a_model():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    outer = keras.Sequential([keras.Input((4,)), inner, layers.Dense(1)])
    rows = kf.fans_table(outer).rows
    assert [row.path for row in rows] == [weight.path for weight in outer.weights]
    assert {row.layer for row in rows} == {"Dense"}


def test_the_fans_are_those_of_layer_fans():
    model = a_model()
    [row] = [r for r in kf.fans_table(model).rows if r.path.endswith("depthwise_kernel")]
    assert row.fans == kf.Fans(9, 9)
    assert row.keras_fans == kf.Fans(72, 9)
    assert row.fan_in_ratio == pytest.approx(math.sqrt(72 / 9))
    assert row.fan_avg_ratio == pytest.approx(math.sqrt(81 / 18))


CASES = {
    "depthwise": (layers.DepthwiseConv2D, (3,), "depthwise_initializer", (None, 9, 9, 64)),
    "transpose": (layers.Conv2DTranspose, (64, 4, 2), "kernel_initializer", (None, 9, 9, 32)),
    "grouped": (layers.Conv2D, (64, 3, 1, "same", None, 1, 4), "kernel_initializer", (None, 9, 9, 64)),
    "experts": (layers.EinsumDense, ("ebd,edf->ebf", (None, 64)), "kernel_initializer", (8, None, 48)),
    "heads": (layers.EinsumDense, ("abc,cde->abde", (None, 8, 32)), "kernel_initializer", (None, 5, 64)),
    "lstm": (layers.LSTMCell, (64,), "kernel_initializer", (None, 48)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_columns_are_what_the_two_packages_draw(case):
    """The limit of a uniform draw shows the fan that it was made with."""
    cls, arguments, name, shape = case
    for prefix, fans in (("", keras_fans), ("fanwise_", kf.layer_fans)):
        for kind in ("lecun", "glorot"):
            layer = cls(*arguments, **{name: f"{prefix}{kind}_uniform"})
            layer.build(shape)
            kernel = next(weight for weight in layer.weights if weight.name == "kernel")
            expected = fans(layer, "kernel", tuple(kernel.shape))
            fan = expected.fan_in if kind == "lecun" else sum(expected) / 2
            limit = math.sqrt(3 / fan)
            largest = np.abs(keras.ops.convert_to_numpy(kernel.value * 1)).max()
            # The largest of n uniforms is within 20 / n of the limit, but for e**-20.
            count = math.prod(kernel.shape)
            assert limit * (1 - 20 / count) < largest <= limit * (1 + 1e-6)


def test_it_prints():
    table = kf.fans_table(a_model())
    text = table.text(verbose=True)
    lines = text.splitlines()
    # A verdict, an empty line, and two of headers.
    assert len(lines) == 4 + len(kf.fans_table(a_model()).rows)
    assert "depthwise_kernel" in text
    assert "× 2.83" in text
    assert max(map(len, lines)) <= 160


@pytest.mark.parametrize(
    ("model", "error"), [(None, TypeError), ("a", TypeError), (layers.Dense(3), ValueError)]
)
def test_bad_models(model, error):
    with pytest.raises(error, match=r"`model` must be .*Received: model="):
        kf.fans_table(model)
