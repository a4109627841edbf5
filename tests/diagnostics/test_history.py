"""`SignalHistory`: what it tells of a training, and that it leaves it alone."""

import json
import math

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise import Fault, Learning, Verdict

from support.models import SEEDS_ALL, arrays, equal, values_of
from support.processes import needs

layers = keras.layers
BACKEND = keras.backend.backend()


def data(samples=64):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(samples, 6, 6, 1)).astype("float32")
    return x, (x.mean((1, 2, 3)) > 0).astype("int32")


def network(activation="relu"):
    """With all that has a state: generators and moving statistics."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(4, 3, name="conv"),
         layers.BatchNormalization(), layers.ReLU(name="relu"), layers.Dropout(0.4),
         layers.Flatten(), layers.Dense(16, activation, name="hidden"),
         layers.Dense(2, "softmax", name="head")]
    )  # fmt: skip


def trained(model, optimizer=None, epochs=3, history=None, size=8, **settings):
    model.compile(optimizer or "adam", "sparse_categorical_crossentropy", **settings)
    callbacks = [history] if history else []
    return model.fit(
        *data(), batch_size=size, epochs=epochs, verbose=0, callbacks=callbacks
    )


def watched(model, optimizer=None, epochs=3, **more):
    x, y = data(32)
    history = kf.SignalHistory(x, y, **more)
    # A few steps, for which nothing is compiled.
    trained(model, optimizer, epochs, history, 32, run_eagerly=True)
    return history


def adam(rate, **more):
    return keras.optimizers.Adam(rate, **more)


SETTINGS = {
    "plain": {},
    # Traced, and not compiled too.
    "gradients accumulated": {"jit_compile": False},
    "several steps at once, mixed precision": {
        "steps_per_execution": 3,
        "jit_compile": False,
    },
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_training_is_as_without_it(name):
    """Bit for bit: weights, generators, statistics, the optimizer, and what `fit` tells."""
    # PyTorch has no such settings, or compiles for half a minute.
    settings = SETTINGS[name] if BACKEND != "torch" else {}
    accumulated = 3 if "accumulated" in name else None
    results = []
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if "mixed" in name else before)
    try:
        for history in (None, kf.SignalHistory(*data(16), every=1 + (name == "plain"))):
            model = network()
            optimizer = adam(0.01, gradient_accumulation_steps=accumulated)
            fitted = trained(model, optimizer, 2, history, **settings)
            state = [*arrays(model), *map(values_of, model.optimizer.variables)]
            results.append((fitted.history["loss"], state, float(keras.random.normal(()))))
    finally:
        keras.config.set_dtype_policy(before)
    (losses, state, drawn), (other_losses, other_state, other_drawn) = results
    assert losses == other_losses
    assert all(equal(state, other_state))
    assert drawn == other_drawn or not SEEDS_ALL
    steps = [change.steps for one in history._measured for change in one.changes[:1]]
    skipped = 4 if "mixed" in name else 0  # whose gradients overflow: the scale is sought
    counted = 16 // (accumulated or 1)
    assert counted - skipped <= sum(steps) <= counted


@needs("tensorflow")
def test_under_a_strategy():
    import tensorflow as tf

    states = []
    for history in (None, kf.SignalHistory(*data(16))):
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            model = network()
            model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        callbacks = [history] if history else []
        model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
        states.append(arrays(model))
    assert all(equal(*states))
    assert list(history.reports) == [0, 1, 2]


def test_a_sound_training_has_no_finding():
    x, y = data(32)
    history = kf.SignalHistory(x, y)
    fitted = trained(network(), None, 3, history, run_eagerly=True)
    assert history.findings == []
    assert fitted.history["signal_findings"] == [0, 0, 0]
    assert len(fitted.history["signal_dead"]) == 3
    assert list(history.reports) == [0, 1, 2, 3]
    assert history.reports[3].loss < history.reports[0].loss


class Counted(layers.Layer):
    """Counts how often its code runs; where it `reads`, it cannot be compiled."""

    reads, runs = False, 0

    def call(self, x):
        self.runs += 1
        return -x if self.reads and keras.ops.sum(x) > 1e9 else 2.0 * x


def measured_twice(reads=False, **settings):
    """A model of two ends, with a gate and a scan, after a step."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1))
    counted = Counted()
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="tanh")(image))
    x = layers.GRU(3, name="gru")(layers.Reshape((16, 4))(counted(layers.Dropout(0.3)(x))))
    ends = [layers.Dense(2, "softmax", name="head")(x), layers.Dense(1, name="side")(x)]
    model = keras.Model(image, ends)
    model.compile("adam", ["sparse_categorical_crossentropy", "mse"], **settings)
    counted.reads = reads
    x, y = data(16)
    y = [y, y.astype("float32")[:, None]]
    history = kf.SignalHistory(x, y)
    history.measure(model, 0)
    first = counted.runs
    model.get_layer("head").kernel.assign(2 * model.get_layer("head").kernel)
    history.measure(model, 1)
    runs = counted.runs - first
    return history.reports[1], kf.signal(model, x, y), runs


