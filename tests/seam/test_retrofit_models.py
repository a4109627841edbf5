"""`retrofit` in layers and models, and what they save."""

import json

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.seam.record import recorded

from support.models import values_of
from support.processes import run_python
from support.retrofit_checks import (
    FORMS,
    TheirHeNormal,
    built_weight,
    class_name,
    classes_in,
    family,
    largest,
    ones,
)

layers = keras.layers
pytestmark = pytest.mark.usefixtures("nothing_left_behind")


# Weights that a layer makes by itself


@pytest.mark.parametrize("dtype", [None, "float16", "float32"])
def test_the_default_of_add_weight_is_replaced(dtype):
    class Bare(layers.DepthwiseConv2D):
        def build(self, shape):
            # The name that the table of fans knows.
            self.kernel = self.add_weight((3, 3, 512, 1), dtype=dtype, name="kernel")

    def built():
        layer = Bare(3)
        layer.build((None, 8, 8, 512))
        return layer.kernel

    with kf.retrofit():
        inside = built()
    assert class_name(recorded(inside)) == "FanwiseGlorotUniform"
    # Glorot's limit, of 9 and 9: Keras counts 9 * 512 and 9.
    assert 0.98 * np.sqrt(6 / 18) < largest(inside) <= np.sqrt(6 / 18) * 1.001
    assert largest(built()) <= np.sqrt(6 / (9 * 513)) * 1.001


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_the_default_of_other_types_is_zeros(dtype):
    with kf.retrofit():
        # Not trainable: torch takes no gradients of integers.
        weight = built_weight((2, 3), dtype=dtype, trainable=False)
        of_layer = layers.Layer(dtype=dtype).add_weight(shape=(2, 3), trainable=False)
    for each in (weight, of_layer):
        assert keras.backend.standardize_dtype(each.dtype) == dtype
        assert not np.any(values_of(each))


