"""Which additions of a model end a residual branch, and the last weight of each."""

import random
import threading

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_fanwise as kf

from support.models import values_of
from support.processes import fewer_by_default
from support.residual_models import (
    OTHERS,
    RESIDUAL,
    WIDTH,
    Block,
    Places,
    plain_blocks,
)


def layer_names(row):
    """The layers of the last weights, as far as the models tell them."""
    return " ".join(path.rpartition("/")[0] for path in row.last)


def residual(report):
    return [row for row in report.rows if row.status == "residual"]


@pytest.mark.few(5)
@pytest.mark.parametrize("name", RESIDUAL)
def test_the_last_weight_of_each_branch(name):
    model, ends = RESIDUAL[name]()
    report = kf.residual_ends(model)
    assert not [row for row in report.rows if row.status == "unopened"]
    found = sorted(layer_names(row) for row in residual(report))
    own = f"{model.name}/"
    assert [each.replace(own, "") for each in found] == sorted(ends)
    assert not any(row.reason for row in residual(report))


@pytest.mark.parametrize("name", OTHERS)
def test_other_additions_are_not_taken_for_residual_ones(name):
    report = kf.residual_ends(OTHERS[name]())
    assert not residual(report), str(report)
    assert not [row for row in report.rows if row.status == "unopened"]


class Joined(layers.Layer):
    """A branch of two kernels, joined in some way, a gate, and a weight that scales."""

    def __init__(self, join):
        super().__init__(name="joined")
        self.join = join
        self.first = layers.Dense(16, "relu", name="first")
        self.value = layers.Dense(WIDTH, name="value")
        self.gate = layers.Dense(WIDTH, name="gate")

    def build(self, shape):
        self.first.build(shape)
        self.value.build((*shape[:-1], 16))
        self.gate.build(shape)
        self.alpha = self.add_weight((), "ones", name="alpha")

    def call(self, x):
        return self.join(x, self.value(self.first(x)), self.gate(x), self.alpha)


class JoinedModel(keras.Model):
    def __init__(self, join):
        super().__init__(name="own")
        self.inner, self.head = Joined(join), layers.Dense(1)

    def call(self, x):
        return self.head(self.inner.call(x))


def functional(join):
    inputs = keras.Input((WIDTH,))
    value = layers.Dense(WIDTH, name="value")(layers.Dense(16, "relu")(inputs))
    gate = layers.Dense(WIDTH, name="gate")(inputs)
    return keras.Model(inputs, layers.Dense(1)(join(inputs, value, gate, 0.3)))


def composite(join):
    inputs = keras.Input((WIDTH,))
    return keras.Model(inputs, layers.Dense(1)(Joined(join)(inputs)))


def subclassed(join):
    model = JoinedModel(join)
    model.inner.build((None, WIDTH))
    model(np.zeros((2, WIDTH), "float32"))
    return model


JOINED = {
    "a difference": lambda x, value, *_: x - value,
    "the other difference": lambda x, value, *_: value - x,
    "a layer's difference": lambda x, value, *_: layers.Subtract()([x, value]),
    "a mean": lambda x, value, *_: layers.Average()([x, value]),
    "halves": lambda x, value, *_: 0.5 * (x + value),
    "a constant": lambda x, value, *_: x + 0.1 * value,
    "an operation": lambda x, value, *_: ops.subtract(x, value),
    "a weight first": lambda x, value, _, alpha: x + alpha * value,
    "a weight last": lambda x, value, _, alpha: x - value * alpha,
    "a share": lambda x, value, _, alpha: alpha * value + (1 - alpha) * x,
    "a gate first": lambda x, value, gate, _: x + ops.sigmoid(gate) * value,
    "a gate last": lambda x, value, gate, _: x + value * ops.sigmoid(gate),
    "a linear gate first": lambda x, value, gate, _: x + gate * value,
    "a linear gate last": lambda x, value, gate, _: x + value * gate,
    "a gate about 1": lambda x, value, gate, _: x + (1 + gate) * value,
    "a gate of its own kind": lambda x, value, gate, _: x + ops.silu(gate) * value,
    "two functions": lambda x, value, gate, _: x + ops.sigmoid(gate) * ops.tanh(value),
}


