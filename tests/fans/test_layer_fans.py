"""The fans of each weight of each layer, against their definition."""

import ast
import functools
import importlib
import inspect
import re
import textwrap

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from keras import layers

from keras_fanwise import Fans, fans_table, layer_fans, register_fans
from keras_fanwise.fans.counting import shape_fans
from keras_fanwise.fans.layers import CONVOLUTIONAL_CELL, TABLE

from support import fan_oracle, layer_examples
from support.fan_oracle import STATE, Map, build, measure, ones
from support.layer_examples import EXAMPLES, MANY, gates

# Of Keras on PyTorch, which hands tensors to NumPy 2 as NumPy 1 took them; and Keras 3.8 pads
# there by a copy.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ impl:DeprecationWarning",
    r"ignore:[\s\S]*even kernel lengths and odd dilation:UserWarning",
)

# `import keras_fanwise.fans.layers` would give the function of that name.
MODULE = importlib.import_module("keras_fanwise.fans.layers")


def check(lookups, cache=None):
    """Look-ups made while layers were built, against what these layers then do."""
    assert lookups
    cache = {} if cache is None else cache
    for layer, name, shape, fans in lookups:
        assert layer_fans(layer, name, shape) == fans
        maps = fan_oracle.maps(layer)
        assert name in maps, f"no oracle for {name} of {type(layer).__name__}"
        if maps[name] is STATE:
            assert fans == Fans(1, 1)
            continue
        source = maps[name] if isinstance(maps[name], str) else name
        if (layer, source) not in cache:
            cache[layer, source] = [measure(layer, source, each) for each in maps[source]]
        for measured in cache[layer, source]:
            assert tuple(fans) == pytest.approx(tuple(measured), rel=1e-4)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_of_each_layer(name, monkeypatch):
    make, input_shape = EXAMPLES[name]
    lookups = build(make(), input_shape)
    cache = {}
    check(lookups, cache)

    # The oracle finds every row that is wrong, be it by a factor or by the shape rule.
    for lookup in lookups:
        layer, weight, shape, (fan_in, fan_out) = lookup
        wrong = {Fans(2 * fan_in, fan_out), Fans(fan_in, 2 * fan_out), shape_fans(shape)}
        for planted in wrong - {lookup.fans}:
            with monkeypatch.context() as patch:
                patch.setitem(_rows(layer, weight), weight, lambda *_, fans=planted: fans)
                assert layer_fans(layer, weight, shape) == planted
                with pytest.raises(AssertionError):
                    check([lookup._replace(fans=planted)], cache)


def _rows(layer, weight):
    classes = [cls for cls in type(layer).__mro__ if weight in TABLE.get(cls, ())]
    return TABLE[classes[0]] if classes else CONVOLUTIONAL_CELL


@pytest.mark.few(8)
@pytest.mark.parametrize("name", MANY)
def test_many_of_each_layer(name):
    # JAX compiles every operation for every new shape, TensorFlow some of them.
    count = {"jax": 2, "tensorflow": 2, "torch": 25}[keras.backend.backend()]

    @settings(max_examples=count, deadline=None, database=None)
    @given(MANY[name])
    def run(example):
        make, input_shape = example
        check(build(make(), input_shape))

    run()


@pytest.mark.parametrize("name", [name for name in MANY if "Conv" in name])
def test_data_format_does_not_matter(name, monkeypatch):
    monkeypatch.setattr(layer_examples, "gates", dict)  # not every Keras saves methods
    # What is looked up is compared: not every backend runs channels_first on a CPU.
    make, (*start, channels) = EXAMPLES[name]
    rank = int(re.search(r"\d", name)[0])
    start, extents = start[:-rank], start[-rank:]
    last = build(make(), (*start, *extents, channels))
    config = {**make().get_config(), "data_format": "channels_first"}
    first = build(getattr(layers, name)(**config), (*start, channels, *extents))
    assert [lookup[1:] for lookup in first] == [lookup[1:] for lookup in last]


@pytest.mark.parametrize("form", ["...b{},{}->...b{}", "b{}...,{}->b{}..."])
def test_ellipsis_does_not_matter(form):
    # Here, because some backends do not run all of what Keras builds.
    layer = layers.EinsumDense(form.format("fe", "hef", "eh"), (3, 4), bias_axes="h")
    (kernel, bias) = build(layer, (2, 5, 3) if form.startswith("...") else (2, 5, 3, 2))
    assert kernel.fans == bias.fans == Fans(5, 4)


