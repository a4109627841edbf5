"""output_bias: the bias of an output is what is best without inputs."""

import keras
import numpy as np
import pytest
from keras import layers, losses, ops

import keras_fanwise as kf
from keras_fanwise.diagnostics.loss import KINDS

GENERATOR = np.random.default_rng(0)
SAMPLES = 200
SKEWED = GENERATOR.lognormal(size=(SAMPLES, 3)).astype("float32")
LABELS = GENERATOR.choice(3, SAMPLES, p=[0.6, 0.3, 0.1])
IGNORED = np.where(GENERATOR.random(SAMPLES) < 0.2, -1, LABELS)
ONE_HOT = np.eye(3, dtype="float32")[LABELS]
BINARY = (GENERATOR.random((SAMPLES, 3)) < [0.05, 0.4, 0.9]).astype("float32")
SHARES = SKEWED / SKEWED.sum(1, keepdims=True)
WEIGHTS = GENERATOR.choice([0.5, 1.0, 4.0], SAMPLES)

# By an activation, a loss and its targets.
HEADS = [
    ("linear", "mse", SKEWED),
    ("exponential", "mean_squared_error", SKEWED),
    ("linear", losses.MeanAbsoluteError(), SKEWED),
    ("softplus", "mae", SKEWED),
    ("linear", "mape", SKEWED),
    ("relu", "msle", SKEWED),
    ("linear", losses.Huber(delta=0.3), SKEWED),
    ("linear", "log_cosh", SKEWED),
    ("exponential", "poisson", SKEWED),
    ("sigmoid", "binary_crossentropy", BINARY),
    ("linear", losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2), BINARY),
    ("hard_sigmoid", "mse", BINARY),
    ("sigmoid", losses.BinaryFocalCrossentropy(apply_class_balancing=True), BINARY),
    ("linear", losses.BinaryFocalCrossentropy(gamma=1.5, from_logits=True), BINARY),
    ("softmax", "categorical_crossentropy", ONE_HOT),
    ("softmax", "crossentropy", ONE_HOT),
    ("softmax", losses.CategoricalCrossentropy(label_smoothing=0.1), ONE_HOT),
    ("softmax", losses.CategoricalFocalCrossentropy(alpha=[0.2, 0.3, 0.5]), ONE_HOT),
    ("softmax", "sparse_categorical_crossentropy", LABELS),
    ("linear", losses.SparseCategoricalCrossentropy(from_logits=True), LABELS),
    ("softmax", losses.SparseCategoricalCrossentropy(ignore_class=-1), IGNORED),
    ("softmax", "kl_divergence", SHARES),
    ("tanh", "squared_hinge", BINARY),
    ("linear", "hinge", BINARY),
    ("linear", "categorical_hinge", ONE_HOT),
]
if hasattr(losses, "CategoricalGeneralizedCrossEntropy"):
    HEADS.append(("softmax", losses.CategoricalGeneralizedCrossEntropy(q=0.3), LABELS))


def compiled(activation, loss, units=3, **options):
    inputs = keras.Input((4,))
    head = layers.Dense(
        units, activation, kernel_initializer="zeros", name="head", **options
    )
    model = keras.Model(inputs, head(inputs))
    model.compile(loss=loss)
    return model


def loss_of(model, y, bias, weights=None):
    """Of what the model gives with a bias, as Keras computes it for a batch."""
    model.layers[-1].bias.assign(bias)
    x = np.zeros((len(y), 4), "float32")
    found = model.compute_loss(x, ops.convert_to_tensor(y), model(x), weights)
    return float(ops.convert_to_numpy(found))


def is_best(model, y, bias, weights=None):
    """Whether no other constant prediction has a smaller loss: steps of several sizes."""
    least = loss_of(model, y, bias, weights)
    units = len(bias)
    steps = [
        size * sign * np.eye(units)[i]
        for size in (0.03, 1)
        for sign in (-1, 1)
        for i in range(units)
    ]
    tolerance = 2e-6 * max(1, abs(least))
    return all(
        loss_of(model, y, bias + step, weights) >= least - tolerance for step in steps
    )


