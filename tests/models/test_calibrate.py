"""calibrate: what each layer gives has the deviation that was asked for."""

import random

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_fanwise as kf
from keras_fanwise.backends.private_keras import is_stateless, seed_generator_state

from support.models import arrays

TINY = kf.FanwiseVarianceScaling(scale=1e-8)


def plain(depth=30, width=64, name="glorot_uniform"):
    dense = [layers.Dense(width, "relu", kernel_initializer=name) for _ in range(depth)]
    return keras.Sequential([keras.Input((width,)), *dense, layers.Dense(5)])


def residual():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="stem")(image)
    for _ in range(3):
        y = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.ReLU()(x))
        x = layers.Add()([x, layers.Conv2D(16, 3, padding="same")(y)])
    return keras.Model(image, layers.Dense(16)(layers.Flatten()(x)))


def transformer():
    tokens = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, 32)(tokens)
    y = layers.MultiHeadAttention(2, 16)(*[layers.LayerNormalization()(x)] * 2)
    x = layers.Add()([x, y])
    y = layers.Dense(64, "gelu")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(32)(y)])
    return keras.Model(tokens, layers.Dense(50)(x))


def depthwise():
    image = keras.Input((8, 8, 12))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, depthwise_initializer="he_normal")(
        image
    )
    x = layers.SeparableConv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(8, 4, 2, activation="tanh")(x)
    return keras.Model(image, x)


def recurrent_headed():
    steps = keras.Input((10, 6))
    x = layers.Dense(16, "tanh")(steps)
    return keras.Model(steps, layers.Dense(8)(layers.LSTM(16)(x)))


def several_inputs():
    one, other = keras.Input((16,), name="one"), keras.Input((8, 8, 3), name="other")
    y = layers.Flatten()(layers.Conv2D(8, 3, activation="relu")(other))
    both = layers.Concatenate()([layers.Dense(16, "relu")(one), y])
    return keras.Model({"one": one, "other": other}, layers.Dense(16)(both))


def nested():
    dense = [layers.Dense(64, "relu"), layers.Dense(64)]
    inner, inputs = keras.Sequential([keras.Input((64,)), *dense]), keras.Input((64,))
    return keras.Model(inputs, layers.Dense(32)(inner(inner(inputs))))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = [layers.Dense(32, "relu") for _ in range(4)]
        self.head = layers.Dense(16)

    def call(self, x):
        for layer in self.body:
            x = layer(x)
        return self.head(x)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 32), "float32"))
    return model


MODELS = (
    plain,
    residual,
    transformer,
    depthwise,
    recurrent_headed,
    several_inputs,
    nested,
    subclassed,
)


def batch(model, seed, samples=1024):
    generator = np.random.default_rng(seed)
    if isinstance(model, Subclassed):
        return generator.standard_normal((samples, 32)).astype("float32")

    def values(tensor):
        shape = (samples, *tensor.shape[1:])
        if "int" in tensor.dtype:
            return generator.integers(0, 50, shape)
        return generator.standard_normal(shape).astype("float32")

    given = model.input if not isinstance(model, keras.Sequential) else model.inputs[0]
    return keras.tree.map_structure(values, given)


def measured(model, x, **options):
    """What each layer gives, without a change: the deviations of a dry run."""
    rows = kf.calibrate(model, x, dry_run=True, **options).rows
    return [row.before for row in rows if row.status == "scaled"]


@pytest.mark.few(4)
@pytest.mark.parametrize("make", MODELS)
def test_every_layer_gives_what_was_asked_for(make):
    random.seed(1)
    model = make()
    x, fresh = batch(model, 0), batch(model, 1)
    before = measured(model, x, std=0.5)
    report = kf.calibrate(model, x, std=0.5)
    assert max(abs(np.array(before) / 0.5 - 1)) > 0.2  # it was otherwise
    np.testing.assert_allclose(measured(model, x, std=0.5), 0.5, rtol=1e-4)
    np.testing.assert_allclose(measured(model, fresh, std=0.5), 0.5, rtol=0.05)
    assert len(report) == sum("kernel" in weight.name for weight in model.weights)
    for row in report:
        if row.status == "scaled":
            assert row.factor * row.before == pytest.approx(0.5)
            assert row.after == pytest.approx(0.5, rel=1e-3)