# A kernel, and the factors of its low-rank update. One factor is measured while the
# other hands each hidden unit on as it is, which fixes the rank.
EQUATIONS = {
    # equation: input, output, the rank to measure a, and that to measure b
    "ab,bc->ac": ((2, 3), (4,), 4, 3),
    "ab,cb->ac": ((2, 3), (4,), 3, 4),
    "abc,cde->abde": ((2, 3, 6), (None, 2, 5), 5, 3),
    "abcd,cde->abe": ((2, 3, 2, 4), (None, 5), 5, 8),
    "abe,bce->ace": ((2, 6, 3), (2, 3), 1, 3),
    "...b,bc->...c": ((2, 2, 3), (4,), 4, 3),
}


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("factor", ["a", "b"])
def test_low_rank_update_of_an_einsum(equation, factor):
    input_shape, output_shape, *ranks = EQUATIONS[equation]
    rank = ranks["ab".index(factor)]
    layer = layers.EinsumDense(equation, output_shape, lora_rank=rank)
    _check_low_rank_update(layer, input_shape, factor, _identity)


def _identity(shape):
    if len(shape) == 2 and shape[0] == 1:  # one hidden unit, which all outputs show
        return np.ones(shape)
    return np.eye(int(np.prod(shape) ** 0.5)).reshape(shape)


def _check_low_rank_update(layer, input_shape, factor, passing_on, name="lora_kernel_{}"):
    lookups = {lookup.name: lookup for lookup in build(layer, input_shape)}
    measured, other = name.format(factor), name.format("ab".strip(factor))
    linear_map = Map(layer, ones(*input_shape))
    if hasattr(layer, "strides"):
        one = (1,) * layer.rank
        linear_map = linear_map._replace(outputs=one, inputs=layer.strides)
    others = {other: passing_on(lookups[other].shape)}
    fans = measure(layer, measured, linear_map._replace(others=others))
    assert tuple(lookups[measured].fans) == pytest.approx(tuple(fans))
    assert layer_fans(*lookups[measured][:3]) == lookups[measured].fans


@pytest.mark.parametrize(("factor", "rank"), [("a", 4), ("b", 3)])
def test_low_rank_update_of_a_dense_kernel(factor, rank):
    _check_low_rank_update(layers.Dense(4, lora_rank=rank), (2, 3), factor, _identity)


@pytest.mark.parametrize("groups", [1, 2])
def test_low_rank_update_of_a_convolution(groups):
    # As many hidden units as a group has outputs, or inputs.
    layer = layers.Conv2D(6, (3, 2), strides=(2, 1), groups=groups, lora_rank=6 // groups)
    _check_low_rank_update(
        layer, (2, 12, 9, 4), "a", lambda shape: np.tile(np.eye(shape[0]), groups)
    )
    layer = layers.Conv2D(6, 1, groups=groups, lora_rank=4 // groups)
    _check_low_rank_update(layer, (2, 3, 3, 4), "b", _identity)


@pytest.mark.parametrize(("factor", "rank"), [("a", 3), ("b", 5)])
def test_low_rank_update_of_an_embedding(factor, rank):
    layer = layers.Embedding(5, 3, lora_rank=rank)
    lookups = {lookup.name: lookup for lookup in build(layer, (2,))}
    one_token, all_hidden_units = np.eye(5, dtype="float32")[1:2], ones(1, 5)
    linear_map = Map(
        lambda x: x @ layer(np.arange(5)), one_token if factor == "a" else all_hidden_units
    )
    other = f"lora_embeddings_{'ab'.strip(factor)}"
    others = {other: _identity(lookups[other].shape)}
    fans = measure(layer, f"lora_embeddings_{factor}", linear_map._replace(others=others))
    assert tuple(lookups[f"lora_embeddings_{factor}"].fans) == pytest.approx(tuple(fans))


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: layers.MultiHeadAttention(2, 3, value_dim=5), [(2, 4, 6), (2, 3, 7)]),
        (lambda: layers.GroupQueryAttention(3, 4, 2), [(2, 4, 6), (2, 3, 6)]),
        (lambda: layers.TimeDistributed(layers.Conv1D(4, 3, 2, groups=2)), [(1, 2, 12, 4)]),
        (
            lambda: layers.RNN(
                [layers.LSTMCell(3, **gates()), layers.GRUCell(2, **gates())]
            ),
            [(2, 4, 5)],
        ),
    ],
)
def test_containers_own_no_weights(make, shapes):
    layer = make()
    lookups = build(layer, *shapes)
    assert layer not in {lookup.layer for lookup in lookups}
    check(lookups)


def test_both_directions_of_a_bidirectional():
    one = [lookup[1:] for lookup in build(layers.LSTM(3), (2, 4, 5))]
    both = build(layers.Bidirectional(layers.LSTM(3)), (2, 4, 5))
    assert [lookup[1:] for lookup in both] == one + one


