"""diagnose: one verdict, and starts that were tried and taken back."""

import functools
import random

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_fanwise as kf
from keras_fanwise.diagnostics.audit import audit_of
from keras_fanwise.diagnostics.signal import measured_signal
from keras_fanwise.models import diagnose as module

BATCH = np.random.default_rng(0).standard_normal((64, 32)).astype("float32")


def chain(depth=8, initializer="he_normal", activation="relu", **options):
    dense = [
        layers.Dense(32, activation, kernel_initializer=initializer, **options)
        for _ in range(depth)
    ]
    return keras.Sequential([keras.Input((32,)), *dense, layers.Dense(4, name="head")])


def tiny():
    keras.utils.set_random_seed(0)  # for `keras.random`
    return chain(initializer=lambda shape, dtype: keras.random.normal(shape, 0, 0.005))


def equal():
    return chain(2, "ones")


def depthwise():
    image = x = keras.Input((12, 12, 16))
    for _ in range(10):
        x = layers.DepthwiseConv2D(3, activation="relu", padding="same",
                                   depthwise_initializer="he_normal")(x)  # fmt: skip
    return keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def residual(blocks=16):
    inputs = x = keras.Input((32,))
    for _ in range(blocks):
        inner = layers.Dense(32, "relu", kernel_initializer="he_normal")(x)
        x = x + layers.Dense(32, kernel_initializer="he_normal")(inner)
    return keras.Model(inputs, layers.Dense(4)(x))


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = [
            layers.Dense(32, "relu", kernel_initializer="random_uniform") for _ in range(7)
        ]
        self.drop = layers.Dropout(0.2)
        self.head = layers.Dense(4)

    def call(self, x):
        for layer in self.body:
            x = layer(x)
        return self.head(self.drop(x))


def own():
    model = Own()
    model(BATCH)
    return model


@pytest.mark.few(3)
@pytest.mark.parametrize("make", [tiny, equal, depthwise, residual, own])
def test_the_start_that_is_applied_is_the_one_that_was_tried(make):
    random.seed(0)
    model = make()
    report = kf.diagnose(model)
    assert report.errors
    tried = report.rows[report.best]
    assert (tried.errors, tried.warnings) == (0, 0)
    assert tried.line in report.text().replace("\n    ", " ")
    report.apply()
    after = kf.diagnose(model)
    assert after.errors == after.warnings == []
    assert after.rows[0]._replace(line=tried.line) == tried


@pytest.mark.parametrize("make", [equal, functools.partial(residual, 8)])
def test_a_start_is_judged_as_what_it_leaves(make):
    """By the initializers that it gives to layers: a zero that it chose is no fault."""
    random.seed(0)
    case = module.Case(make(), None, None)
    starts = list(case.starts(case.evidence()))
    assert len(starts) > 1
    for place, start in enumerate(starts):
        with module._taken_back(case._model):
            case.best = None
            case.drawn.clear()
            start.carry_out(None)
            tried = case.evidence(is_tried=True)
        assert tried.audited
        random.seed(0)
        other = module.Case(make(), None, None)
        list(other.starts(other.evidence()))[place].carry_out(0)
        other.best = None
        left = other.evidence()
        assert (left.rank, left.faults) == (tried.rank, tried.faults), start.line


def test_the_start_that_keeps_the_signal_is_taken():
    """Neither leaves an error or a warning, but Glorot's gates make it small."""
    random.seed(0)
    inputs = x = keras.Input((32,))
    for _ in range(6):
        x = layers.Dense(32)(x) * layers.Dense(32, "sigmoid")(x)
    model = keras.Model(inputs, layers.Dense(4)(x))
    kf.initialize(model, "zeros", seed=0)
    report = kf.diagnose(model, BATCH)
    drawn, scaled = report.rows[1], report.rows[report.best]
    assert drawn.errors == drawn.warnings == 0
    assert drawn.forward < 1 / 3 < scaled.forward < 3