def test_the_deviations_are_those_of_a_second_route():
    """That of a model that gives what is before each activation."""
    model = plain(6)
    x = batch(model, 0)
    kf.calibrate(model, x)
    for layer in model.layers[:-1]:
        weights = [ops.convert_to_numpy(each).astype("float64") for each in layer.weights]
        x = x @ weights[0] + weights[1]
        assert x.std() == pytest.approx(1, rel=1e-4)
        x = np.maximum(x, 0)


def test_a_scale_that_dies_is_mended():
    model = plain(30, name=TINY)
    assert min(measured(model, batch(model, 0))) > 0  # each kernel sees a mended signal
    kf.calibrate(model, batch(model, 0))
    assert kf.signal(model).findings == []


def test_factors_of_relus_are_those_of_he():
    """From LeCun's scale, √2 in each layer but the first, within the sampling error."""
    width, depth = 1024, 6
    random.seed(0)
    model = plain(depth, width, "fanwise_lecun_normal")
    factors = [row.factor for row in kf.calibrate(model, batch(model, 0, 256)).rows]
    # E[x²] of a layer varies by √(5 / width) around its mean, where x are ReLUs of normals
    # (E[x⁴] / E[x²]² - 1 = 5), and its root by half of that.
    error = np.sqrt(5 / width) / 2
    assert factors[0] == pytest.approx(1, abs=5 * error)
    np.testing.assert_allclose(factors[1:depth], np.sqrt(2), rtol=5 * error)


@pytest.mark.few(2)
@pytest.mark.parametrize("make", [plain, residual, depthwise, transformer])
def test_by_unit_every_unit_is_centred_and_scaled(make):
    model = make()
    x = batch(model, 0)
    rows = kf.calibrate(model, x, by="unit").rows
    again = kf.calibrate(model, x, by="unit", dry_run=True).rows
    for row in again:
        if row.status == "scaled":
            assert row.before == pytest.approx(1, rel=1e-3)
            assert row.factor == pytest.approx(1, rel=1e-3)
    assert [row.status for row in rows] == [row.status for row in again]