def test_model_without_build():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.depthwise = layers.DepthwiseConv2D(3, strides=2)
            self.dense = layers.Dense(4)

        def call(self, inputs):
            return self.dense(self.depthwise(inputs))

    model = Model()
    with fan_oracle.looked_up_while_built() as lookups:
        model(keras.Input((14, 14, 3)))
    assert [lookup.name for lookup in lookups] == ["kernel", "bias"] * 2
    check(lookups)


# Layers with weights whose role Keras does not know.
FOREIGN = {
    "FlaxLayer": "the weights of a Flax module",
    "JaxLayer": "the weights of a JAX function",
    "TFSMLayer": "the weights of a TensorFlow SavedModel",
    "TorchModuleWrapper": "the weights of a PyTorch module",
}


def test_no_layer_of_keras_is_missing():
    public = {cls for cls in vars(layers).values() if inspect.isclass(cls)}
    public = {cls for cls in public if issubclass(cls, layers.Layer)}
    assert _with_weights(public) <= EXAMPLES.keys() | FOREIGN.keys()

    # The others own the weights of public layers, as their ancestors or inside of them.
    others = {
        cls for cls in _descendants(layers.Layer) if "keras.src.layers" in cls.__module__
    }
    seen = {
        base.__name__
        for make, input_shape in EXAMPLES.values()
        for lookup in build(make(), input_shape)
        for base in type(lookup.layer).__mro__
    }
    assert _with_weights(others - public) <= seen


def _descendants(cls):
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


def _with_weights(classes):
    """The names of those that add weights, by themselves or by an ancestor."""
    return {
        cls.__name__
        for cls in classes
        for base in cls.__mro__[: cls.__mro__.index(layers.Layer)]
        if _adds_weights(base)
    }


@functools.cache
def _adds_weights(cls):
    calls = (
        node.func.attr
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls))))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )
    return not {"add_weight", "_track_variable"}.isdisjoint(calls)


class Own(layers.Layer):
    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(2, 3, 4), name="kernel")
        self.bias = self.add_weight(shape=(4,), name="bias")


class Heir(Own):
    pass


class OwnDense(layers.Dense):
    pass


def test_a_missing_layer_would_be_found():
    assert _with_weights({Own, Heir, layers.Dropout}) == {"Own", "Heir"}


@pytest.fixture
def registered(monkeypatch):
    """Whatever a test registers, the next one does not see."""
    monkeypatch.setattr(MODULE, "_registered", {})


def test_shape_rule_for_what_is_not_known():
    assert layer_fans(Own(), "kernel", (2, 3, 4)) == Fans(6, 8)
    assert layer_fans(Own(), "bias", (4,)) == Fans(4, 4)
    assert layer_fans(layers.Dense(3), "kernel_scale", (3,)) == Fans(3, 3)
    assert layer_fans(layers.Dropout(0.5), "anything", ()) == Fans(1, 1)


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_error_for_a_shape_that_a_weight_cannot_have(name):
    # Subclasses may shape their weights as they like.
    make, input_shape = EXAMPLES[name]
    for layer, weight, *_ in build(make(), input_shape):
        for shape in (), (3,), (2, 3), (2,) * 7:
            assert isinstance(layer_fans(layer, weight, shape), Fans)


def test_bias_without_a_kernel_has_the_fans_of_its_shape():
    assert layer_fans(layers.Dense(3), "bias", (3,)) == Fans(3, 3)


@pytest.mark.usefixtures("registered")
def test_registered_rule_is_inherited():
    @register_fans(Own)
    def rule(layer, weight_name, shape):
        assert isinstance(layer, Own)
        assert isinstance(shape, tuple)
        return Fans(len(shape), 0.5) if weight_name == "kernel" else None

    for layer in Own(), Heir():
        assert layer_fans(layer, "kernel", [2, 3, 4]) == Fans(3, 0.5)
        assert layer_fans(layer, "bias", (4,)) == Fans(4, 4)
    assert layer_fans(layers.Dense(3), "kernel", (2, 3)) == Fans(2, 3)
    assert [lookup.fans for lookup in build(Heir(), (1, 2))] == [Fans(3, 0.5), Fans(4, 4)]


@pytest.mark.usefixtures("registered")
def test_nearest_ancestor_answers_first():
    register_fans(Own)(lambda *_: Fans(1, 1))
    register_fans(Heir)(lambda _, name, shape: Fans(2, 2) if name == "kernel" else None)
    assert layer_fans(Heir(), "kernel", (2, 3, 4)) == Fans(2, 2)
    assert layer_fans(Heir(), "bias", (4,)) == Fans(1, 1)
    assert layer_fans(Own(), "kernel", (2, 3, 4)) == Fans(1, 1)
    # A second rule replaces the first.
    register_fans(Own)(lambda *_: Fans(3, 3))
    assert layer_fans(Own(), "kernel", (2, 3, 4)) == Fans(3, 3)


