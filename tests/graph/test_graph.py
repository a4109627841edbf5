"""How a model is wired, next to what the model does when it is called."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_fanwise.backends.tap import tapped
from keras_fanwise.diagnostics.batches import batch_for
from keras_fanwise.diagnostics.signal import measured_layers
from keras_fanwise.graph import graph as graph_module
from keras_fanwise.graph.graph import END, KERNEL, NORMALIZATION, SUM, Graph
from keras_fanwise.seam.weights import has_kernel

from support.architectures import build
from support.models import values_of
from support.residual_models import OTHERS, RESIDUAL, WIDTH, Block, Own

KINDS = ("branched", "residual", "several inputs", "transformer", "separable")


def outputs_of(model, batch, disturbed=None):
    """What each layer gives at its only call, with noise at one of them."""
    outputs = {}

    def tap(call):
        given = call.output()
        if call.layer is disturbed:
            noise = np.random.default_rng(0).normal(size=given.shape)
            given = given + ops.convert_to_tensor(noise, given.dtype)
        outputs[call.layer] = values_of(given)
        return given

    with tapped(measured_layers(model), tap):
        model(*batch.positional, **batch.named)
    return outputs


def changed_by(model, batch):
    """For each layer the layers whose outputs change when its own does."""
    before = outputs_of(model, batch)
    for layer, values in before.items():
        if "float" in str(values.dtype):
            after = outputs_of(model, batch, layer)
            yield layer, {one for one in after if (after[one] != before[one]).any()}


def reached(graph, model, layer):
    """The same, by the graph."""
    (starts,) = graph.results_of(layer)
    return {
        other
        for other in measured_layers(model)
        for results in graph.results_of(other)
        if any(graph.leads_to(a, b) for a, b in itertools.product(starts, results))
    }


def wired():
    """Models whose layers are called once each."""
    yield from (pytest.param(lambda kind=kind: build(kind, 1), id=kind) for kind in KINDS)
    for name in ("transformer", "squeeze and excite", "layer scale", "subclassed"):
        yield pytest.param(lambda name=name: RESIDUAL[name]()[0], id=name)
    for name in ("unet", "pyramid", "gates", "two towers"):
        yield pytest.param(OTHERS[name], id=name)


@pytest.mark.few(5)
@pytest.mark.parametrize("make", list(wired()))
def test_what_a_call_leads_to_is_what_changes_with_it(make):
    model = make()
    graph = Graph(model)
    assert not graph.unopened
    for weight in model.trainable_weights:  # 0 lets no change through
        if not values_of(weight).any():
            weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    with batch_for(model) as batch:
        found = dict(changed_by(model, batch))
    assert len(found) > 2
    for layer, changed in found.items():
        assert reached(graph, model, layer) == changed
    # A graph that lacks what one call takes is found out.
    taken = next(call for call in graph.calls[::-1] if len(call.inputs) == 1)
    taken.inputs = ()
    graph.__dict__.pop("_needed")
    assert any(reached(graph, model, layer) != changed for layer, changed in found.items())


# Without those that have layers to open.
RECORDED = ["resnet", "nested", "plain blocks", *OTHERS]
RECORDED.remove("summed embeddings")


@pytest.mark.few(5)
@pytest.mark.parametrize("name", RECORDED)
def test_what_keras_has_recorded_is_what_a_call_does(name, monkeypatch):
    model = {**OTHERS, **RESIDUAL}[name]()
    model = model[0] if isinstance(model, tuple) else model

    def wiring():
        """Which call of which layer leads to which."""
        graph = Graph(model)
        calls = [
            (layer.name, number, results)
            for layer in measured_layers(model)
            for number, results in enumerate(graph.results_of(layer))
        ]
        pairs = {
            (one[:2], other[:2])
            for one, other in itertools.product(calls, calls)
            if any(graph.leads_to(a, b) for a in one[2] for b in other[2])
        }
        return pairs, graph.calls[-1].shape[0]

    recorded, samples = wiring()
    assert samples is None
    monkeypatch.setattr(
        graph_module, "_can_be_opened", lambda layer: isinstance(layer, keras.Model)
    )
    opened, samples = wiring()
    assert samples == 2
    without_inputs = {pair for pair in recorded if "input" not in pair[0][0] + pair[1][0]}
    assert without_inputs == opened
    assert len(opened) > 3


def chain(*after):
    """A kernel, what comes after it, and two more kernels."""
    x = inputs = keras.Input((WIDTH,))
    for layer in (layers.Dense(WIDTH, name="it"), *after):
        x = layer(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Dense(3)(x)))


def with_sum(join):
    x = inputs = keras.Input((WIDTH,))
    x = join(x, layers.Dense(WIDTH, name="it")(x))
    return keras.Model(inputs, layers.Dense(2)(x))


class InCall(layers.Layer):
    """Two kernels with a function between them, and none of it to be seen from outside."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        self.it = layers.Dense(WIDTH, name="it")
        self.other = layers.Dense(WIDTH, name="other")

    def build(self, shape):
        self.it.build(shape)
        self.other.build(shape)

    def call(self, x):
        return self.other(self.function(self.it(x)))


