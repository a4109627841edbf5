"""`skip_init`: loading without drawing, and drawing what was not loaded."""

import contextlib
import random
import threading
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.backends.private_keras import unfilled_variables
from keras_fanwise.initializers.base import FanwiseInitializer

from support.models import MODELS, arrays, equal, sequential, subclassed, values_of
from support.processes import fewer_by_default, needs, run_python

layers = keras.layers
initializers = keras.initializers
OF_KERAS = (
    initializers.RandomNormal,
    initializers.TruncatedNormal,
    initializers.RandomUniform,
    initializers.VarianceScaling,
    initializers.Orthogonal,
)


FIRST = ("subclassed", "sequential", "nested", "attention", "half_precision")


@pytest.fixture(params=fewer_by_default(MODELS, *FIRST))
def make(request):
    return MODELS[request.param]


@pytest.fixture
def no_draws(monkeypatch):
    """A draw fails, by Keras's random initializers or by ours."""

    def fail(*args, **kwargs):
        raise AssertionError("a draw")

    @contextlib.contextmanager
    def failing():
        with monkeypatch.context() as patch:
            for cls in OF_KERAS:
                patch.setattr(cls, "__call__", fail)
            patch.setattr(FanwiseInitializer, "draw", fail)
            yield

    return failing


def built(make, seed, block=contextlib.nullcontext):
    """The weights of a new model, what the block gives, and the next random number."""
    random.seed(seed)
    with block() as skipped:
        model = make()
    return model, skipped, random.random()


def without_block_and_with(make, seed=1):
    one, _, number = built(make, seed)
    two, skipped, same = built(make, seed, kf.skip_init)
    assert number == same
    return one, two, skipped


def stack(*heads, body="he_normal", head="fanwise_he_normal", seed=None):
    """Layers of which the heads have these sizes."""
    if seed is not None:
        body = initializers.get({"class_name": "HeNormal", "config": {"seed": seed}})
        head = kf.FanwiseHeNormal(seed=seed)
    inputs = keras.Input((8,))
    x = layers.Dense(16, kernel_initializer=body, name="body")(inputs)
    outputs = [
        layers.Dense(units, kernel_initializer=head, name=f"head_{place}")(x)
        for place, units in enumerate(heads)
    ]
    return keras.Model(inputs, outputs)


@pytest.mark.few(3)
def test_what_is_not_loaded_is_drawn_as_without_the_block(make):
    one, two, skipped = without_block_and_with(make)
    assert all(equal(arrays(one), arrays(two)))
    # What two new models do not share is random.
    other, _, _ = built(make, 2)
    shared = equal(arrays(one), arrays(other))
    expected = [w.path for w, same in zip(two.weights, shared, strict=True) if not same]
    assert sorted(skipped.drawn) == sorted(expected)
    assert expected
    assert not any("assign" in vars(weight) for weight in two.weights)


def test_loading_draws_nothing(tmp_path, no_draws):
    for extension in ("keras", "h5"):
        for make in (stack_of_one, sequential):
            model, file = make(), tmp_path / f"model.{extension}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the old format
                model.save(file)
            with no_draws():
                with pytest.raises(AssertionError, match="a draw"):
                    keras.models.load_model(file)
                with kf.skip_init() as skipped:
                    loaded = keras.models.load_model(file)
            assert all(equal(arrays(model), arrays(loaded)))
            assert skipped.drawn == []


def stack_of_one():
    return stack(3)


@pytest.mark.few(3)
def test_every_kind_of_model_is_loaded(make, no_draws):
    model = make()
    saved = arrays(model)
    random.seed(3)
    make()
    number = random.random()
    random.seed(3)
    with kf.skip_init() as skipped, no_draws():
        other = make()
        other.set_weights(saved)
    assert all(equal(saved, arrays(other)))
    assert skipped.drawn == []
    assert random.random() == number
    assert not any("assign" in vars(weight) for weight in other.weights)


def test_a_clone(no_draws):
    model = stack(3)
    with kf.skip_init() as skipped, no_draws():
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
    assert all(equal(arrays(model), arrays(clone)))
    assert skipped.drawn == []


@pytest.mark.parametrize("name", ["saved.weights.h5", "saved.keras", "saved.h5"])
def test_what_a_file_has_in_another_shape_is_drawn(tmp_path, name):
    file = tmp_path / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.endswith("weights.h5"):
            stack(10, 3).save_weights(file)
        else:
            stack(10, 3).save(file)

    def loaded():
        model = stack(5, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"by_name": True} if name == "saved.h5" else {}
            model.load_weights(file, skip_mismatch=True, **options)
        return model

    one, two, skipped = without_block_and_with(loaded)
    assert skipped.drawn == ["head_0/kernel"]
    assert all(equal(arrays(one), arrays(two)))