@pytest.mark.few(13)
@pytest.mark.parametrize("number", range(len(HEADS)))
def test_the_best_constant_of_each_loss(number):
    activation, loss, y = HEADS[number]
    weights = WEIGHTS if number % 2 else None
    model = compiled(activation, loss)
    (row,) = kf.output_bias(model, y, sample_weight=weights).rows
    bias = ops.convert_to_numpy(model.layers[-1].bias)
    assert (row.path, row.status) == ("head/bias", "set")
    assert row.loss_after == pytest.approx(loss_of(model, y, bias, weights), rel=1e-5)
    assert (
        row.loss_after
        <= row.loss_before
        == pytest.approx(loss_of(model, y, 0 * bias, weights), rel=1e-5)
    )
    assert is_best(model, y, bias, weights)
    assert not is_best(model, y, bias + np.array([0.1, 0, 0]), weights)


def test_every_known_constant_is_tried():
    tried = {
        kf.output_bias(compiled(a, b), y, dry_run=True).rows[0].loss for a, b, y in HEADS
    }
    assert tried >= {n for n, kind in KINDS.items() if kind.constant and hasattr(losses, n)}


def test_several_outputs_weights_and_shapes():
    """A sequence of classes, an image channels-first, and one that is put in another shape."""
    steps = keras.Input((None, 4), name="steps")
    words = layers.TimeDistributed(layers.Dense(3, "softmax", name="inner"), name="words")(
        steps
    )
    pooled = layers.GlobalAveragePooling1D()(steps)
    flat = layers.Dense(6, name="flat")(pooled)
    grid = layers.Reshape((3, 2), name="grid")(layers.LeakyReLU()(flat))
    model = keras.Model(steps, {"words": words, "grid": grid})
    model.compile(
        loss={"words": "sparse_categorical_crossentropy", "grid": "mse"},
        loss_weights={"words": 1.0, "grid": 0.1},
    )
    labels = LABELS.reshape(20, 10)
    grids = GENERATOR.normal(size=(20, 3, 2))
    kept = np.ones(20)
    kept[10:] = 0
    report = kf.output_bias(
        model, {"words": labels, "grid": grids}, sample_weight={"words": kept, "grid": kept}
    )
    shares = np.bincount(labels[:10].ravel(), minlength=3) / 100
    means = grids[:10].mean(0).ravel()
    values = {row.output: row for row in report.rows}
    inner = next(w for w in model.weights if w.path == values["words"].path)
    np.testing.assert_allclose(ops.convert_to_numpy(inner), np.log(shares), rtol=1e-5)
    bias = ops.convert_to_numpy(model.get_layer("flat").bias)
    np.testing.assert_allclose(bias, np.where(means < 0, means / 0.3, means), rtol=1e-4)
    assert "2 set, 0 kept" in report.text()


def test_units_on_the_first_axis():
    image = keras.Input((2, 5, 5))
    conv = layers.Conv2D(3, 1, data_format="channels_first", name="conv")
    model = keras.Model(image, conv(image))
    model.compile(loss="mse")
    y = GENERATOR.normal(size=(7, 3, 5, 5))
    kf.output_bias(model, y)
    bias = ops.convert_to_numpy(model.get_layer("conv").bias)
    np.testing.assert_allclose(bias, y.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)


