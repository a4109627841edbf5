"""The old model or the new one, whatever happens in between; and in how much memory."""

import functools
import gc
import tracemalloc
import weakref

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise import Rule

from support.models import values_of

layers = keras.layers


def used():
    """With a state of its optimizer, as if it had been trained."""
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(8, name="one"),
            layers.Dense(8, name="two"),
            layers.Dense(8, name="three"),
        ]
    )
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    for variable in model.optimizer.variables:
        variable.assign(variable.value + 1)
    return model


def state(model):
    variables = [*model.weights, *model.optimizer.variables]
    configs = [layer.get_config() for layer in model.layers]
    return [values_of(variable) for variable in variables], configs


def is_as_before(model, before):
    values, configs = state(model)
    return all(map(np.array_equal, values, before[0])) and configs == before[1]


class Interrupting:
    """Stops the process's work at its n-th call, as Ctrl-C would."""

    def __init__(self, original, number, exception):
        self.original, self.number, self.exception = original, number, exception

    def __call__(self, *args, **kwargs):
        self.number -= 1
        if self.number == 0:
            raise self.exception("planted")
        return self.original(*args, **kwargs)


@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError, OSError])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_after_an_interrupt_of_a_draw_all_is_as_before(exception, number, monkeypatch):
    model = used()
    before = state(model)
    stop = Interrupting(kf.FanwiseHeNormal.draw, number, exception)
    monkeypatch.setattr(
        kf.FanwiseHeNormal,
        "draw",
        lambda self, *args, **kwargs: stop(self, *args, **kwargs),
    )
    with pytest.raises(exception, match="planted"):
        kf.initialize(model, "he", seed=0)
    assert is_as_before(model, before)


@pytest.mark.few(3)
@pytest.mark.parametrize("number", [1, 4, 6, 7, 9, 11])
def test_after_an_interrupt_of_an_assignment_all_is_old_or_new(number, monkeypatch):
    model, finished = used(), used()
    before = state(model)
    kf.initialize(finished, "he", seed=0)
    after = state(finished)
    assert not is_as_before(finished, before)
    kind = type(model.weights[0])
    stop = Interrupting(kind.assign, number, KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "assign", lambda self, value: stop(self, value))
        with pytest.raises(KeyboardInterrupt):
            kf.initialize(model, "he", seed=0)
    assert is_as_before(model, before) or is_as_before(model, after)
    # Six weights are written first: before the seventh assignment nothing is settled.
    assert is_as_before(model, before) == (number <= 6)


def strings(shape, dtype=None):
    return np.full(shape, "weights")


def objects(shape, dtype=None):
    return np.full(shape, None)


def complexes(shape, dtype=None):
    return np.full(shape, 1 + 2j)


def text(shape, dtype=None):
    return "zeros"


def nothing(shape, dtype=None):
    return None


@pytest.mark.parametrize("initializer", [strings, objects, complexes, text, nothing])
def test_what_is_no_number_is_an_error_and_changes_nothing(initializer):
    model = used()
    before = state(model)
    rules = [Rule("ones", path="one/*"), Rule(initializer, path="two/kernel")]
    for dry_run in (True, False):
        with pytest.raises(TypeError, match=r"two/kernel of shape \(8, 8\): `initializer`"):
            kf.initialize(model, rules, seed=0, dry_run=dry_run)
        assert is_as_before(model, before)


def test_an_invalid_number_of_threads_changes_nothing(monkeypatch):
    model = used()
    before = state(model)
    monkeypatch.setenv("KERAS_FANWISE_THREADS", "many")
    with pytest.raises(ValueError, match="KERAS_FANWISE_THREADS"):
        kf.initialize(model, "he", seed=0)
    assert is_as_before(model, before)