def test_a_failed_assignment_fills_nothing():
    def make():
        model = stack(3)
        kernel = model.get_layer("body").kernel
        with pytest.raises(ValueError, match="shape"):
            kernel.assign(np.ones((2, 2)))
        model.get_layer("head_0").kernel.assign(np.zeros((16, 3)))  # for good
        return model

    one, two, skipped = without_block_and_with(make)
    assert skipped.drawn == ["body/kernel"]
    assert all(equal(arrays(one), arrays(two)))


def test_a_block_that_raises_leaves_no_weight_undrawn():
    def make():
        made.append(stack(3))
        raise KeyError("in the block")

    made = []
    random.seed(1)
    expected = arrays(stack(3))
    random.seed(1)
    with pytest.raises(KeyError, match="in the block"), kf.skip_init() as skipped:
        make()
    assert all(equal(expected, arrays(made[0])))
    assert skipped.drawn == ["body/kernel", "head_0/kernel"]
    # The block is closed.
    kernel = stack(3).get_layer("body").kernel
    assert np.any(values_of(kernel))
    assert "assign" not in vars(kernel)


@pytest.mark.few(4)
@pytest.mark.parametrize("loaded", [(), (0,), (1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("cls", [initializers.HeNormal, kf.FanwiseHeNormal])
def test_a_generator_gives_each_weight_the_values_of_its_turn(cls, loaded):
    def make():
        generator = keras.random.SeedGenerator(7)
        generators.append(generator)
        model = keras.Sequential([keras.Input((4,))])
        for name in "abc":
            kernel = cls(seed=generator)
            model.add(layers.Dense(4, kernel_initializer=kernel, name=name))
        for place in loaded:
            model.layers[place].kernel.assign(np.full((4, 4), 9.0))
        return model

    generators = []
    one, two, skipped = without_block_and_with(make)
    assert all(equal(arrays(one), arrays(two)))
    assert len(skipped.drawn) == 3 - len(loaded)
    states = [values_of(generator.state) for generator in generators]
    assert np.array_equal(*states)
    kernels = [values_of(layer.kernel) for layer in two.layers]
    assert loaded or not np.array_equal(kernels[0], kernels[1])


def test_seeds_and_samplers():
    for make in (
        lambda: stack(3, seed=5),
        lambda: stack(3, head=kf.FanwiseHeNormal(sampler="backend")),
        lambda: stack(3, body=initializers.Orthogonal(), head="truncated_normal"),
        lambda: stack(3, body=initializers.HeUniform, head="fanwise_gamma_noise"),
    ):
        one, two, skipped = without_block_and_with(make)
        assert all(equal(arrays(one), arrays(two)))
        assert len(skipped.drawn) == 2


def test_only_known_random_initializers_are_put_off():
    class Own(initializers.HeNormal):
        pass

    def own(shape, dtype=None):
        return keras.ops.ones(shape, dtype) * 3

    with kf.skip_init() as skipped:
        for initializer in (Own(), Own, own, "ones", initializers.Constant(2), "identity"):
            layer = layers.Dense(4, kernel_initializer=initializer)
            layer.build((None, 4))
            assert np.any(values_of(layer.kernel))
        layer = layers.Dense(4)
        layer.build((None, 4))
        assert not np.any(values_of(layer.kernel))  # as documented
    assert len(skipped.drawn) == 1
    assert np.any(values_of(layer.kernel))


def test_an_initializer_that_fails_does_not_keep_the_others_from_drawing():
    class Wrong(FanwiseInitializer):
        def expected(self, shape, site=None):
            raise ValueError("no such thing")

    late = layers.Dense(4, name="late")

    def make():
        with kf.skip_init() as skipped:
            blocks.append(skipped)
            models.append(stack(3, 4, head=Wrong()))
            late.build((None, 4))

    blocks, models = [], []
    with pytest.raises(ValueError, match=r"head_0/kernel.*no such thing"):
        make()
    assert blocks[0].drawn == ["body/kernel", "late/kernel"]
    assert np.any(values_of(models[0].get_layer("body").kernel))
    assert np.any(values_of(late.kernel))


def test_a_scope_without_state_assigns_nothing():
    with kf.skip_init() as skipped:
        model = stack(3)
        kernel = model.get_layer("body").kernel
        with keras.StatelessScope():
            kernel.assign(np.ones(kernel.shape))
    assert skipped.drawn == ["body/kernel", "head_0/kernel"]


def test_weights_that_are_never_made_are_not_drawn():
    with kf.skip_init() as skipped, unfilled_variables():
        layer = layers.Dense(3)
        layer.build((None, 4))
    assert skipped.drawn == []


def test_weights_that_are_made_after_the_block_are_drawn():
    def make(block):
        random.seed(1)
        with keras.StatelessScope(), block():
            layer = layers.Dense(3, kernel_initializer="he_normal")
            layer.build((None, 4))
        return values_of(layer.kernel)

    assert np.array_equal(make(contextlib.nullcontext), make(kf.skip_init))


def test_a_model_that_is_dropped_is_not_drawn():
    with kf.skip_init() as skipped:
        stack(3)
        layer = layers.Dense(3, name="last")
        layer.build((None, 4))
    assert skipped.drawn == ["last/kernel"]


def test_a_weight_belongs_to_the_innermost_block():
    with kf.skip_init() as outer:
        first, second = layers.Dense(2, name="first"), layers.Dense(2, name="second")
        first.build((None, 4))
        with kf.skip_init() as inner:
            second.build((None, 4))
        assert inner.drawn == ["second/kernel"]
        assert np.any(values_of(second.kernel))
        assert not np.any(values_of(first.kernel))
        third = layers.Dense(2, name="third")
        third.build((None, 4))
    assert outer.drawn == ["first/kernel", "third/kernel"]


def test_other_threads_draw():
    kernels = []

    def other():
        layer = layers.Dense(4)
        layer.build((None, 4))
        kernels.append(values_of(layer.kernel))

    with kf.skip_init() as skipped:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert np.any(kernels[0])
    assert skipped.drawn == []


def test_inside_retrofit():
    def make():
        with kf.retrofit():
            return keras.Sequential(
                [
                    keras.Input((8, 8, 4)),
                    layers.DepthwiseConv2D(3, depthwise_initializer="he_normal"),
                ]
            )

    one, two, skipped = without_block_and_with(make)
    assert all(equal(arrays(one), arrays(two)))
    assert len(skipped.drawn) == 1
    (fans,) = (row.fans for row in kf.fans_table(two).rows if "kernel" in row.path)
    assert fans == (9, 9)


def test_a_subclassed_model_loads(tmp_path, no_draws):
    model = subclassed()
    file = tmp_path / "saved.weights.h5"
    model.save_weights(file)
    with kf.skip_init() as skipped, no_draws():
        other = subclassed()
        other.load_weights(file)
    assert all(equal(arrays(model), arrays(other)))
    assert skipped.drawn == []


@needs("torch")
def test_a_state_dict_of_torch_is_kept(no_draws):
    model = stack(3)
    with kf.skip_init() as skipped, no_draws():
        other = stack(3)
        other.load_state_dict(model.state_dict())
    assert all(equal(arrays(model), arrays(other)))
    assert skipped.drawn == []


@needs("tensorflow")
def test_a_checkpoint_of_tensorflow_is_kept(tmp_path, no_draws):
    import tensorflow as tf

    model = stack(3)
    path = tf.train.Checkpoint(model).save(str(tmp_path / "checkpoint"))
    with kf.skip_init() as skipped, no_draws():
        other = stack(3)
        tf.train.Checkpoint(other).restore(path)
    assert all(equal(arrays(model), arrays(other)))
    assert skipped.drawn == []


@needs("tensorflow")
def test_replicas_of_tensorflow():
    import tensorflow as tf

    def make():
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            return stack(3)

    one, two, skipped = without_block_and_with(make)
    assert all(equal(arrays(one), arrays(two)))
    assert skipped.drawn == ["body/kernel", "head_0/kernel"]


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists() or keras.backend.backend() == "tensorflow",
    reason="Linux alone tells the memory in use, and TensorFlow keeps what it has freed",
)
def test_weights_that_are_not_drawn_take_no_memory():
    run_python("""
import gc, pathlib, keras, keras_fanwise, numpy
def used():
    gc.collect()  # or the layer before this one would be freed in between
    return 1024 * int(pathlib.Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])
def grown(width, initializer):
    layer = keras.layers.Dense(width, use_bias=False, kernel_initializer=initializer)
    before = used()
    with keras_fanwise.skip_init() as skipped:
        layer.build((None, width))
        unfilled = used() - before
        layer.kernel.assign(numpy.ones((width, width), "float32"))
        filled = used() - before
    assert skipped.drawn == []
    return unfilled, filled
size = 4 * 2**24
for initializer in ("he_normal", "fanwise_he_normal"):
    grown(2, initializer)
    unfilled, filled = grown(2**12, initializer)
    assert unfilled < size / 8, unfilled
    assert filled > size * 3 / 4, filled
""")


@pytest.mark.slow
def test_after_importing_anew():
    run_python("""
import sys, keras, keras_fanwise
for name in [name for name in sys.modules if name.startswith("keras_fanwise")]:
    del sys.modules[name]
import keras_fanwise
names = ("he_normal", "fanwise_he_normal")
made = [keras.layers.Dense(2, kernel_initializer=name, name=name) for name in names]
with keras_fanwise.skip_init() as skipped:
    for layer in made:
        layer.build((None, 2))
        assert not keras.ops.convert_to_numpy(layer.kernel).any()
assert skipped.drawn == ["he_normal/kernel", "fanwise_he_normal/kernel"], skipped.drawn
""")