def test_units_of_an_einsum_in_any_order():
    inputs = keras.Input((5, 6))
    einsum = layers.EinsumDense("abc,cde->aedb", (3, 4, 5), bias_axes="ed", name="einsum")
    model = keras.Model(inputs, einsum(inputs))
    x = batch(model, 0)
    kf.calibrate(model, x, by="unit")
    given = ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(given.mean(axis=(0, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(given.std(axis=(0, 3)), 1, rtol=1e-4)


def test_a_shared_layer_is_scaled_at_its_first_call():
    shared, inputs = layers.Dense(64, use_bias=False, name="shared"), keras.Input((64,))
    model = keras.Model(inputs, shared(ops.relu(shared(inputs))))
    x = batch(model, 0)
    kernel = ops.convert_to_numpy(shared.kernel)
    report = kf.calibrate(model, x, std=2.0)
    assert len(report) == 1
    np.testing.assert_allclose(
        ops.convert_to_numpy(shared.kernel), kernel * (2 / (x @ kernel).std()), rtol=1e-5
    )


class Normalizing(layers.Layer):
    """What it gives does not depend on the size of its kernel."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, x):
        return ops.matmul(x, self.kernel / ops.norm(self.kernel))


def test_what_is_kept_is_listed_with_the_reason():
    steps = keras.Input((6, 8))
    x = layers.SeparableConv1D(8, 3, name="separable")(steps)
    x = layers.Dense(8, kernel_initializer="zeros", bias_initializer="ones", name="zero")(x)
    x = Normalizing(name="normalizing")(x)
    wrapped = layers.Dense(8, name="dense")
    x = layers.SpectralNormalization(wrapped, name="spectral")(x)
    x = layers.GRU(4, name="gru")(x)
    x = layers.Dense(3, name="other")(x)
    model = keras.Model(steps, layers.Dense(3, name="head")(x))
    found = {
        row.path: row.reason
        for row in kf.calibrate(model, batch(model, 0), only=["*kernel"]).rows
        if row.status == "kept"
    }
    ends = {
        "separable/depthwise_kernel": "the pointwise one is scaled",
        "zero/kernel": "it is 0",
        "normalizing/kernel": "the output of its layer does not scale with it",
        "dense/kernel": "normalized at every call",
        "gru_cell/kernel": "of a recurrent cell",
        "gru_cell/recurrent_kernel": "of a recurrent cell",
    }
    assert {
        end: reason for end in ends for path, reason in found.items() if path.endswith(end)
    } == ends
    assert len(found) == len(ends)
    rows = kf.calibrate(model, batch(model, 0), only="head/*").rows
    assert [row.path for row in rows if row.reason != "not in `only`"] == ["head/kernel"]


class Own(layers.Layer):
    """As many write a layer: Keras names its matrix `variable`."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 8), initializer="random_normal")
        self.b = self.add_weight(shape=(8,), initializer="zeros")

    def call(self, x):
        return ops.relu(ops.matmul(x, self.w) + self.b)


class Shift(layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=shape[1:], initializer="random_normal")

    def call(self, x):
        return x + self.w


def test_matrices_of_other_names_are_scaled_if_the_inputs_are_multiplied_by_them():
    body = [layers.Embedding(5, 4), layers.LayerNormalization(axis=[1, 2])]
    ends = [Shift(name="kept"), Own(name="scaled")]
    model = keras.Sequential([keras.Input((3,), dtype="int32"), *body, *ends])
    x = np.arange(900).reshape(300, 3) % 7 % 5
    scaled, kept = kf.calibrate(model, x).rows
    assert (scaled.path, scaled.status) == (ends[1].w.path, "scaled")
    np.testing.assert_allclose(ops.convert_to_numpy(model(x)).std(), 1, rtol=1e-3)
    assert (kept.path, kept.status) == (ends[0].w.path, "kept")
    assert kept.reason == "not recognized as a kernel"


class Around(keras.Model):
    """Its own kernel stands before a layer, whose results tell nothing of it."""

    def __init__(self):
        super().__init__()
        self.kernel = self.add_weight(shape=(6, 4), name="kernel")
        self.head = layers.Dense(3)

    def call(self, x):
        return self.head(ops.relu(ops.matmul(x, self.kernel)))


@pytest.mark.parametrize("is_trained", [True, False])
def test_a_kernel_whose_results_go_through_another_is_kept(is_trained):
    model = Around()
    model.head.trainable = is_trained
    x = np.random.default_rng(0).normal(size=(300, 6)).astype("float32")
    model(x)
    rows = {row.path: (row.status, row.reason) for row in kf.calibrate(model, x).rows}
    assert rows == {
        model.kernel.path: ("kept", "its layer holds others with kernels"),
        model.head.kernel.path: ("scaled", ""),
    }


def test_a_matrix_beside_the_kernel_does_not_keep_it():
    class Biased(layers.Dense):
        def build(self, shape):
            super().build(shape)
            self.table = self.add_weight(shape=(3, 3), name="mixing")

    model = keras.Sequential([keras.Input((8,)), Biased(4)])
    assert [row.status for row in kf.calibrate(model).rows] == ["scaled", "kept"]


def test_what_is_kept_is_as_it_was():
    inputs = keras.Input((8,))
    odd = Normalizing(name="odd")
    model = keras.Model(inputs, layers.Dense(4)(odd(inputs)))
    before = ops.convert_to_numpy(odd.kernel)
    kf.calibrate(model, batch(model, 0))
    np.testing.assert_array_equal(ops.convert_to_numpy(odd.kernel), before)


def test_of_a_model_that_is_not_called_whole():
    model = Subclassed()
    model.left = layers.Dense(3)
    model.left.build((None, 4))
    model(np.zeros((1, 32), "float32"))
    rows = kf.calibrate(model, batch(model, 0)).rows
    assert rows[-1].reason == "its layer was not called"


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_types(policy):
    dense = [layers.Dense(256, "relu", dtype=policy) for _ in range(4)]
    model = keras.Sequential([keras.Input((256,)), *dense])
    x = batch(model, 0)
    kf.calibrate(model, x)
    np.testing.assert_allclose(measured(model, x), 1, rtol=0.02)


def test_frozen_layers_are_scaled():
    model = plain(2)
    model.trainable = False
    x = batch(model, 0)
    assert {row.status for row in kf.calibrate(model, x)} == {"scaled"}


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return (self.x if index == 0 else 0 * self.x), np.zeros(len(self.x))


def test_the_first_batch_of_a_dataset_is_taken():
    model = plain(3)
    x = batch(model, 0)
    expected = measured(model, x)
    assert measured(model, Batches(x)) == expected
    assert measured(model, iter([(x, 0), (0 * x, 0)])) == expected


class Empty(Batches):
    def __init__(self):
        super().__init__(())

    def __len__(self):
        return 0


def test_data_frames_and_nested_lists_are_batches():
    model = plain(2, width=4)
    x = batch(model, 0)
    expected = measured(model, x)
    assert measured(model, x.tolist()) == pytest.approx(expected, rel=1e-6)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(x, columns=list("abcd"))
    assert measured(model, frame) == measured(model, iter([frame])) == expected
    one = plain(2, width=1)
    assert measured(one, frame["a"]) == measured(one, x[:, :1])


def test_an_optional_input_may_be_left_out():
    one, other = keras.Input((4,)), keras.Input((4,), optional=True)

    class Either(layers.Layer):
        def call(self, one, other=None):
            return one if other is None else one + other

        def compute_output_shape(self, one_shape, other_shape=None):
            return one_shape

    model = keras.Model([one, other], layers.Dense(3)(Either()(one, other)))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    assert measured(model, [x, None]) == pytest.approx(measured(model, [x, 0 * x]))
    with pytest.raises(ValueError, match="`x` must be a batch of shape"):
        kf.calibrate(model, [x])


def test_a_dataset_of_tensorflow():
    tf = pytest.importorskip("tensorflow")
    model = plain(2)
    x = batch(model, 0)
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(len(x))
    assert measured(model, data) == pytest.approx(measured(model, x), rel=1e-6)


def test_without_a_batch_one_is_drawn():
    model = residual()
    expected = [row.before for row in kf.calibrate(model, dry_run=True)]
    assert [row.before for row in kf.calibrate(model)] == expected
    assert all(row.status == "scaled" for row in kf.calibrate(model, dry_run=True))


class InterruptError(Exception):
    pass


@pytest.mark.parametrize("where", ["pass", "writing"])
def test_nothing_is_changed_after_an_error(where, monkeypatch):
    model = plain(4)
    x, before = batch(model, 0), arrays(model)
    if where == "pass":

        def failing(*args, **kwargs):
            raise InterruptError

        monkeypatch.setattr(model.layers[2], "call", failing)
    else:
        original, calls = type(model.layers[0].kernel).assign, []

        def assign(self, value):
            if not is_stateless():
                calls.append(self)
                if len(calls) == 4:
                    raise InterruptError
            return original(self, value)

        monkeypatch.setattr(type(model.layers[0].kernel), "assign", assign)
    with pytest.raises(InterruptError):
        kf.calibrate(model, x)
    monkeypatch.undo()
    assert all(np.array_equal(*pair) for pair in zip(arrays(model), before, strict=True))


def test_nothing_is_changed_by_a_dry_run():
    model = residual()
    x, before = batch(model, 0), arrays(model)
    planned = kf.calibrate(model, x, dry_run=True)
    assert all(np.array_equal(*pair) for pair in zip(arrays(model), before, strict=True))
    assert planned.rows == kf.calibrate(model, x).rows
    assert not all(
        np.array_equal(*pair) for pair in zip(arrays(model), before, strict=True)
    )


def test_statistics_of_a_normalization_stay():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(4)(layers.BatchNormalization()(inputs)))
    x = batch(model, 0) + 3
    kf.calibrate(model, x)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.layers[1].moving_mean), 0)