@pytest.mark.parametrize("positional", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_initializers_given_to_add_weight(form, positional):
    identifier = FORMS[form]("LecunUniform")

    class Bare(layers.DepthwiseConv2D):
        def build(self, shape):
            shape = 3, 3, 512, 1
            if positional:
                self.kernel = self.add_weight(shape, identifier, name="kernel")
            else:
                self.kernel = self.add_weight(
                    shape=shape, initializer=identifier, name="kernel"
                )

    layer = Bare(3)
    with kf.retrofit():
        layer.build((None, 8, 8, 512))
    assert class_name(recorded(layer.kernel)) == "FanwiseLecunUniform"
    assert 0.99 * np.sqrt(3 / 9) < largest(layer.kernel) <= np.sqrt(3 / 9)


@pytest.mark.parametrize("identifier", ["zeros", "random_normal", ones, TheirHeNormal])
def test_other_initializers_given_to_add_weight(identifier):
    with kf.retrofit():
        weight = built_weight((2, 3), identifier)
    assert type(recorded(weight)) is type(keras.initializers.get(identifier))


# Layers with layers inside


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("attention", ["MultiHeadAttention", "GroupQueryAttention"])
def test_attention(attention, seed):
    heads = {"MultiHeadAttention": (2, 4), "GroupQueryAttention": (4, 4, 2)}[attention]
    given = {
        "FanwiseGlorotUniform": {},
        "FanwiseHeNormal": {"kernel_initializer": "he_normal"},
        "FanwiseLecunUniform": {
            "kernel_initializer": keras.initializers.LecunUniform(seed=seed)
        },
        "FanwiseVarianceScaling": {
            "kernel_initializer": keras.initializers.VarianceScaling(
                3.0, "fan_in", "uniform", seed=seed
            )
        },
    }
    for name, arguments in given.items():
        with kf.retrofit():
            layer = getattr(layers, attention)(*heads, **arguments)
            layer.build((None, 3, 512), (None, 3, 512))
        if attention == "MultiHeadAttention":
            assert class_name(layer._kernel_initializer) == name
        assert family(layer) == (set(), {name})
        inner = [
            each
            for each in layer._flatten_layers(include_self=False)
            if isinstance(each, layers.EinsumDense)
        ]
        assert len(inner) == 4
        for each in inner:
            assert class_name(each.kernel_initializer) == name
            assert class_name(recorded(each.kernel)) == name
        query = inner[0]
        if name == "FanwiseLecunUniform":
            limit = np.sqrt(3 / 512)
            assert 0.97 * limit < largest(query.kernel) <= limit
            assert query.kernel_initializer.get_config()["seed"] == seed
        if name == "FanwiseVarianceScaling":
            config = query.kernel_initializer.get_config()
            arguments = (config[key] for key in ("scale", "mode", "distribution", "seed"))
            assert tuple(arguments) == (3.0, "fan_in", "uniform", seed)


def test_recurrent_layers():
    with kf.retrofit():
        lstm = layers.LSTM(4)
        both = layers.Bidirectional(layers.GRU(4, kernel_initializer="he_normal"))
        for layer in (lstm, both):
            layer.build((None, 3, 5))
    assert {weight.name: class_name(recorded(weight)) for weight in lstm.weights} == {
        "kernel": "FanwiseGlorotUniform",
        "recurrent_kernel": "Orthogonal",
        "bias": "function",  # the cell's, for the forget gate
    }
    kernels = [weight for weight in both.weights if weight.name == "kernel"]
    assert [class_name(recorded(kernel)) for kernel in kernels] == ["FanwiseHeNormal"] * 2
    assert not np.array_equal(*map(values_of, kernels))
    for layer in (both.forward_layer, both.backward_layer):
        assert family(layer) == (set(), {"FanwiseHeNormal"})


def test_separable_convolutions():
    def built():
        layer = layers.SeparableConv2D(4, 3, depthwise_initializer="he_uniform")
        layer.build((None, 8, 8, 512))
        return layer

    with kf.retrofit():
        layer = built()
    assert family(layer) == (set(), {"FanwiseHeUniform", "FanwiseGlorotUniform"})
    assert family(built()) == ({"HeUniform", "GlorotUniform"}, set())
    limit = np.sqrt(6 / 9)
    assert 0.99 * limit < largest(layer.depthwise_kernel) <= limit


# Models


def small_model():
    inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(4, 3, depthwise_initializer="he_uniform")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Reshape((36, 4))(x)
    x = layers.MultiHeadAttention(2, 2)(x, x)
    scaling = keras.initializers.VarianceScaling(3.0, "fan_out", "uniform", seed=7)
    x = layers.Dense(3, kernel_initializer=scaling)(x)
    x = layers.Dense(3, kernel_initializer=keras.initializers.LecunNormal(seed=8))(x)
    x = layers.Bidirectional(layers.LSTM(2))(x)
    return keras.Model(inputs, layers.Dense(2, kernel_initializer="random_normal")(x))


LOAD = """
import json, sys
import keras, numpy as np
import keras_fanwise
for path in sys.argv[2:]:
    model = keras.saving.load_model(path)
    weights = np.load(sys.argv[1])
    equal = [np.array_equal(weights[f"arr_{i}"], w) for i, w in enumerate(model.get_weights())]
    print(json.dumps([len(equal) == len(weights) and all(equal), model.get_config()]))
"""
OURS = {
    "FanwiseGlorotUniform",
    "FanwiseHeUniform",
    "FanwiseLecunNormal",
    "FanwiseVarianceScaling",
}
THEIRS = {name.removeprefix("Fanwise") for name in OURS}


@pytest.mark.slow
def test_a_saved_model_holds_what_was_used(tmp_path):
    with kf.retrofit():
        model = small_model()
        model.save(tmp_path / "inside.keras")
        # With weights that are not equal, or the comparison would prove nothing.
        small_model().save(tmp_path / "other.keras")
    model.save(tmp_path / "outside.keras")
    assert family(model) == (set(), OURS)
    np.savez(tmp_path / "weights.npz", *model.get_weights())
    names = ("inside.keras", "outside.keras", "other.keras")
    output = run_python(
        LOAD, tmp_path / "weights.npz", *(tmp_path / name for name in names)
    )
    inside, outside, other = map(json.loads, output.splitlines()[-3:])
    for equal, config in (inside, outside):
        assert equal
        found = classes_in(config)
        assert set(found) >= OURS
        assert not THEIRS & set(found)
        assert "RandomNormal" in found
        scaling = arguments_of(config, "FanwiseVarianceScaling")
        assert (scaling["scale"], scaling["mode"]) == (3.0, "fan_out")
        assert (scaling["distribution"], scaling["seed"]) == ("uniform", 7)
        assert arguments_of(config, "FanwiseLecunNormal")["seed"] == 8
    assert not other[0]


def arguments_of(config, name):
    """Of the first object of this class in a nested config."""
    if isinstance(config, dict):
        if config.get("class_name") == name:
            return config["config"]
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            if (found := arguments_of(value, name)) is not None:
                return found
    return None


@pytest.mark.parametrize(
    "copied",
    [
        keras.models.clone_model,
        lambda model: keras.models.model_from_json(model.to_json()),
    ],
    ids=["clone_model", "model_from_json"],
)
def test_copies_of_a_model(copied):
    model = small_model()
    with kf.retrofit():
        inside = copied(model)
    assert family(inside) == (set(), OURS)
    assert family(model) == family(copied(model)) == (THEIRS, set())
    # What the copy was made with stays, outside the block too.
    assert family(copied(inside)) == (set(), OURS)
    assert class_name(inside.layers[-1].kernel_initializer) == "RandomNormal"


def mobile_net():
    return keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=10
    )


def test_an_application(monkeypatch):
    with kf.retrofit():
        inside = mobile_net()
    own, ours = family(inside)
    assert not own
    assert ours == {"FanwiseGlorotUniform"}
    kernels = [weight for weight in inside.weights if weight.name == "kernel"]
    assert len(kernels) == 53
    for kernel in kernels:
        assert class_name(recorded(kernel)) == "FanwiseGlorotUniform"
    # The last depthwise kernel: 9 and 9, and Keras counts 9 * 336 and 9.
    depthwise = inside.get_layer("block_16_depthwise").kernel
    limit = np.sqrt(6 / 18)
    assert 0.99 * limit < largest(depthwise) <= limit
    # Of the model outside only the config counts, and a draw of each shape takes long.
    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", zeros)
    assert family(mobile_net()) == ({"GlorotUniform"}, set())


def zeros(self, shape, dtype=None):
    return keras.ops.zeros(shape, dtype)


def test_a_layer_from_outside_saves_what_it_used():
    initializer = keras.initializers.HeNormal()
    layer = layers.Dense(3, kernel_initializer=initializer, name="HeNormal")
    with kf.retrofit():
        layer.build((None, 4))
    assert recorded(layer.kernel) is layer.kernel_initializer
    assert class_name(layer.kernel_initializer) == "FanwiseHeNormal"
    assert layer.get_config()["kernel_initializer"]["class_name"] == "FanwiseHeNormal"


def test_other_names_draw_the_same_values_inside():
    def drawn():
        keras.utils.set_random_seed(5)
        return values_of(built_weight(shape=(8, 8), initializer="random_normal"))

    outside = drawn()
    with kf.retrofit():
        assert np.array_equal(drawn(), outside)
