"""Which weights share their values under one seed, and which do not."""

import random

import keras
import numpy as np
import pytest

import keras_fanwise as kf

from support.models import values_of

layers = keras.layers


def seeded():
    return kf.FanwiseNormal(seed=1)


def distinct(arrays):
    return len({array.tobytes() for array in arrays}) == len(arrays)


def dense(name=None, units=4):
    return layers.Dense(units, name=name, kernel_initializer=seeded(), use_bias=False)


class Blk(layers.Layer):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.inner = dense("inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


class Experts(layers.Layer):
    """Layers that nobody named, in a list."""

    def __init__(self, count=3, **arguments):
        super().__init__(**arguments)
        self.experts = [dense() for _ in range(count)]

    def build(self, shape):
        for expert in self.experts:
            expert.build(shape)

    def call(self, x):
        return sum(expert(x) for expert in self.experts)


class Twice(layers.Layer):
    """Several weights of one name."""

    def build(self, shape):
        self.one = self.add_weight(shape=(4, 4), initializer=seeded(), name="kernel")
        self.two = self.add_weight(shape=(4, 4), initializer=seeded(), name="kernel")


def built(layer):
    layer.build((None, 4))
    return layer


def lstm_cell(name=None):
    return layers.LSTMCell(
        4,
        name=name,
        kernel_initializer=seeded(),
        recurrent_initializer="zeros",
    )


def attention(name=None):
    layer = layers.MultiHeadAttention(2, 4, kernel_initializer=seeded(), name=name)
    layer.build((None, 3, 4), (None, 3, 4))
    return layer


def submodel(name=None):
    model = keras.Sequential([dense("inner")], name=name)
    model.build((None, 4))
    return model


NAMED = {
    "layer": lambda number: built(dense(f"layer_{number}")),
    "dense": lambda number: built(dense(f"dense_{number}")),
    "attention": lambda number: attention(f"attention_{number}"),
    "multi_head_attention": lambda number: attention(f"multi_head_attention_{number}"),
    "embedding": lambda number: built(
        layers.Embedding(5, 4, embeddings_initializer=seeded(), name=f"embedding_{number}")
    ),
    "lstm_cell": lambda number: built(lstm_cell(f"lstm_cell_{number}")),
    "model": lambda number: submodel(f"model_{number}"),
    "blk": lambda number: built(Blk(name=f"blk_{number}")),
}


@pytest.mark.parametrize("make", NAMED.values(), ids=NAMED)
def test_a_name_that_a_user_gave_is_kept_whole(make):
    made = [make(number) for number in range(3)]
    assert distinct([values_of(layer.weights[0]) for layer in made])
    again = make(1)
    assert np.array_equal(values_of(again.weights[0]), values_of(made[1].weights[0]))


UNNAMED = {
    "dense": lambda: built(dense()),
    "attention": attention,
    "lstm_cell": lambda: built(lstm_cell()),
    "model": submodel,
    "blk": lambda: built(Blk()),
    "experts": lambda: built(Experts()),
    "bidirectional": lambda: built_sequence(
        layers.Bidirectional(
            layers.LSTM(4, kernel_initializer=seeded(), recurrent_initializer="zeros")
        )
    ),
}


def built_sequence(layer):
    layer.build((None, 3, 4))
    return layer


@pytest.mark.parametrize("make", UNNAMED.values(), ids=UNNAMED)
def test_a_number_of_keras_does_not_count(make):
    made = [make() for _ in range(3)]
    names = {layer.name for layer in made}
    assert len(names) == 3
    for layer in made[1:]:
        for one, other in zip(layer.weights, made[0].weights, strict=True):
            if np.std(values_of(one)) > 0:
                assert np.array_equal(values_of(one), values_of(other))


def test_a_layer_that_is_made_from_a_config_has_the_values_of_its_original():
    original = built(dense())
    again = built(layers.Dense.from_config(original.get_config()))
    assert np.array_equal(values_of(again.kernel), values_of(original.kernel))


@pytest.mark.parametrize(
    "original",
    [
        layers.Dense(2),
        layers.SpatialDropout1D(0.5),
        layers.SpatialDropout2D(0.5, name="own"),
    ],
    ids=lambda layer: layer.name,
)
def test_a_layer_that_is_made_from_a_config_has_the_attributes_of_its_original(original):
    # Keras's own tests of layers compare them.
    again = type(original).from_config(original.get_config())
    assert set(dir(again)) == set(dir(original))


def test_siblings_that_nobody_named_differ():
    assert distinct([values_of(weight) for weight in built(Experts()).weights])
    assert distinct([values_of(weight) for weight in built(Twice()).weights])


def test_layers_of_different_shapes_have_nothing_in_common():
    wide, narrow = built(dense(units=64)), built(dense(units=32))
    one, two = values_of(wide.kernel).ravel(), values_of(narrow.kernel).ravel()
    correlation = np.corrcoef(one[: two.size], two)[0, 1]
    assert abs(correlation) < 5 / np.sqrt(two.size)
    # The same shape, unnamed, is a planted fault: the correlation is 1.
    again = values_of(built(dense(units=64)).kernel).ravel()
    assert np.corrcoef(one, again)[0, 1] > 0.99


PROGRAM_OF_CLASSES = ("block_1", "dense_1", "layer_1")


@pytest.mark.parametrize("name", PROGRAM_OF_CLASSES)
def test_classes_that_exist_in_the_process_do_not_count(name):
    def kernel():
        layer = layers.Dense(4, name=name, kernel_initializer=seeded())
        model = keras.Sequential([keras.Input((4,)), layer])
        first = values_of(layer.kernel)
        kf.reinitialize(model, seed=0)
        return first, values_of(layer.kernel)

    before = kernel()
    type("Block", (layers.Layer,), {})
    type("Dense", (layers.Dense,), {})
    assert all(map(np.array_equal, before, kernel()))


# Whole models


def stack(*names, unnamed=0):
    made = [layers.Dense(4, name=name) for name in names]
    made += [layers.Dense(4) for _ in range(unnamed)]
    return keras.Sequential([keras.Input((4,)), *made])


def kernels_after(model, write):
    write(model)
    return {layer.name: values_of(layer.kernel) for layer in model.layers}


WRITES = {
    "initialize": lambda model: kf.initialize(model, "glorot", seed=0),
    "reinitialize": lambda model: kf.reinitialize(model, seed=0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("base", ["layer", "dense"])
def test_inserting_a_layer_changes_no_other(base, write):
    short = kernels_after(stack(f"{base}_1", f"{base}_2"), write)
    long = kernels_after(stack(f"{base}_1", f"{base}_9", f"{base}_2"), write)
    assert distinct(list(long.values()))
    for name, kernel in short.items():
        assert np.array_equal(kernel, long[name])


def nested():
    inner = keras.Input((4,))
    halves = [
        keras.Model(inner, layers.Dense(4, name="inner")(inner), name=name)
        for name in ("left", "right")
    ]
    x = keras.Input((4,))
    y = layers.Dense(4)(halves[0](x) + halves[1](x))
    y = keras.Sequential([layers.Dense(4), layers.Dense(4)])(y)
    return keras.Model(x, layers.Dense(4)(y))


MODELS = {
    "unnamed": lambda: stack(unnamed=3),
    "named like Keras's": lambda: stack("dense_3", "dense_1", "dense_2"),
    "nested": nested,
}


@pytest.mark.few(3)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_built_again_loaded_or_cloned_a_model_has_the_same_values(make, write, tmp_path):
    original = make()
    write(original)
    kernels = [values_of(w) for w in original.weights if w.name == "kernel"]
    assert distinct(kernels)
    original.save(tmp_path / "model.keras")
    for other in (
        make(),
        keras.models.clone_model(original),
        keras.models.model_from_json(original.to_json()),
        keras.models.load_model(tmp_path / "model.keras"),
    ):
        write(other)
        others = [values_of(w) for w in other.weights if w.name == "kernel"]
        assert all(map(np.array_equal, kernels, others))


def test_ten_and_more_layers_are_ranked_by_number_not_by_name():
    def twelve():
        return [values_of(w) for w in made.weights if w.name == "kernel"]

    made = stack(unnamed=12)
    kf.reinitialize(made, seed=0)
    first = twelve()
    made = stack(unnamed=12)
    kf.reinitialize(made, seed=0)
    assert all(map(np.array_equal, first, twelve()))


# Python's random numbers


def consumed(call):
    random.seed(0)
    state = random.getstate()
    call()
    return random.getstate() != state


UNSEEDED = keras.initializers.HeNormal()
QUIET = {
    "audit": kf.audit,
    "fans_table": kf.fans_table,
    "signal": kf.signal,
    "recipes": lambda model: kf.recipes(),
    "Rule": lambda model: kf.Rule("fanwise_he_normal"),
    "initialize, dry": lambda model: kf.initialize(model, "he", dry_run=True),
    "reinitialize, dry": lambda model: kf.reinitialize(model, dry_run=True),
    "initialize, seeded": lambda model: kf.initialize(model, "he", seed=0),
    "reinitialize, seeded": lambda model: kf.reinitialize(model, seed=0),
    "initialize by a name": lambda model: kf.initialize(model, "he_normal", seed=0),
    "initialize by an object": lambda model: kf.initialize(model, UNSEEDED, seed=0),
}


@pytest.mark.parametrize("call", QUIET.values(), ids=QUIET)
def test_what_reads_or_has_a_seed_takes_no_random_numbers(call):
    model = stack("one", unnamed=1)
    assert not consumed(lambda: call(model))


def test_what_writes_without_a_seed_takes_them():
    model = stack("one")
    assert consumed(lambda: kf.initialize(model, "he"))
    assert consumed(lambda: kf.reinitialize(model))


def test_a_dry_run_says_the_seed_that_the_next_run_takes():
    model = stack("one")
    random.seed(0)
    plan = kf.initialize(model, "he", dry_run=True)
    assert kf.initialize(model, "he").seed == plan.seed