@pytest.fixture(scope="module")
def small():
    return plain(2)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"std": 0}, ValueError, "`std` must be a finite number above 0"),
        ({"std": "1"}, TypeError, "`std` must be a finite number"),
        ({"by": "layers"}, ValueError, "did you mean 'layer'"),
        ({"only": "nothing/*"}, ValueError, "'nothing/*' meets none"),
        ({"x": 3}, TypeError, "`x` must be a batch"),
        ({"x": iter([])}, ValueError, "`x` must be a dataset of one batch or more"),
        ({"x": Empty()}, ValueError, "`x` must be a dataset of one batch or more"),
        ({"x": "word"}, TypeError, "`x` must be a batch"),
        ({"x": ["a", "b"]}, (TypeError, ValueError), "`x` must be"),
        ({"x": np.array([None, "b"])}, (TypeError, ValueError), "`x` must be of numbers"),
        ({"x": []}, ValueError, "`x` must hold a sample or more"),
        ({"x": np.zeros((0, 64))}, ValueError, "`x` must hold a sample or more"),
        ({"x": np.ones((3, 64)) * 1j}, ValueError, "`x` must be of real numbers"),
        ({"x": np.full((3, 64), np.inf)}, ValueError, "`x` must be of finite numbers"),
        ({"x": range(3)}, ValueError, "`x` must be a batch of shape (None, 64)"),
        ({"x": np.ones((3, 5))}, ValueError, "`x` must be a batch of shape (None, 64)"),
        ({"x": [np.ones(64)] * 40}, ValueError, "`x` must be a batch of shape (None, 64)"),
        ({"x": (np.ones((3, 64)), 0)}, ValueError, "`x` must be a batch of shape (None"),
        ({"x": {"a": np.ones((3, 64))}}, ValueError, "`x` must be a batch of shape (None"),
    ],
)
def test_bad_arguments(small, arguments, kind, message):
    with pytest.raises(kind, match="Received: ") as error:
        kf.calibrate(small, **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_models_without_kernels():
    with pytest.raises(ValueError, match="has kernels"):
        kf.calibrate(keras.Sequential([keras.Input((3,)), layers.BatchNormalization()]))
    with pytest.raises(ValueError, match="built"):
        kf.calibrate(keras.Sequential([layers.Dense(3)]))


def counted(cls):
    """A subclass that counts how often its `call` runs."""

    class Counted(cls):
        runs = 0

        def call(self, inputs):
            self.runs += 1
            return super().call(inputs)

    return Counted


@pytest.mark.parametrize("by", ["layer", "unit"])
def test_a_scaled_layer_runs_twice_and_all_others_once(by):
    inputs = keras.Input((8, 8, 4))
    x = counted(layers.SeparableConv2D)(6, 3, activation="relu", name="separable")(inputs)
    x = counted(layers.BatchNormalization)(name="norm")(x)
    x = counted(layers.Conv2D)(6, 3, activation="tanh", name="convolution")(x)
    x = counted(layers.Flatten)(name="flatten")(x)
    x = counted(layers.Dense)(3, kernel_initializer="zeros", name="zero")(x)
    model = keras.Model(inputs, counted(layers.Dense)(3, name="left")(x))
    before = {layer.name: getattr(layer, "runs", 0) for layer in model.layers}
    kf.calibrate(model, batch(model, 0, 64), by=by, only=["[!l]*"])
    runs = {layer.name: layer.runs - before[layer.name] for layer in model.layers[1:]}
    once = {"norm": 1, "flatten": 1, "zero": 1, "left": 1}
    assert runs == {"separable": 2, "convolution": 2, **once}


def test_a_separable_convolution_is_measured_before_its_activation():
    inputs = keras.Input((8, 8, 4))
    separable = layers.SeparableConv2D(16, 3, activation="relu")
    model = keras.Model(inputs, separable(inputs))
    x = batch(model, 0)
    _, pointwise = sorted(kf.calibrate(model, x), key=lambda row: row.path)
    assert (pointwise.status, pointwise.reason) == ("scaled", "")
    separable.activation = keras.activations.linear
    assert ops.convert_to_numpy(separable(x)).std() == pytest.approx(1, rel=1e-3)


class Dropping(layers.Layer):
    """Changes its inputs at random before it multiplies them; and once more with `more`."""

    def __init__(self, more=None):
        super().__init__()
        self.drop, self.more = layers.Dropout(0.5), more

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 8), name="kernel")

    def call(self, x, training=False):
        if training and self.more is not None:
            x = x * self.more(x)
        return ops.matmul(self.drop(x, training=training), self.kernel)