def by_hand(x):
    """A layer normalization in operations."""
    return (x - ops.mean(x, -1, keepdims=True)) / ops.std(x, -1, keepdims=True)


AFTER = {
    "a kernel": (chain, {KERNEL}),
    "a kernel through others": (
        lambda: chain(layers.ReLU(), layers.Dropout(0.1)),
        {KERNEL},
    ),
    "a normalization": (lambda: chain(layers.BatchNormalization()), {NORMALIZATION}),
    "a sum": (lambda: with_sum(lambda x, f: layers.Add()([x, f])), {SUM}),
    "an operator": (lambda: with_sum(lambda x, f: x - f), {SUM}),
    "a constant, which is no sum": (lambda: with_sum(lambda x, f: f + 1.0), {KERNEL}),
    "a gate and a sum": (lambda: with_sum(lambda x, f: x + ops.sigmoid(f) * x), {SUM}),
    "the end": (
        lambda: keras.Sequential([keras.Input((2,)), layers.Dense(3, name="it")]),
        {END},
    ),
    "a softmax at the end": (
        lambda: keras.Sequential(
            [keras.Input((2,)), layers.Dense(3, name="it"), layers.Softmax()]
        ),
        {END},
    ),
    "a kernel in the same layer": (
        lambda: chain(InCall(ops.relu, name="in_call")),
        {KERNEL},
    ),
    "a block with a normalization first": (lambda: with_block(), {NORMALIZATION, SUM}),
}


def with_block():
    x = inputs = keras.Input((6, WIDTH))
    return keras.Model(inputs, Block(name="block")(layers.Dense(WIDTH, name="it")(x)))


def weight_of(model, layer="it"):
    return next(w for w in model.weights if w.path.endswith(f"{layer}/kernel"))


@pytest.mark.parametrize(("make", "met"), AFTER.values(), ids=AFTER)
def test_what_follows_a_weight(make, met):
    model = make()
    assert Graph(model).after(weight_of(model)) == met


def test_of_what_cannot_be_opened_nothing_is_known():
    class Values(keras.Model):
        def __init__(self):
            super().__init__()
            self.it = layers.Dense(3, name="it")

        def call(self, x):
            return self.it(x) * float(values_of(x).max())

    model = Values()
    model(ops.ones((2, 3)))
    graph = Graph(model)
    assert [layer for layer, _ in graph.unopened] == [model]
    assert graph.calls == []
    assert graph.after(weight_of(model)) == set()
    assert graph.longest_paths({}) == []