def test_what_cannot_be_the_best_is_not_audited(monkeypatch):
    """An audit takes as long as several passes, and there may be many starts."""
    random.seed(0)
    audits = []

    def audited(*args):
        audits.append(args)
        return audit_of(*args)

    monkeypatch.setattr(module, "audit_of", audited)
    report = kf.diagnose(chain(20, "glorot_uniform", "sigmoid"))
    broken = [row for row in report.rows[1:] if row.errors]
    assert broken
    assert len(audits) <= len(report.rows) - len(broken)


def test_where_all_kernels_are_0_the_last_is_drawn_too():
    """Alone it would be a choice, which is left as it is."""
    model = chain(3, "zeros")
    head = model.layers[-1]
    kf.initialize(model, {head.kernel.path: "zeros"}, seed=0)
    assert kf.diagnose(model).errors
    kf.diagnose(model).apply()
    assert ops.any(head.kernel.value)
    kf.initialize(model, {head.kernel.path: "zeros"}, seed=0)
    assert kf.diagnose(model).errors == []


def test_a_sound_model_has_no_start_tried():
    random.seed(0)
    model = chain()
    model.compile(loss="mse")
    report = kf.diagnose(model, BATCH, BATCH[:, :4])
    assert report.errors == report.warnings == []
    assert len(report.rows) == 1
    assert "starts well" in report.text()
    with pytest.raises(ValueError, match="in which none does"):
        report.apply()


def state_of(model):
    values = [*model.variables, *model.optimizer.variables]
    bits = [ops.convert_to_numpy(value).tobytes() for value in values]
    return bits, random.getstate(), str(np.random.get_state())


def with_state():
    """A model that is in the middle of a training."""
    inputs = keras.Input((32,))
    x = layers.Dropout(0.1)(layers.BatchNormalization()(inputs))
    for _ in range(3):
        x = layers.Dense(32, "relu", kernel_initializer="zeros")(x)
    model = keras.Model(inputs, layers.Dense(1, name="head")(x))
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    model.fit(BATCH, BATCH[:, 0], verbose=0)
    return model


@pytest.mark.few(2)
@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt])
def test_nothing_is_changed(monkeypatch, failure):
    random.seed(0)
    model = with_state()
    before = state_of(model)
    attributes = [layer.get_config() for layer in model.layers]
    if failure:
        calls = []

        def failing(*args):
            calls.append(args)
            if len(calls) == 3:  # in the second start
                raise failure
            return measured_signal(*args)

        monkeypatch.setattr(module, "measured_signal", failing)
        with pytest.raises(failure):
            kf.diagnose(model, BATCH, 100 + BATCH[:, 0])
    else:
        assert len(kf.diagnose(model, BATCH, 100 + BATCH[:, 0]).rows) > 2
    assert state_of(model) == before
    assert str([layer.get_config() for layer in model.layers]) == str(attributes)


def test_steps_are_taken_back():
    random.seed(0)
    model = with_state()
    optimizer, function = model.optimizer, model.train_function
    before, metrics = state_of(model), str(model.get_metrics_result())
    report = kf.diagnose(model, BATCH, BATCH[:, 0], steps=3)
    assert report.rows[0].loss_after < report.rows[0].loss
    assert state_of(model) == before
    assert str(model.get_metrics_result()) == metrics
    assert (model.optimizer, model.train_function) == (optimizer, function)
    assert model.train_on_batch(BATCH, BATCH[:, 0])  # and goes on
    with pytest.raises(ValueError, match="0 without `y`"):
        kf.diagnose(model, BATCH, steps=1)


def test_faults_of_the_data_come_first():
    model = tiny()
    model.compile(loss="sparse_categorical_crossentropy")
    y = np.arange(64) % 4
    report = kf.diagnose(model, BATCH, y)
    assert report.findings[0].fault is kf.Fault.HEAD
    assert len(report.rows) == 1
    assert "SparseCategoricalCrossentropy(from_logits=True)" in report.text()
    broken = BATCH.copy()
    broken[0, 0] = np.nan
    assert kf.diagnose(model, broken, y + 1).findings[0].fault is kf.Fault.INPUTS
    targets = [one.fault for one in kf.diagnose(model, BATCH, y + 9).errors]
    assert kf.Fault.TARGETS in targets