def test_a_python_number_fills_a_scalar():
    class Temperature(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(
                shape=(), initializer=lambda shape, dtype=None: 2.5, name="scale"
            )

        def call(self, x):
            return x * self.scale

    model = keras.Sequential([keras.Input((2,)), Temperature()])
    model.layers[0].scale.assign(1.0)
    assert kf.reinitialize(model, seed=0).rows[0].status == "set"
    assert values_of(model.layers[0].scale) == 2.5


@keras.saving.register_keras_serializable("tests")
class Closed(keras.optimizers.SGD):
    """Its config does not make another."""

    def __init__(self, secret):
        super().__init__(0.1)

    def get_config(self):
        return {}


def test_an_optimizer_without_a_usable_config():
    model = used()
    model.compile(Closed(1), "mse")
    model.optimizer.build(model.trainable_variables)
    before = state(model)
    with pytest.raises(
        ValueError, match="`reset_optimizer` must be False for an optimizer"
    ):
        kf.reinitialize(model, seed=0)
    assert is_as_before(model, before)
    kf.reinitialize(model, seed=0, reset_optimizer=False)
    assert not is_as_before(model, before)


class Sealed(keras.initializers.Initializer):
    """Takes a seed, but its config does not make another."""

    def __init__(self, secret):
        self.secret = secret

    def __call__(self, shape, dtype=None):
        return np.ones(shape)

    def get_config(self):
        return {"seed": None}


def test_an_initializer_without_a_usable_config():
    model = used()
    before = state(model)
    with pytest.raises(ValueError, match="that can be made again from its config"):
        kf.initialize(model, Rule(Sealed(1), path="two/kernel"), seed=0)
    assert is_as_before(model, before)


def test_a_layer_that_refers_to_its_parent():
    class Child(layers.Layer):
        def __init__(self, parent):
            super().__init__()
            self.parent = parent

    class Parent(layers.Layer):
        def __init__(self):
            super().__init__()
            self.child = Child(self)

    parent = Parent()
    parent.built = True
    started = (lambda model: kf.initialize(model, "he"), kf.reinitialize)
    for call in (kf.audit, kf.fans_table, kf.signal, *started):
        with pytest.raises(ValueError, match=r"`model` must be .*inside themselves"):
            call(parent)


# What `reinitialize` resets


def test_the_random_bias_of_an_lstm_is_drawn_anew_but_for_the_forget_gate():
    for initializer in ("random_normal", kf.FanwiseNormal(stddev=1.0)):
        lstm = layers.LSTM(
            50, kernel_initializer="fanwise_glorot_normal", bias_initializer=initializer
        )
        model = keras.Sequential([keras.Input((3, 4)), lstm])
        first = values_of(lstm.cell.bias)
        kf.reinitialize(model, seed=1)
        second = values_of(lstm.cell.bias)
        kf.reinitialize(model, seed=2)
        third = values_of(lstm.cell.bias)
        for one, other in ((first, second), (second, third)):
            assert np.all(one[50:100] == 1)
            rest = np.r_[0:50, 100:200]
            assert not np.any(one[rest] == other[rest])
        kf.reinitialize(model, seed=1)
        assert np.array_equal(values_of(lstm.cell.bias), second)
        assert kf.audit(model).findings == []


def test_the_report_says_what_fills_the_random_bias_of_an_lstm():
    for initializer, shown in (
        ("random_normal", "bias_initializer(RandomNormal)"),
        (kf.FanwiseNormal(stddev=1.0), "bias_initializer(FanwiseNormal(stddev=1.0))"),
    ):
        layer = layers.LSTM(5, bias_initializer=initializer)
        model = keras.Sequential([keras.Input((3, 4)), layer])
        assert kf.reinitialize(model, seed=1).rows[2].initializer == shown


def test_the_random_bias_of_an_lstm_has_a_stream_of_its_own():
    def bias(initializer, name):
        layer = layers.LSTM(50, bias_initializer=initializer, name=name)
        layer.build((None, 3, 4))
        return values_of(layer.cell.bias)

    ours = kf.FanwiseNormal(stddev=1.0, seed=1)
    one, two = bias(ours, "one"), bias(ours, "two")
    rest = np.r_[0:50, 100:200]
    assert np.all(one[50:100] == 1)
    assert not np.any(one[rest] == two[rest])
    # The gates differ too: in the closure of Keras the input gate begins like the others.
    assert not np.array_equal(one[:50], one[100:150])
    assert np.array_equal(one, bias(ours, "one"))


def test_keras_zeros_stay_the_bias_of_an_lstm():
    layer = layers.LSTM(5)
    layer.build((None, 3, 4))
    assert np.array_equal(values_of(layer.cell.bias), np.repeat([0, 1, 0, 0], 5))


def test_the_state_of_a_stateful_layer_starts_anew():
    x = np.ones((2, 3, 4), "float32")
    model = keras.Sequential(
        [keras.Input(batch_shape=(2, 3, 4)), layers.GRU(5, stateful=True)]
    )
    model(x)
    states = model.layers[0].states
    assert np.any(values_of(states[0]))
    kf.reinitialize(model, seed=0)
    assert not np.any(values_of(states[0]))


@pytest.mark.skipif(not hasattr(layers, "STFTSpectrogram"), reason="newer than this Keras")
@pytest.mark.parametrize("recipe", ["he", "glorot", "lecun", "fanwise_he_uniform"])
def test_the_kernels_of_a_fourier_transform_are_kept(recipe):
    image = keras.Input((1024, 1))
    x = layers.STFTSpectrogram(mode="real", frame_length=64)(image)
    model = keras.Model(image, layers.Dense(3)(x))
    fourier = model.layers[1]
    before = [values_of(weight) for weight in fourier.weights]
    kf.initialize(model, recipe, seed=0)
    assert all(map(np.array_equal, before, map(values_of, fourier.weights)))


# Memory


def large(layers_of, units):
    dense = [layers.Dense(units, name=f"dense_{i}") for i in range(layers_of)]
    return keras.Sequential([keras.Input((units,)), *dense])


def peak(call):
    """In bytes, of what NumPy allocates beyond what there was."""
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_dry_run_holds_few_weights_at_a_time():
    model = large(layers_of=12, units=1000)
    one = 4 * 1000 * 1000

    def filled(shape, dtype=None):
        return np.full(shape, 0.5, "float32")

    # A backend copies what it is given, and may let go of it a little later.
    for rule in (Rule(filled, weight="kernel"), Rule("zeros", weight="kernel")):
        assert peak(lambda rule=rule: kf.initialize(model, rule, dry_run=True)) < 6 * one


class Held(keras.initializers.Initializer):
    def __init__(self, array):
        self.array = array

    def __call__(self, shape, dtype=None):
        return self.array + 1


@pytest.mark.parametrize(
    "make", [Held, lambda array: functools.partial(lambda a, *_, dtype=None: a + 1, array)]
)
def test_what_an_object_held_is_let_go(make):
    array = np.zeros((300, 300), "float32")
    reference = weakref.ref(array)
    initializer = make(array)
    layer = layers.Layer()
    weight = layer.add_weight((300, 300), initializer, name="w")
    model = keras.Sequential([keras.Input((300,)), layer])
    weight.assign(np.zeros((300, 300)))
    assert kf.reinitialize(model, seed=0).rows[0].status == "set"  # as long as it is there
    assert np.all(values_of(weight) == 1)
    del initializer, array
    gc.collect()
    assert reference() is None
    with pytest.warns(UserWarning, match="initializer is unknown"):
        assert kf.reinitialize(model, seed=0).rows[0].status == "kept"


def test_what_a_foreign_initializer_held_is_let_go():
    array = np.zeros((300, 300), "float32")
    reference = weakref.ref(array)

    def captured(shape, dtype=None, array=array):
        return array + 1  # what a backend is given it may keep

    layer = layers.Dense(300, kernel_initializer=captured)
    layer.build((None, 300))
    del layer.kernel_initializer, captured, array
    gc.collect()
    assert reference() is None
    # Whoever kept it would be noticed.
    small = layers.Layer()
    weight = small.add_weight((3,), lambda shape, dtype=None: np.ones(shape), name="w")
    gc.collect()
    model = keras.Sequential([keras.Input((3,)), small])
    assert kf.reinitialize(model, seed=0).rows[0].status == "set"
    assert np.all(values_of(weight) == 1)