def by_numpy(x):
    return ops.convert_to_tensor(np.random.random(x.shape).astype("float32"))


SOURCES = {
    "Keras's": lambda x: keras.random.normal(x.shape),
    "dropped": lambda x: keras.random.dropout(x, 0.5),
    "NumPy's": by_numpy,
    "Python's": lambda x: random.random(),
}


def generators():
    """The states of all generators that are nobody's own."""
    kept = [state.value for state in seed_generator_state()]
    if keras.backend.backend() == "torch":
        import torch

        kept.append(torch.random.get_rng_state())
    kept = [ops.convert_to_numpy(state).tolist() for state in kept]
    return [*kept, np.random.get_state()[1:3], random.getstate()]


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("source", "is_there"), [*dict.fromkeys(SOURCES, True).items(), ("Keras's", False)]
)
def test_no_generator_of_random_numbers_moves(source, is_there):
    body = [
        layers.Dense(16),
        layers.Dropout(0.5),
        Dropping(SOURCES[source]),
        layers.Dense(4),
    ]
    model = keras.Sequential([keras.Input((8,)), *body])
    x = batch(model, 0, 16)
    keras.utils.clear_session(False)
    if is_there:
        keras.random.normal((2,))
    before = repr(generators())
    planned = kf.calibrate(model, x, dry_run=True).rows
    assert repr(generators()) == before
    assert {row.status for row in planned} == {"scaled"}
    random.random(), np.random.random()
    assert kf.calibrate(model, x, dry_run=True).rows == planned
    assert kf.calibrate(model, x).rows == planned