class Own(keras.Model):
    """With a bias of its own, added by an operator."""

    def __init__(self):
        super().__init__()
        self.body = layers.Dense(8, "relu")

    def build(self, shape):
        self.body.build(shape)
        self.kernel = self.add_weight(shape=(8, 2), name="kernel")
        self.offset = self.add_weight(shape=(2,), initializer="zeros", name="offset_bias")
        self.built = True

    def call(self, x):
        return ops.sigmoid(ops.matmul(self.body(x), self.kernel) + self.offset)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_model_of_ones_own(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = Own()
        model(np.zeros((1, 4), "float32"))
    finally:
        keras.config.set_dtype_policy(before)
    model.compile(keras.optimizers.Adam(), loss="binary_crossentropy")
    (row,) = kf.output_bias(model, BINARY[:, :2]).rows
    shares = BINARY[:, :2].mean(0)
    expected = np.log(shares / (1 - shares))
    np.testing.assert_allclose(ops.convert_to_numpy(model.offset), expected, rtol=1e-4)
    assert row.path.endswith("offset_bias")


def test_a_class_that_never_comes_gets_half_a_sample():
    model = compiled("softmax", "sparse_categorical_crossentropy")
    kf.output_bias(model, np.zeros(100, int))
    values = np.exp(ops.convert_to_numpy(model.layers[-1].bias))
    np.testing.assert_allclose(values, np.array([100, 0.5, 0.5]) / 101, rtol=1e-5)


def test_nothing_is_written_by_a_dry_run_or_beside_only():
    inputs = keras.Input((4,))
    heads = [layers.Dense(2, name=name)(inputs) for name in "ab"]
    model = keras.Model(inputs, heads)
    model.compile(loss=["mse", lambda y, p: ops.mean(ops.abs(y - p), axis=-1)])
    y = [SKEWED[:, :2], SKEWED[:, :2]]
    before = model.get_weights()
    kf.output_bias(model, y, only="a/*", dry_run=True)
    assert all(map(np.array_equal, before, model.get_weights()))
    with pytest.raises(ValueError, match="no best constant is known, 'lambda'"):
        kf.output_bias(model, y)
    assert all(map(np.array_equal, before, model.get_weights()))
    rows = kf.output_bias(model, y, only="a/*").rows
    assert [row.status for row in rows] == ["set", "kept"]
    changed = [
        not np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True)
    ]
    assert changed == [False, True, False, False]


def test_training_begins_at_the_loss_of_the_base_rates():
    model = compiled("sigmoid", "binary_crossentropy", units=1)
    y = (np.arange(1000) % 50 == 0).astype("float32")
    row = kf.output_bias(model, y).rows[0]
    model.compile(keras.optimizers.SGD(1e-9), "binary_crossentropy", run_eagerly=True)
    history = model.fit(np.zeros((1000, 4)), y, batch_size=1000, epochs=1, verbose=0)
    entropy = -(0.02 * np.log(0.02) + 0.98 * np.log(0.98))
    assert history.history["loss"][0] == pytest.approx(entropy, rel=1e-4)
    assert row.loss_after == pytest.approx(entropy, rel=1e-4)


WRONG = [
    ("linear", "cosine_similarity", SKEWED, {}, "no best constant is known"),
    ("softmax", "mse", SKEWED, {}, "which softmax cannot give"),
    ("sigmoid", "mae", SKEWED * 9, {}, "which sigmoid cannot give"),
    ("linear", "mse", SKEWED, {"use_bias": False}, "has no bias at its end: head"),
    ("softmax", "sparse_categorical_crossentropy", LABELS + 1, {}, "1 to 3, not 0 to 2"),
    ("softplus", "poisson", SKEWED - 2, {}, "not 0 or above"),
    ("linear", "mse", SKEWED + np.nan, {}, "not finite"),
]


@pytest.mark.parametrize(("activation", "loss", "y", "options", "message"), WRONG)
def test_what_cannot_be_set_is_an_error(activation, loss, y, options, message):
    model = compiled(activation, loss, **options)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        kf.output_bias(model, y)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_bad_models():
    inputs = keras.Input((4,))
    dense = layers.Dense(2, name="shared")
    with pytest.raises(TypeError, match="model"):
        kf.output_bias("model", SKEWED)
    with pytest.raises(ValueError, match="compiled with a loss"):
        kf.output_bias(keras.Model(inputs, dense(inputs)), SKEWED)
    with pytest.raises(ValueError, match="built"):
        kf.output_bias(keras.Sequential([layers.Dense(2)]), SKEWED)
    model = keras.Model(inputs, [dense(inputs), dense(inputs * 2)])
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="share no bias"):
        kf.output_bias(model, [SKEWED[:, :2]] * 2)