def test_findings_that_are_accepted():
    model = equal()
    report = kf.diagnose(model)
    paths = {one.path for one in report.findings}
    ignoring = kf.diagnose(model, ignore=[*paths])
    assert paths
    assert ignoring.findings == []
    # Signals are of layers, and not of weights.
    model = tiny()
    path = kf.diagnose(model).errors[0].path
    assert path not in {weight.path for weight in model.weights}
    assert path not in {one.path for one in kf.diagnose(model, ignore=path).findings}


def test_a_batch_is_given_in_the_same_ways_as_to_signal():
    model = chain(1)
    rows = kf.diagnose(model, BATCH).rows
    assert kf.diagnose(model, BATCH.tolist()).rows == rows
    pandas = pytest.importorskip("pandas")
    assert kf.diagnose(model, pandas.DataFrame(BATCH)).rows == rows


def test_some_of_many_samples():
    model = chain(2)
    model.compile(loss="mae")
    x = np.tile(BATCH, (40, 1))
    assert kf.diagnose(model, x, x[:, :4]).errors == []
    few, _ = module._few(x, None)
    assert len(few) <= module._SAMPLES == 512


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, place):
        return BATCH + place, BATCH[:, :4]


def datasets():
    torch, tf = pytest.importorskip("torch"), pytest.importorskip("tensorflow")
    pair = BATCH, BATCH[:, :4]
    rows = torch.utils.data.TensorDataset(*map(torch.from_numpy, pair))
    yield Batches()
    yield tf.data.Dataset.from_tensor_slices(pair).batch(64)
    yield torch.utils.data.DataLoader(rows, 64)
    yield iter([pair])


def test_of_a_dataset_the_first_batch_is_taken():
    model = chain(2)
    model.compile(loss="mse")
    rows = kf.diagnose(model, BATCH, BATCH[:, :4]).rows
    loss = kf.signal(model, BATCH, BATCH[:, :4]).loss
    assert loss == rows[0].loss
    for dataset in datasets():
        assert kf.diagnose(model, dataset).rows == rows
    for dataset in datasets():
        assert kf.signal(model, dataset).loss == loss
    with pytest.raises(ValueError, match="`y` must be None beside a dataset"):
        kf.diagnose(model, Batches(), BATCH)
    with pytest.raises(ValueError, match="one batch or more"):
        kf.diagnose(model, iter([]))
    with pytest.raises(TypeError, match="a dataset of batches"):
        kf.diagnose(model, "data")
    bare = chain(2)
    assert kf.diagnose(bare, Batches()).rows[0].loss is None


def test_a_healthy_signal_outranks_a_weight():
    """Two kernels that make up for each other."""
    random.seed(0)
    model = chain(5)
    first, second = model.layers[1], model.layers[2]
    first.kernel.assign(first.kernel * 8)
    second.kernel.assign(second.kernel / 8)
    assert kf.diagnose(model).errors == []


def test_bad_arguments():
    with pytest.raises(TypeError, match="model"):
        kf.diagnose("model")
    with pytest.raises(ValueError, match="x=None"):
        kf.diagnose(chain(1), y=BATCH)
    with pytest.raises(ValueError, match="compiled with a loss"):
        kf.diagnose(chain(1), BATCH, BATCH)
    with pytest.raises(ValueError, match="built"):
        kf.diagnose(keras.Sequential([layers.Dense(2)]))
    for x in (3, [], BATCH[:0], BATCH[:, :5], ["a"]):
        with pytest.raises((TypeError, ValueError), match=r"`x` must .*Received: "):
            kf.diagnose(chain(1), x)
    for ignore in (3, [], [3]):
        with pytest.raises(TypeError, match="`ignore` must be a glob"):
            kf.diagnose(chain(1), ignore=ignore)
    with pytest.raises(ValueError, match="'nothing' meets none"):
        kf.diagnose(chain(1), ignore="nothing")