@pytest.mark.skipif(BACKEND == "torch", reason="there nothing is compiled")
def test_what_is_compiled_measures_the_same():
    """With the weights of the second time, and by code that runs the first time alone."""
    compiled, eager, runs = measured_twice()
    assert runs == 0
    assert compiled.loss == pytest.approx(eager.loss, rel=1e-5)
    for one, other in zip(compiled.rows, eager.rows, strict=True):
        numbers = [[n for n in row if isinstance(n, float)] for row in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-6)
        assert one._replace(**dict.fromkeys(one._fields[6:])) == other._replace(
            **dict.fromkeys(one._fields[6:])
        )


@pytest.mark.parametrize("how", ["what the code does", "run_eagerly"])
def test_what_cannot_be_compiled_is_measured_all_the_same(how):
    eagerly = how == "run_eagerly"
    report, eager, runs = measured_twice(not eagerly, run_eagerly=eagerly)
    assert runs == 1
    assert report.rows == eager.rows


def faults(history):
    return {finding.fault: finding for finding in history.findings}


@pytest.fixture(scope="module")
def too_fast():
    return watched(network(), adam(3.0), every=2, epochs=4)


def test_kernels_that_change_too_fast(too_fast):
    found = faults(too_fast)
    assert found[Learning.FAST].epoch == 2
    assert "of itself per step" in found[Learning.FAST].numbers


def test_a_rate_that_is_too_low():
    found = faults(watched(network(), adam(1e-8)))
    assert list(found) == [Learning.SLOW]
    assert "at a learning rate of 1e-08" in found[Learning.SLOW].numbers


def test_a_rate_that_a_schedule_brings_to_nothing_is_none_too_low():
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([2], [1e-3, 1e-9])
    assert not watched(network(), adam(rate)).findings


def test_a_layer_that_is_frozen():
    model = network()
    model.get_layer("conv").trainable = False
    (found,) = watched(model).findings
    assert (found.fault, found.severity) == (Learning.FROZEN, "note")
    assert found.path.endswith("conv")


class Stop(layers.Layer):
    def call(self, x):
        return keras.ops.stop_gradient(x)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_layer_without_a_gradient():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(8, "relu", name="lost"),
         Stop(), layers.Dense(2, "softmax")]
    )  # fmt: skip
    found = faults(watched(model))
    assert found[Learning.STARVED].path.endswith("lost")


def with_bias(model, *values, name="hidden"):
    """Measured with each of these biases."""
    history = kf.SignalHistory(*data(32))
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    bias = model.get_layer(name).bias
    for epoch, value in enumerate(values):
        bias.assign(np.full(bias.shape, value, "float32"))
        history.measure(model, epoch)
    return history


def test_units_that_die():
    found = faults(with_bias(network(), 0.0, 0.0, -100.0))[Verdict.DEAD]
    assert found.path.endswith("hidden")
    assert (found.epoch, found.severity, found.last) == (2, "error", None)
    assert str(found).startswith("dead at sequential")
    assert "since epoch 2: 100% of its units" in str(found)


def test_units_at_the_ends_of_their_activation():
    found = faults(with_bias(network("tanh"), 0.0, 0.0, 10.0))[Fault.SATURATION]
    assert found.path.endswith("hidden")
    assert found.epoch == 2


