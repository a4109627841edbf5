"""The seam: which weight gets which stream, and what the seam leaves alone."""

import importlib
import pickle
import threading

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.arguments import snake_case
from keras_fanwise.sampling import device
from keras_fanwise.sampling.sampler import Stream
from keras_fanwise.seam import binding

from support.models import values_by_path, values_of
from support.processes import run_python

layers = keras.layers


def distinct(arrays):
    return len({array.tobytes() for array in arrays}) == len(arrays)


def seeded(seed=1):
    """With an untruncated and unscaled stream: only the stream tells weights apart."""
    return kf.FanwiseNormal(seed=seed)


# Fans


def test_the_fans_are_those_of_the_layer():
    layer = layers.DepthwiseConv2D(3, depthwise_initializer="fanwise_he_uniform")
    layer.build((None, 8, 8, 512))
    largest = np.abs(values_of(layer.kernel)).max()
    assert 0.99 * np.sqrt(6 / 9) < largest <= np.sqrt(6 / 9)


@pytest.mark.parametrize(
    ("arguments", "fan_in"),
    [
        ({}, 9),
        ({"fans": "layer"}, 9),
        ({"fans": "shape"}, 9 * 512),
        ({"fans": (20, 1)}, 20),
        ({"input_axes": [2], "output_axes": [3]}, 512),
    ],
)
def test_fans_that_are_asked_for_win(arguments, fan_in):
    initializer = kf.FanwiseLecunUniform(seed=1, **arguments)
    layer = layers.DepthwiseConv2D(3, depthwise_initializer=initializer)
    layer.build((None, 8, 8, 512))
    largest = np.abs(values_of(layer.kernel)).max()
    assert 0.99 * np.sqrt(3 / fan_in) < largest <= np.sqrt(3 / fan_in)


def test_einsum_dense_does_not_correct_the_fans_again():
    layer = layers.EinsumDense(
        "ebd,edf->ebf", (None, 64), kernel_initializer="fanwise_lecun_uniform"
    )
    layer.build((8, None, 128))
    largest = np.abs(values_of(layer.kernel)).max()
    assert 0.99 * np.sqrt(3 / 128) < largest <= np.sqrt(3 / 128)