@pytest.mark.usefixtures("registered")
def test_rule_for_a_layer_of_keras():
    layer = OwnDense(3)
    layer.build((None, 2))
    assert layer_fans(layer, "bias", (3,)) == Fans(2, 3)

    @register_fans(layers.Dense, layers.Conv2D)
    def rule(layer, weight_name, shape):
        return Fans(7, 8) if weight_name == "kernel" else None

    # The bias is left to the table, and has the fans of the kernel as they are now.
    assert (
        layer_fans(layer, "kernel", (2, 3)) == layer_fans(layer, "bias", (3,)) == Fans(7, 8)
    )
    assert layer_fans(layers.Conv2D(3, 3), "kernel", (3, 3, 1, 3)) == Fans(7, 8)
    assert layer_fans(layer, "lora_kernel_a", (2, 5)) == Fans(2, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("dense", "kernel", (2, 3)), TypeError, "`layer` must be a keras.layers.Layer"),
        (
            (layers.Dense, "kernel", (2, 3)),
            TypeError,
            "`layer` must be a keras.layers.Layer",
        ),
        ((Own(), None, (2, 3)), TypeError, "`weight_name` must be a string"),
        ((Own(), "kernel", 2), TypeError, "`shape` must be a list or tuple"),
        ((Own(), "kernel", (None, 3)), TypeError, "`shape` must be a list or tuple"),
        ((Own(), "kernel", (2, -3)), ValueError, "`shape` must be a list or tuple"),
    ],
)
def test_bad_argument(arguments, error, message):
    with pytest.raises(error, match=f"^{message}.*Received: .*$"):
        layer_fans(*arguments)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((1, 2), TypeError),
        (3, TypeError),
        (Fans("1", 2), ValueError),
        (Fans(1, None), ValueError),
        (Fans(1, -2), ValueError),
        (Fans(float("nan"), 2), ValueError),
        (Fans(float("inf"), 2), ValueError),
    ],
)
def test_bad_answer_of_a_rule(answer, error):
    @register_fans(Own)
    def own_rule(layer, weight_name, shape):
        return answer

    with pytest.raises(error, match=r"^`fans` must be .*own_rule\. Received: fans="):
        layer_fans(Heir(), "kernel", (2, 3))


@pytest.mark.parametrize("classes", [(), (3,), (Own(),), (keras.Model, int), (len,)])
def test_bad_class(classes):
    with pytest.raises(TypeError, match=r"^`layer_classes` must be .*\. Received: "):
        register_fans(*classes)


def test_bad_rule():
    with pytest.raises(TypeError, match=r"^`rule` must be a function .*\. Received: "):
        register_fans(Own)(Fans(1, 2))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (2, 0, 3)])
def test_empty_weight(shape):
    assert min(layer_fans(layers.Dense(3), "kernel", shape)) == 0


NEWEST = tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 16)


@pytest.mark.skipif(
    not hasattr(keras.quantizers, "pack_int4"), reason="newer than this Keras"
)
@pytest.mark.parametrize(
    ("layer", "shape", "fans"),
    [
        (layers.Dense(6), (None, 8), Fans(8, 6)),
        (layers.EinsumDense("abc,cde->abde", (None, 2, 4)), (None, 3, 8), Fans(8, 8)),
        (layers.Embedding(8, 6), (None, 3), Fans(1, 6)),
        # From Keras 3.16 on it quantizes an equation with an ellipsis.
        *[(layers.EinsumDense("...bc,cb->...b", (3,)), (None, 2, 3, 8), Fans(8, 1))]
        * NEWEST,
    ],
)
def test_a_packed_kernel_has_the_fans_of_what_was_packed(layer, shape, fans):
    layer.build(shape)
    try:
        layer.quantize("int4")
    except NotImplementedError as error:  # of embeddings in Keras 3.11
        pytest.skip(str(error))
    name = "embeddings" if isinstance(layer, layers.Embedding) else "kernel"
    [row] = [row for row in fans_table(layer).rows if row.path.endswith(f"/{name}")]
    assert row.shape != (8, 6)
    assert row.fans == fans


@pytest.mark.parametrize(
    "fan",
    [10**400, np.float32("inf"), np.float64("nan"), "3", -1],
    ids=["huge", "infinite", "no number", "text", "negative"],
)
def test_fans_that_are_no_finite_numbers(fan):
    class Unnumbered(layers.Dense):
        """With a rule of its own."""

    register_fans(Unnumbered)(lambda layer, name, shape: Fans(1, fan))
    with pytest.raises(ValueError, match="finite numbers of 0 or more"):
        layer_fans(Unnumbered(4), "kernel", (3, 4))