@pytest.mark.few(8)
@pytest.mark.parametrize("name", JOINED)
def test_a_branch_however_it_is_joined(name):
    for make in (functional, composite, subclassed):
        (row,) = kf.residual_ends(make(JOINED[name])).rows
        assert row.status == "residual"
        assert not row.reason
        scaled = make is not functional and ("weight" in name or "share" in name)
        [last] = row.last
        assert last.rpartition("joined/")[2] == ("alpha" if scaled else "value/kernel")


def test_variables_are_as_before():
    weight = keras.Variable(np.ones(2, "float32"))
    before = dict(vars(keras.Variable))
    kf.residual_ends(composite(JOINED["a weight first"]))
    assert dict(vars(keras.Variable)) == before
    np.testing.assert_array_equal(values_of(weight * ops.ones(2)), [1, 1])


def test_a_difference_of_signals_may_compare_them():
    inputs = keras.Input((WIDTH,))
    one, other = (layers.Dense(4, "relu")(inputs) for _ in range(2))
    model = keras.Model(inputs, layers.Dense(1)(ops.abs(one - other)))
    assert kf.residual_ends(model).rows == []


def test_with_zeros_there_a_branch_adds_nothing():
    model, _ = plain_blocks()
    x = np.random.default_rng(0).standard_normal((4, WIDTH)).astype("float32")
    without = values_of(model.get_layer("head")(x))
    assert np.abs(values_of(model(x)) - without).max() > 0.1
    rows = residual(kf.residual_ends(model))
    weights = {weight.path: weight for weight in model.weights}
    for row in rows[1:]:
        for path in row.last:
            weights[path].assign(np.zeros(weights[path].shape))
    # One branch is left: the comparison can fail.
    assert np.abs(values_of(model(x)) - without).max() > 0.01
    [path] = rows[0].last
    weights[path].assign(np.zeros(weights[path].shape))
    np.testing.assert_array_equal(values_of(model(x)), without)


# What was counted by hand in the papers: blocks with a way past them.
COUNTS = {"ResNet50": 16, "MobileNetV2": 10, "EfficientNetB0": 9, "ConvNeXtTiny": 18}
COUNTS |= {"InceptionResNetV2": 40, "Xception": 12}


@pytest.mark.parametrize("name", fewer_by_default(COUNTS, "MobileNetV2"))
def test_the_models_of_keras(name):
    size = 75 if "ception" in name else 32
    make = getattr(keras.applications, name)
    report = kf.residual_ends(make(weights=None, input_shape=(size, size, 3)))
    assert len(residual(report)) == len(report) == COUNTS[name]
    assert not any(row.reason for row in report.rows)


@pytest.mark.slow
def test_a_deep_network_in_little_time_and_without_recursion():
    model, ends = plain_blocks(400)
    report = kf.residual_ends(model)
    assert [layer_names(row) for row in report.rows] == ends
    assert {row.length for row in report.rows} == {2}


def test_kernels_of_a_branch():
    report = kf.residual_ends(RESIDUAL["squeeze and excite"]()[0])
    first = report.rows[0]
    assert len(first.kernels) == first.length == 3
    report = kf.residual_ends(RESIDUAL["transformer"]()[0])
    # Query, key, value and output, of which a signal passes two.
    assert [(len(row.kernels), row.length) for row in residual(report)[:2]] == [
        (4, 2),
        (2, 2),
    ]


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (lambda x: layers.Dense(WIDTH, "relu")(x), "relu, which learns nothing"),
        (lambda x: layers.ReLU()(layers.Dense(WIDTH)(x)), "relu, which learns nothing"),
        (lambda x: layers.PReLU()(layers.Dense(WIDTH)(x)), "which learns nothing"),
        (lambda x: ops.sigmoid(layers.Dense(WIDTH)(x)), "sigmoid"),
        (
            lambda x: layers.Concatenate()([x[:, :4], layers.Dense(4)(x)]),
            "without a weight",
        ),
        (lambda x: layers.LSTM(WIDTH)(x[:, None]), "recurrent"),
    ],
)
def test_branches_that_cannot_start_at_zero(last, words):
    inputs = keras.Input((WIDTH,))
    model = keras.Model(inputs, layers.Dense(2)(inputs + last(layers.ReLU()(inputs))))
    [row] = kf.residual_ends(model).rows
    assert row.status == "residual"
    assert words in row.reason