def test_a_registered_rule_is_used():
    class Mixer(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(
                shape=(3, 5000), initializer=kf.FanwiseLecunUniform(seed=1), name="kernel"
            )

    kf.register_fans(Mixer)(lambda layer, name, shape: kf.Fans(300, 3))
    layer = Mixer()
    layer.build((1,))
    largest = np.abs(values_of(layer.kernel)).max()
    assert 0.99 * 0.1 < largest <= 0.1


# What the layer keeps


def test_the_layer_keeps_the_unbound_initializer():
    initializer = kf.FanwiseHeNormal(seed=1)
    layer = layers.Dense(3, kernel_initializer=initializer)
    layer.build((None, 4))
    assert layer.kernel_initializer is initializer
    config = keras.initializers.serialize(initializer)
    assert layer.get_config()["kernel_initializer"] == config
    assert config["config"]["fans"] == "layer"
    assert initializer((4, 3)).shape == (4, 3)
    assert not np.array_equal(
        values_of(layer.kernel), keras.ops.convert_to_numpy(initializer((4, 3)))
    )


def test_weights_made_from_a_string_or_a_config_in_add_weight():
    class Bare(layers.Layer):
        def build(self, shape):
            config = keras.initializers.serialize(kf.FanwiseHeNormal(seed=2))
            self.one = self.add_weight(
                shape=(4, 4), initializer="FanwiseHeNormal", name="a"
            )
            self.two = self.add_weight(shape=(4, 4), initializer=config, name="b")
            self.three = self.add_weight(shape=(4, 4), initializer="he_normal", name="c")
            self.four = self.add_weight(
                shape=(4, 4), initializer={"class_name": "Ones", "config": {}}, name="d"
            )

    layer = Bare()
    layer.build((1,))
    alone = keras.ops.convert_to_numpy(kf.FanwiseHeNormal(seed=2)((4, 4)))
    assert not np.array_equal(values_of(layer.two), alone)  # it is bound to its weight
    assert np.all(values_of(layer.four) == 1)


def test_classes_and_names_of_a_scope():
    class Bare(layers.DepthwiseConv2D):
        def build(self, shape):
            for name, identifier in self.identifiers.items():
                self.add_weight(shape=(3, 3, 512, 1), initializer=identifier, name=name)

    scope = {"mine": kf.FanwiseLecunUniform, "this": kf.FanwiseLecunUniform(seed=1)}
    with keras.saving.custom_object_scope(scope):
        layer = Bare(3)
        # The name that the table knows, so that the fans show.
        layer.identifiers = {"kernel": "mine"}
        layer.build((None, 8, 8, 512))
        other = Bare(3)
        other.identifiers = {"kernel": "this"}
        other.build((None, 8, 8, 512))
    third = Bare(3)
    third.identifiers = {"kernel": kf.FanwiseLecunUniform}
    third.build((None, 8, 8, 512))
    for built in (layer, other, third):
        assert np.abs(values_of(built.weights[0])).max() > 0.5


# Streams


def build_attention(initializer):
    layer = layers.MultiHeadAttention(
        2, 4, kernel_initializer=initializer, bias_initializer=initializer
    )
    layer.build((None, 3, 8), (None, 3, 8))
    return layer


def build_group_attention(initializer):
    layer = layers.GroupQueryAttention(
        4, 4, 2, kernel_initializer=initializer, bias_initializer=initializer
    )
    layer.build((None, 3, 8), (None, 3, 8))
    return layer


def build_bidirectional(initializer):
    layer = layers.Bidirectional(
        layers.LSTM(
            4,
            kernel_initializer=initializer,
            recurrent_initializer=initializer,
            bias_initializer=initializer,
            unit_forget_bias=False,
        )
    )
    layer.build((None, 3, 4))
    return layer


def build_separable(initializer):
    layer = layers.SeparableConv2D(
        4,
        1,
        depthwise_initializer=initializer,
        pointwise_initializer=initializer,
        bias_initializer=initializer,
    )
    layer.build((None, 5, 5, 4))
    return layer


def build_lstm(initializer):
    layer = layers.LSTM(
        4, kernel_initializer=initializer, recurrent_initializer=initializer
    )
    layer.build((None, 3, 4))
    return layer


BUILDERS = [
    build_attention,
    build_group_attention,
    build_bidirectional,
    build_separable,
    build_lstm,
]


@pytest.mark.parametrize("seed", [1, None, "generator"])
@pytest.mark.parametrize("build", BUILDERS)
def test_every_weight_of_a_layer_differs(build, seed):
    seed = keras.random.SeedGenerator(1) if seed == "generator" else seed
    weights = values_by_path(build(seeded(seed)))
    random = [w.ravel()[:4] for path, w in weights.items() if np.std(w) > 0]
    assert len(random) >= 2
    assert distinct(random)


def test_the_built_in_gives_attention_three_equal_kernels():
    # Or the test above would prove nothing.
    layer = build_attention(keras.initializers.RandomNormal(seed=1))
    kernels = [values_of(w) for w in layer.weights if w.name == "kernel"]
    assert not distinct(kernels)


@pytest.mark.parametrize("build", BUILDERS)
def test_building_twice_gives_the_same_values(build):
    first, second = (list(values_by_path(build(seeded())).values()) for _ in range(2))
    assert all(map(np.array_equal, first, second))


def test_a_seeded_backend_draw_does_not_know_the_weight():
    # `keras.random` takes a seed and no key: Keras's own seed semantics.
    initializer = kf.FanwiseNormal(seed=1, sampler="backend")
    layer = layers.Dense(4, kernel_initializer=initializer)
    layer.build((None, 5))
    built_in = keras.initializers.RandomNormal(0.0, 0.02, seed=1)((5, 4))
    assert np.array_equal(values_of(layer.kernel), keras.ops.convert_to_numpy(built_in))


def named_stack(*names):
    stack = [
        layers.Dense(4, name=name, kernel_initializer=kf.FanwiseHeNormal(seed=3))
        for name in names
    ]
    model = keras.Sequential([keras.Input((4,)), *stack])
    return {layer.name: values_of(layer.kernel) for layer in model.layers}


def test_inserting_a_named_layer_leaves_the_others_alone():
    short, long = named_stack("a", "c"), named_stack("a", "b", "c")
    assert np.array_equal(short["a"], long["a"])
    assert np.array_equal(short["c"], long["c"])
    assert distinct(list(long.values()))


def test_layers_that_nobody_named_share_values():
    one, two = (
        layers.Dense(4, kernel_initializer=kf.FanwiseHeNormal(seed=3)) for _ in "ab"
    )
    one.build((None, 4))
    two.build((None, 4))
    assert one.name != two.name
    assert np.array_equal(values_of(one.kernel), values_of(two.kernel))


class Inner(layers.Layer):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense = layers.Dense(4, kernel_initializer=kf.FanwiseHeNormal(seed=3))

    def call(self, x):
        return self.dense(x)


class Outer(keras.Model):
    """Subclassed, without `build`."""

    def __init__(self):
        super().__init__()
        self.first = Inner(name="first")
        self.second = Inner(name="second")

    def call(self, x):
        return self.second(self.first(x))


def test_subclassed_models_without_build():
    x = np.ones((2, 4), "float32")
    called, fitted, symbolic = Outer(), Outer(), Outer()
    called(x)
    fitted.compile("sgd", "mse", jit_compile=False)
    fitted.predict(x, verbose=0)
    symbolic(keras.Input((4,)))
    kernels = [
        (values_of(model.first.dense.kernel), values_of(model.second.dense.kernel))
        for model in (called, fitted, symbolic)
    ]
    assert distinct(list(kernels[0]))
    for first, second in kernels[1:]:
        assert np.array_equal(first, kernels[0][0])
        assert np.array_equal(second, kernels[0][1])


def test_nothing_is_drawn_to_learn_shapes(monkeypatch):
    """On TensorFlow each placeholder was a graph of the whole generator: 0.4 s a weight."""
    drawn, draw = [], Stream.draw
    monkeypatch.setattr(device, "draw", None)
    monkeypatch.setattr(
        Stream,
        "draw",
        lambda self, *args, **more: drawn.append(1) or draw(self, *args, **more),
    )
    Outer()(np.ones((2, 4), "float32"))
    assert len(drawn) == 2


def test_models_with_a_sequential_that_nobody_named():
    def model():
        dense = layers.Dense(3, kernel_initializer=kf.FanwiseHeNormal(seed=3))
        return keras.Sequential([keras.Input((4,)), keras.Sequential([dense])])

    original = model()
    for other in (
        model(),
        keras.models.clone_model(original),
        keras.models.model_from_json(original.to_json()),
    ):
        assert np.array_equal(values_of(other.weights[0]), values_of(original.weights[0]))


def test_a_layer_built_twice_is_filled_again_with_the_same():
    layer = layers.Dense(4, kernel_initializer=kf.FanwiseHeNormal(seed=3))
    layer.build((None, 5))
    first = values_of(layer.kernel)
    again = layers.Dense.from_config(layer.get_config())
    again.build((None, 5))
    assert np.array_equal(values_of(again.kernel), first)


def test_set_random_seed_governs_the_weights_of_a_model():
    def kernels():
        stack = [layers.Dense(4, kernel_initializer="fanwise_he_normal") for _ in range(3)]
        keras.Sequential([keras.Input((4,)), *stack])
        return [values_of(layer.kernel) for layer in stack]

    keras.utils.set_random_seed(1)
    first = kernels()
    keras.utils.set_random_seed(1)
    assert all(map(np.array_equal, first, kernels()))
    assert distinct(first)


def test_one_unseeded_initializer_gives_each_weight_its_own_values():
    initializer = kf.FanwiseNormal()
    stack = [layers.Dense(4, kernel_initializer=initializer) for _ in range(3)]
    keras.Sequential([keras.Input((4,)), *stack])
    assert distinct([values_of(layer.kernel) for layer in stack])


@pytest.mark.parametrize("count", range(3))
def test_weights_without_a_name_differ(count):
    """Whatever number Keras gives the first, which may be that of the second's place."""
    keras.utils.clear_session()
    for _ in range(count):
        keras.Variable(0.0)

    class Bare(layers.Layer):
        def build(self, shape):
            self.one = self.add_weight(shape=(4,), initializer=seeded())
            self.two = self.add_weight(shape=(4,), initializer=seeded())

    one, two = Bare(), Bare()
    one.build((1,))
    two.build((1,))
    assert distinct([values_of(weight) for weight in one.weights])
    assert all(
        map(np.array_equal, map(values_of, one.weights), map(values_of, two.weights))
    )


def test_threads_that_build_models_at_the_same_time():
    def build(results, index):
        for _ in range(5):
            results[index] = build_attention(seeded()).get_weights()

    results = [None] * 4
    threads = [threading.Thread(target=build, args=(results, i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for weights in results[1:]:
        assert all(map(np.array_equal, weights, results[0]))


# Names


def test_snake_case_is_keras_s():
    for cls in (
        layers.Conv2DTranspose,
        layers.LSTMCell,
        layers.PReLU,
        layers.STFTSpectrogram,
    ):
        keras.backend.clear_session()
        arguments = {"LSTMCell": (3,), "Conv2DTranspose": (3, 3)}.get(cls.__name__, ())
        assert cls(*arguments).name == snake_case(cls.__name__)


# What the seam leaves alone

OTHERS = """
import keras
def build():
    keras.utils.set_random_seed(5)
    layers = keras.layers
    return keras.Sequential([
        keras.Input((8, 8, 3)),
        layers.Conv2D(4, 3, kernel_initializer=keras.initializers.HeNormal(seed=1)),
        layers.SeparableConv2D(4, 3, depthwise_initializer="orthogonal"),
        layers.BatchNormalization(),
        layers.Reshape((-1, 4)),
        layers.LSTM(4),
        layers.Dense(2, kernel_initializer="random_normal", bias_initializer=lambda s, dtype: keras.ops.ones(s)),
    ])
without = [weight.tobytes() for weight in build().get_weights()]
import keras_fanwise
assert [weight.tobytes() for weight in build().get_weights()] == without
keras_fanwise.reinitialize(model := build(), seed=1)
assert [weight.tobytes() for weight in model.get_weights()] != without
"""


@pytest.mark.slow
def test_other_initializers_draw_the_same_bits_with_and_without_us():
    run_python(OTHERS)


def test_installing_twice_wraps_once():
    wrapped = keras.Layer.add_weight
    binding.install()
    importlib.reload(binding)
    binding.install()
    assert keras.Layer.add_weight is wrapped
    assert not hasattr(wrapped.__wrapped__, "__wrapped__")


@pytest.mark.slow
def test_importing_anew_wraps_once_and_still_binds():
    program = """
import sys, keras, keras_fanwise
wrapped = keras.Layer.add_weight
for name in [name for name in sys.modules if name.startswith("keras_fanwise")]:
    del sys.modules[name]
import keras_fanwise
assert keras.Layer.add_weight is wrapped
layer = keras.layers.DepthwiseConv2D(3, depthwise_initializer=keras_fanwise.FanwiseLecunUniform())
layer.build((None, 8, 8, 512))
assert abs(keras.ops.convert_to_numpy(layer.kernel.value * 1)).max() > 0.5
"""
    run_python(program)


def test_the_positional_forms_of_add_weight():
    class Bare(layers.Layer):
        def build(self, shape):
            self.one = self.add_weight((4, 500), kf.FanwiseLecunUniform(seed=1))
            self.two = self.add_weight((4, 500), kf.FanwiseLecunUniform(seed=1), "float16")
            self.three = self.add_weight((4, 500), initializer="ones", name="three")
            self.four = self.add_weight((), initializer=kf.FanwiseNormal(mean=3.0))
            self.five = self.add_weight(initializer=kf.FanwiseNormal(mean=3.0))
            self.six = self.add_weight()

    layer = Bare()
    layer.build((1,))
    assert keras.backend.standardize_dtype(layer.two.dtype) == "float16"
    assert np.all(values_of(layer.three) == 1)
    assert 2 < float(values_of(layer.four)) < 4
    assert 2 < float(values_of(layer.five)) < 4
    assert layer.six.shape == ()


@pytest.mark.parametrize("initializer", [None, "fanwise_he_normal"])
def test_what_keras_says_of_a_name_in_the_place_of_the_shape(initializer):
    add_weight = keras.Layer.add_weight
    says = []
    for call in (add_weight.__wrapped__, add_weight):
        with kf.retrofit(), pytest.raises((TypeError, ValueError)) as error:
            call(layers.Layer(name="own"), "matrix", initializer=initializer)
        says.append((error.type, str(error.value)))
    assert says[0] == says[1]


def test_subclasses_that_override_add_weight():
    class Loud(layers.DepthwiseConv2D):
        def add_weight(self, *args, **kwargs):
            return super().add_weight(*args, **kwargs)

    layer = Loud(3, depthwise_initializer=kf.FanwiseLecunUniform(seed=1))
    layer.build((None, 8, 8, 512))
    assert np.abs(values_of(layer.kernel)).max() > 0.5


def test_errors_begin_with_the_path_and_the_shape_of_the_weight():
    initializer = kf.FanwiseHeNormal(input_axes=[5], output_axes=[0])
    layer = layers.Dense(3, kernel_initializer=initializer, name="head")
    with pytest.raises(
        ValueError, match=r"^head/kernel of shape \(4, 3\): `input_axes` must"
    ):
        layer.build((None, 4))


def test_a_bound_initializer_is_not_what_models_are_pickled_with():
    layer = layers.Dense(3, kernel_initializer=kf.FanwiseHeNormal(seed=3))
    model = keras.Sequential([keras.Input((4,)), layer])
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(values_of(again.weights[0]), values_of(model.weights[0]))
    assert again.layers[0].kernel_initializer.get_config()["seed"] == 3