def test_the_same_units_are_dropped_by_every_run_and_every_call():
    body = [layers.Dense(16), layers.Dropout(0.5), Dropping(), layers.Dense(4)]
    model = keras.Sequential([keras.Input((8,)), *body])
    x = batch(model, 0, 16)
    planned = kf.calibrate(model, x, dry_run=True).rows
    assert {row.status for row in planned} == {"scaled"}
    assert kf.calibrate(model, x, dry_run=True).rows == planned
    assert kf.calibrate(model, x).rows == planned


class Activated(layers.Layer):
    """With an activation at places around its kernel."""

    def __init__(self, *places):
        super().__init__()
        self.places, self.activation, self.runs = places, keras.activations.relu, 0

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 64), name="kernel")

    def call(self, x):
        self.runs += 1
        if "before" in self.places:
            x = self.activation(x)
        y = ops.matmul(x, self.kernel)
        if "after" in self.places:
            y = self.activation(y)
        return ops.concatenate([y, y]) if "not last" in self.places else y


@pytest.mark.parametrize(
    ("places", "runs"),
    [
        (("before",), 3),
        (("after",), 2),
        (("before", "after"), 2),
        (("after", "not last"), 3),
        (("before", "after", "not last"), 3),
    ],
)
def test_what_the_kernel_gives_is_measured_and_not_what_it_takes(places, runs):
    """Also of inputs that have the deviation that is asked for."""
    layer = Activated(*places)
    model = keras.Sequential([keras.Input((64,)), layer])
    x = batch(model, 0)
    layer.runs = 0
    [row] = kf.calibrate(model, x).rows
    assert (row.status, layer.runs) == ("scaled", runs)
    taken = np.maximum(x, 0) if "before" in places else x
    given = taken @ ops.convert_to_numpy(layer.kernel)
    assert given.std() == pytest.approx(1, rel=1e-4)
    assert row.before * row.factor == pytest.approx(1)


class Aside(layers.Layer):
    """A wrapper of one's own that holds the kernel of its layer too."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def build(self, shape):
        self.layer.build(shape)
        self.kernel = self.layer.kernel

    def call(self, x):
        return self.layer(x)


class Wrapping(layers.Wrapper):
    def call(self, x):
        return self.layer(x)


@pytest.mark.parametrize("wrapper", [Aside, Wrapping, layers.TimeDistributed])
def test_a_wrapper_shares_no_kernel_with_its_layer(wrapper):
    inputs = keras.Input((3, 8))
    model = keras.Model(inputs, wrapper(layers.Dense(4))(inputs))
    x = batch(model, 0)
    [row] = kf.calibrate(model, x).rows
    assert (row.status, row.reason) == ("scaled", "")
    # Time steps are calls of their own, of which the first is measured.
    assert ops.convert_to_numpy(model(x)).std() == pytest.approx(1, rel=0.05)


class Borrowing(layers.Layer):
    def __init__(self, lender):
        super().__init__()
        self.lend = lambda: lender.kernel

    def build(self, shape):
        self.kernel = self.lend()

    def call(self, x):
        return ops.matmul(x, self.kernel)


def test_two_layers_with_one_kernel_share_it():
    inputs, lender = keras.Input((8,)), layers.Dense(8)
    model = keras.Model(inputs, Borrowing(lender)(lender(inputs)))
    assert [row.reason for row in kf.calibrate(model)] == ["several layers share it"]


class Unnamed(layers.Layer):
    """Keras gives both weights one name."""

    def build(self, shape):
        self.one = self.add_weight(shape=(shape[-1], 8))
        self.two = self.add_weight(shape=(8, 4))

    def call(self, x):
        return ops.matmul(ops.matmul(x, self.one), self.two)


def test_kernels_of_one_name_are_several():
    model = keras.Sequential([keras.Input((8,)), Unnamed()])
    reasons = [row.reason for row in kf.calibrate(model)]
    assert reasons == ["its layer has several kernels"] * 2


def test_adapted_and_quantized_layers_are_kept_as_such():
    dense, other = layers.Dense(8), layers.Dense(8)
    model = keras.Sequential([keras.Input((8,)), dense, other])
    dense.enable_lora(2)
    other.quantize("int8")
    assert [row.reason for row in kf.calibrate(model)] == ["adapted"] * 3 + ["quantized"]