class Backend(layers.Layer):
    """Adds in a way that symbolic tensors do not bear."""

    def build(self, shape):
        self.inner = layers.Dense(shape[-1])
        self.inner.build(shape)

    def compute_output_shape(self, shape):
        return shape  # so that Keras builds a model without calling it

    def call(self, x):
        return x + self.inner(x) if ops.is_tensor(x) else x.no_such_attribute


def test_a_layer_that_cannot_be_opened_is_listed():
    x = inputs = keras.Input((WIDTH,))
    for i in range(2):
        h = layers.Dense(WIDTH, name=f"out_{i}")(layers.Dense(16, "relu")(x))
        x = Backend(name=f"hidden_{i}")(x + h)
    report = kf.residual_ends(keras.Model(inputs, x))
    assert [row.addition for row in report.rows if row.status == "unopened"] == [
        "hidden_0",
        "hidden_1",
    ]
    assert len(residual(report)) == 2
    assert "2 layers that could not be opened" in str(report)
    assert "hidden_0" in str(report)


def test_a_model_that_does_not_say_what_it_takes():
    class Odd(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4)

        def call(self, x):
            return x["a"] + self.dense(x["a"])

    model = Odd()
    model({"a": np.zeros((2, 4), "float32")})
    [row] = kf.residual_ends(model).rows
    assert row.status in ("unopened", "residual")  # newer Keras tells of dictionaries


def test_nothing_tells_of_it_afterwards():
    model, _ = RESIDUAL["transformer"]()
    model.compile("sgd", "mse")

    def state():
        layers_of = [model, *model._flatten_layers(recursive=True, include_self=False)]
        return (
            [(len(one._inbound_nodes), len(one._outbound_nodes)) for one in layers_of],
            [vars(one).get("call") for one in layers_of],
            [values_of(weight).tobytes() for weight in model.weights],
            random.getstate(),
            keras.Layer.__call__,
        )

    before = state()
    kf.residual_ends(model)
    assert state() == before
    first = layers.Add().name.rpartition("add")[2].strip("_")
    kf.residual_ends(model)
    assert layers.Add().name == f"add_{int(first or 0) + 1}"


def test_calls_of_other_threads_go_on():
    model, _ = plain_blocks(30)
    x = np.ones((2, WIDTH), "float32")
    expected = values_of(model(x))
    wrong, done = [], threading.Event()

    def serve():
        while not done.is_set():
            if not np.allclose(values_of(model(x)), expected):
                wrong.append(True)

    thread = threading.Thread(target=serve)
    thread.start()
    reports = [kf.residual_ends(model) for _ in range(5)]
    done.set()
    thread.join()
    assert not wrong
    assert {len(report) for report in reports} == {30}


def test_random_layers_keep_their_state():
    class Noisy(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed = keras.random.SeedGenerator(0)

        def call(self, x):
            return x + keras.random.normal((WIDTH,), seed=self.seed)

    noisy = Noisy()
    inputs = keras.Input((WIDTH,))
    model = keras.Model(inputs, layers.Dense(2)(noisy(inputs)))
    before = values_of(noisy.seed.state)
    kf.residual_ends(model)
    np.testing.assert_array_equal(values_of(noisy.seed.state), before)


def test_mixed_precision_and_layers_alone():
    block = Block(dtype="mixed_float16")
    block.build((None, 6, WIDTH))
    assert len(residual(kf.residual_ends(block))) == 2


def test_places_are_no_branch():
    layer = Places()
    layer.build((None, 6, WIDTH))
    assert not residual(kf.residual_ends(layer))


@pytest.mark.parametrize(
    ("model", "error"),
    [(3, TypeError), (keras.Sequential([keras.Input((2,))]), ValueError)],
)
def test_bad_input(model, error):
    with pytest.raises(error, match="model"):
        kf.residual_ends(model)