SUMS = {
    "layer": lambda x, f: layers.Add()([x, f]),
    "operator": lambda x, f: x + f,
    "operation": lambda x, f: ops.add(x, f),
    "difference": lambda x, f: x - f,
    "the other difference": lambda x, f: f - x,
    "difference of layers": lambda x, f: layers.Subtract()([x, f]),
    "mean": lambda x, f: layers.Average()([x, f]),
    "halves": lambda x, f: 0.5 * (x + f),
    "a constant factor": lambda x, f: x + 0.1 * f,
    "a negative one": lambda x, f: x + (-f),
}


@pytest.mark.parametrize("join", SUMS.values(), ids=SUMS)
def test_a_sum_however_it_is_written(join):
    model = with_sum(join)
    (found,) = Graph(model).sums
    assert found.is_signal


NO_SUMS = {
    "a constant": lambda x, f: f + 1.0,
    "one minus": lambda x, f: x * (1.0 - f),
    "a product": lambda x, f: x * f,
    "side by side": lambda x, f: ops.concatenate([x, f]),
}


@pytest.mark.parametrize("join", NO_SUMS.values(), ids=NO_SUMS)
def test_what_is_no_sum(join):
    assert Graph(with_sum(join)).sums == []


def towers(*depths):
    inputs = keras.Input((WIDTH,))
    ends = []
    for depth in depths:
        x = inputs
        for _ in range(depth):
            x = layers.Dense(4)(x)
        ends.append(x)
    return keras.Model(inputs, layers.Dense(1)(ops.concatenate(ends)))


def kernel_paths(model):
    """The longest paths, with every call that has a kernel as a mark, by names of layers."""
    graph = Graph(model)
    marks = {call: call.place for call in graph.calls if call.kernels}
    paths = graph.longest_paths(marks)
    return [[graph.calls[place].path.rpartition("/")[2] for place in one] for one in paths]


def test_the_longest_paths():
    [path] = kernel_paths(towers(2, 5, 3))
    assert len(path) == 6
    x = inputs = keras.Input((WIDTH,))
    x = layers.Dense(4, name="stem")(x)
    heads = []
    for name, depth in (("a", 1), ("b", 3), ("c", 2)):
        h = x
        for i in range(depth):
            h = layers.Dense(4, name=f"{name}_{i}")(h)
        heads.append(h)
    assert kernel_paths(keras.Model(inputs, heads)) == [
        ["stem", "b_0", "b_1", "b_2"],
        ["stem", "c_0", "c_1"],
        ["stem", "a_0"],
    ]


def test_a_layer_that_others_are_in_is_one_step_of_a_path():
    graph = Graph(chain(*(InCall(ops.relu, name=f"in_{i}") for i in range(3))))
    outer = [layer for layer in graph.model.layers if has_kernel(layer)]
    marks = {call: i for i, one in enumerate(outer) for call in graph.results_of(one)[0]}
    assert graph.longest_paths(marks) == [list(range(len(outer)))]


def test_a_layer_called_side_by_side():
    shared = layers.Dense(4, name="shared")
    inputs = [keras.Input((4,)), keras.Input((4,))]
    x = ops.concatenate([shared(shared(one)) for one in inputs])
    model = keras.Model(inputs, layers.Dense(1, name="head")(x))
    assert len(Graph(model).results_of(shared)) == 4
    assert kernel_paths(model) == [["shared", "shared", "head"]]


@pytest.mark.parametrize(
    ("join", "count"),
    [
        (lambda x, f: x + ops.tanh(f), 2),
        (lambda x, f: ops.concatenate([x, f]), 1),
        (lambda x, f: x - 2.0 * x * f, 2),
        (lambda x, f: layers.Dense(WIDTH)(f) + x, 0),
        (lambda x, f: f, 0),
    ],
)
def test_what_a_weight_has_to_itself(join, count):
    """Up to where others join; nothing if the next kernel comes first."""
    model = with_sum(join)
    assert len(Graph(model).alone_after(weight_of(model))) == count


