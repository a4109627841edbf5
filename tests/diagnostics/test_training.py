"""What is wrong with the data, head and loss of a training, on set-ups of both kinds."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_fanwise.diagnostics.training import training_findings
from keras_fanwise.reports.diagnosis import Fault

from support import set_ups


def findings(make, seed=0):
    keras.utils.set_random_seed(seed)
    return training_findings(*make())


def alarms(make):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*softmax over axis -1")  # of one unit
        return [one for one in findings(make) if one.severity != "note"]


@pytest.mark.parametrize("name", sorted(set_ups.SOUND)[1::7])
def test_sound_set_ups_have_no_error_and_no_warning(name):
    assert alarms(set_ups.SOUND[name]) == []


@pytest.mark.parametrize("name", sorted(set_ups.FAULTY)[::7])
def test_each_fault_is_found(name):
    kind, _ = name
    assert kind in [one.fault.label for one in alarms(set_ups.FAULTY[name])]


REMEDIES = {
    ("inputs", "pixels"): "keras.layers.Rescaling(1 / 255)",
    ("head", "missing softmax, labels"): "SparseCategoricalCrossentropy(from_logits=True)",
    ("head", "softmax from logits"): "leave out the activation",
    ("targets", "labels from 1, wine"): "let the head have 4 units",
    ("targets", "one unit for ten classes"): 'Dense(10, activation="softmax")',
    ("targets", "one-hot for labels"): 'loss="categorical_crossentropy"',
}


@pytest.mark.parametrize("name", REMEDIES)
def test_the_line_to_change(name):
    assert REMEDIES[name] in " ".join(one.remedy for one in alarms(set_ups.FAULTY[name]))


def test_nothing_in_the_model_changes():
    model, x, y = set_ups.SOUND["pixels, batch normalization"]()
    model.run_eagerly = True
    model.fit(x[:32], y[:32], verbose=0)
    before = [*model.get_weights(), *map(np.array, model.optimizer.variables)]
    metrics = [metric.result() for metric in model.metrics]
    training_findings(model, x, y)
    after = [*model.get_weights(), *map(np.array, model.optimizer.variables)]
    assert all(map(np.array_equal, before, after))
    assert str(metrics) == str([metric.result() for metric in model.metrics])


def test_attention_with_a_mask_is_not_saturated():
    """A causal mask leaves the first position a single key."""
    inputs = keras.Input((3, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs, use_causal_mask=True))
    x = np.random.default_rng(0).standard_normal((16, 3, 8)).astype("float32")
    assert training_findings(model, x) == []
    dense = attention.query_dense
    dense.kernel.assign(dense.kernel * 1e4)
    (found,) = training_findings(model, x)
    assert (found.path, found.fault) == ("attention", Fault.SATURATION)


class Own(layers.Layer):
    def __init__(self, divisor=1.0, **options):
        super().__init__(**options)
        self.divisor = divisor

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 16), name="kernel")

    def call(self, x):
        x = x if self.divisor == 1 else x / self.divisor
        return keras.ops.tanh(x @ self.kernel)


def test_inputs_of_a_layer_of_ones_own():
    """What it takes is what its kernel takes, unless it does something before that."""
    x = 300 * np.random.default_rng(0).standard_normal((64, 8)).astype("float32")
    y = np.arange(64) % 4
    for layer, fault in ((Own(), Fault.INPUTS), (Own(divisor=300.0), None)):
        model = keras.Sequential([keras.Input((8,)), layer, layers.Dense(4)])
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        found = [one.fault for one in training_findings(model, x, y)]
        assert (Fault.INPUTS in found) == (fault is not None)


def test_a_loss_of_ones_own_is_not_judged():
    model, x, y = set_ups.SOUND["diabetes, squares"]()
    model.compile(loss=lambda y, p: keras.ops.mean(keras.ops.square(y - p), axis=-1))
    assert training_findings(model, x, 1000 * y) == []


def test_an_output_has_the_name_of_its_layer_or_of_the_model():
    """Keras names the loss of an output by the loss where the output has no name."""
    x, y = np.zeros((4, 3), "float32"), np.full((4, 1), np.nan, "float32")
    inputs = keras.Input((3,))
    named = keras.Model(inputs, keras.layers.Dense(1, name="price")(inputs))
    unnamed = keras.Sequential([inputs, keras.layers.Dense(1)], name="prices")
    for model, name in ((named, "price"), (unnamed, "prices")):
        model.compile("adam", "mse")
        assert name in {one.path for one in training_findings(model, x, y)}