def test_values_that_are_not_finite():
    found = faults(with_bias(network(), 0.0, 0.0, math.nan, name="conv"))
    assert list(found) == [Verdict.NON_FINITE]
    assert found[Verdict.NON_FINITE].epoch == 2


def test_what_has_passed_is_a_note():
    """Units that are dead after two of four epochs."""
    history = with_bias(network(), 0.0, 0.0, -100.0, -100.0, 0.0)
    (found,) = history.findings
    assert (found.epoch, found.last, found.severity) == (2, 3, "note")
    assert "in epochs 2 to 3" in str(found)


def test_a_signal_that_explodes():
    model = network()
    x, y = data(32)
    history = kf.SignalHistory(x, y)
    model.compile(adam(1e-4), "sparse_categorical_crossentropy", run_eagerly=True)
    hidden = model.get_layer("hidden").kernel
    for epoch, factor in enumerate((1.0, 100.0, 100.0)):
        hidden.assign(hidden * factor)
        history.measure(model, epoch)
    found = faults(history)[Verdict.EXPLODING]
    assert found.path.endswith("hidden")
    assert found.epoch == 2


def test_what_is_wrong_before_the_first_step():
    wide = keras.initializers.RandomNormal(stddev=3.0, seed=0)
    hidden = [layers.Dense(32, "relu", kernel_initializer=wide) for _ in range(6)]
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), *hidden,
                              layers.Dense(2, "softmax")])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    history = kf.SignalHistory(*data(32))
    history.measure(model, 0)
    assert any("exploding at" in str(one) and "from the start" in str(one)
               for one in history.findings)  # fmt: skip


def test_how_it_reads(too_fast):
    history = too_fast
    assert list(history.reports) == [0, 2, 4]
    text = history.text()
    assert text.startswith("The training is not healthy, after epoch 4:")
    assert max(map(len, text.splitlines())) <= 80
    assert str(history) == text
    assert "<table>" in history._repr_html_()
    plain = json.loads(json.dumps(history.to_dict()))
    assert plain["epochs"] == [0, 2, 4]
    conv = plain["rows"][0]
    assert len(conv["std"]) == len(conv["change"]) == 3
    assert conv["change"][0] is None
    assert conv["change"][1] > 0


def test_the_change_is_that_of_the_kernel():
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    history = kf.SignalHistory(*data(8))
    history.measure(model, 0)
    head = model.get_layer("head").kernel
    head.assign(head * 1.25)
    model.optimizer.iterations.assign(5)
    history.measure(model, 1)
    changes = [change for change in history._measured[1].changes if change.total]
    assert [change.path.rpartition("/")[2] for change in changes] == ["head"]
    assert math.isclose(changes[0].per_step, 0.05, rel_tol=1e-5)


def test_its_figure(too_fast):
    pytest.importorskip("matplotlib")
    figure = too_fast.plot()
    grids = [axis for axis in figure.axes if axis.get_ylabel() == "epoch"]
    assert len(grids) == 4
    drawn = grids[0].collections[0].get_array()
    reports = too_fast.reports.values()
    stds = np.array([[row.std for row in report.rows] for report in reports])
    np.testing.assert_allclose(drawn[stds > 0], stds[stds > 0])  # 0 is the darkest
    bars = {axis.get_ylabel() for axis in figure.axes} - {"epoch"}
    assert bars == {"std", "gradient std", "dead units", "change per step"}


def test_arguments():
    x, y = data(8)
    for every, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="`every` must be an integer from 1"):
            kf.SignalHistory(x, y, every=every)
    model = network()
    with pytest.raises(ValueError, match="compiled with a loss"):
        kf.SignalHistory(x, y).measure(model, 0)
    with pytest.raises(ValueError, match="`x` must be a batch of shape"):
        kf.SignalHistory(x[:, :5]).measure(model, 0)
    assert "Nothing is measured yet" in kf.SignalHistory(x).text()


def test_of_a_dataset_the_first_batch_is_taken_once():
    batch = data(32)
    losses = []
    for given in (batch, (iter([batch]),)):
        history = kf.SignalHistory(*given)
        for _ in range(2):
            trained(network(), None, 1, history, 32, run_eagerly=True)
            losses.append([report.loss for report in history.reports.values()])
    assert losses == losses[:1] * 4