ACTIVATIONS = {
    "its own": (lambda: chain(), ""),
    "a layer": (lambda: chain(layers.LeakyReLU()), "leaky_relu"),
    "a layer after a normalization": (
        lambda: chain(layers.BatchNormalization(), layers.Activation("gelu")),
        "gelu",
    ),
    "an operation": (lambda: chain(layers.Lambda(ops.tanh)), "tanh"),
    "an operation inside a call": (lambda: chain(InCall(ops.relu)), "relu"),
    "after a sum, of the sum": (lambda: with_sum(lambda x, f: ops.relu(x + f)), ""),
    "of a gate": (lambda: with_sum(lambda x, f: x * ops.sigmoid(f)), "sigmoid"),
}


@pytest.mark.parametrize(("make", "name"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_whose_activation_comes_after(make, name):
    model = make()
    graph = Graph(model)
    weights = [w for w in model.weights if w.path.endswith("it/kernel")]
    (call,) = graph.calls_of(weights[-1])
    found = graph.activation_after(call)
    assert (found.activation if found else "") == name


class Pair(layers.Layer):
    """Two kernels, of which one has the activation after it."""

    def __init__(self, is_open):
        super().__init__()
        self.is_open, self.activation = is_open, keras.activations.tanh

    def build(self, shape):
        self.one = self.add_weight(shape=(shape[-1], 5), name="one_kernel")
        self.two = self.add_weight(shape=(5, shape[-1]), name="two_kernel")

    def call(self, x):
        if isinstance(x, keras.KerasTensor) and not self.is_open:
            raise TypeError("Only of values.")
        return ops.matmul(self.activation(ops.matmul(x, self.one)), self.two)

    def compute_output_shape(self, shape):
        return shape


KERNELS = {
    "a convolution of two": (layers.SeparableConv1D(3, 2, activation="elu"), ["", "elu"]),
    "a cell": (layers.GRU(3, return_sequences=True), ["tanh", "tanh"]),
    "two cells": (layers.Bidirectional(layers.LSTM(3)), 4 * ["tanh"]),
    "a layer inside": (layers.TimeDistributed(layers.Dense(3, "relu")), ["relu"]),
    "an open layer": (Pair(is_open=True), ["tanh", ""]),
    "one that is not": (Pair(is_open=False), ["tanh", "tanh"]),
}


@pytest.mark.parametrize(("layer", "names"), KERNELS.values(), ids=KERNELS)
def test_the_activation_of_each_kernel(layer, names):
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, layer(inputs))
    graph = Graph(model)
    kernels = [one for one in model.weights if one.name.endswith("kernel")]
    assert [graph.activation_for(one) for one in kernels] == names


def test_inside_which_layers_a_call_happens():
    model = RESIDUAL["transformer"]()[0]
    graph = Graph(model)
    block = model.get_layer("block_0")
    (call,) = graph.calls_of(block.attention.output_dense.kernel)
    assert call.holders == (model, block, block.attention)
    (results,) = graph.results_of(block)
    assert all(block in one.holders for one in results)


def test_nothing_is_read_before_the_first_question(monkeypatch):
    read = []
    monkeypatch.setattr(graph_module, "_read", read.append)
    Graph(Own())
    assert read == []


def test_a_model_inside_a_model_called_with_inputs_in_a_mapping():
    parts = {name: keras.Input((4,), name=name) for name in "ab"}
    a, b = (layers.Dense(4, name=f"of_{name}")(x) for name, x in parts.items())
    inner = keras.Model(parts, layers.Dense(2, name="out")(a * b))
    x = inputs = keras.Input((4,))
    first = layers.Dense(4, name="first")(x)
    second = layers.Dense(4, name="second")(x)
    graph = Graph(keras.Model(inputs, inner({"b": second, "a": first})))

    def led(one, other):
        (start,), (end,) = (graph.results_of(layer)[0] for layer in (one, other))
        return graph.leads_to(start, end)

    outer = {call.path: call.operation for call in graph.calls if call.operation}
    assert led(outer["first"], inner.get_layer("of_a"))
    assert not led(outer["first"], inner.get_layer("of_b"))
    assert led(outer["second"], inner.get_layer("out"))
