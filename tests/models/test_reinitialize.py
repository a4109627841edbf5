"""`reinitialize`: new values for what is random, a new model's for what is not."""

import warnings

import keras
import numpy as np
import pytest
from scipy import stats

import keras_fanwise as kf

from support.models import (
    MODELS,
    SEEDS_ALL,
    ByHand,
    arrays,
    equal,
    sequential,
    values_by_path,
    values_of,
)
from support.processes import (
    fewer_by_default,
    needs,
    run_python,
)
from support.statistics_checks import (
    KURTOSIS,
    check_distribution,
    check_moments,
    truncated_normal_cdf,
)

layers = keras.layers


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def make(request):
    return request.param


@pytest.mark.few(5)
def test_what_is_random_changes_and_the_rest_is_a_new_models(make):
    model = make()
    original = arrays(model)
    # What two new models do not share is random.
    random = np.logical_not(equal(original, arrays(make())))
    assert random.any()
    for weight in model.weights:
        weight.assign(weight + 1)

    report = kf.reinitialize(model, seed=1)
    first = arrays(model)
    kf.reinitialize(model, seed=2)
    second = arrays(model)
    kf.reinitialize(model, seed=1)

    assert {row.status for row in report.rows} == {"set"}
    assert all(equal(first, arrays(model)))
    for one, two in ((original, first), (original, second), (first, second)):
        assert np.array_equal(equal(one, two), ~random)
    assert all(
        np.all(np.isfinite(values.astype(float))) and values.shape == weight.shape
        for values, weight in zip(first, model.weights, strict=True)
    )


def test_the_well_known_snippet_restores_the_old_values():
    """The fault that `reinitialize` is there to avoid."""
    model = sequential()
    original = arrays(model)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.assign(layer.kernel_initializer(layer.kernel.shape))
    assert all(equal(original, arrays(model)))


@pytest.mark.few(5)
def test_every_weight_stands_in_the_report_once(make):
    model = make()
    report = kf.reinitialize(model)
    assert [row.path for row in report.rows] == [weight.path for weight in model.weights]
    for row, values in zip(report.rows, arrays(model), strict=True):
        assert row.shape == values.shape
        assert row.std == pytest.approx(values.astype(float).std(), rel=1e-6, abs=1e-12)


APPLICATIONS = {
    "MobileNetV2": {"alpha": 0.35},
    "EfficientNetB0": {},
    "VGG16": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications(name):
    with kf.retrofit():  # for the time that it saves
        build = getattr(keras.applications, name)
        model = build(
            weights=None, include_top=False, input_shape=(32, 32, 3), **APPLICATIONS[name]
        )
    original = arrays(model)
    report = kf.reinitialize(model, seed=1)
    # The input statistics of EfficientNet are adapted to data.
    kept = {row.path for row in report.rows if row.status == "kept"}
    assert kept == {row.path for row in report.rows if row.layer == "Normalization"}
    random = [row.std_asked is not None for row in report.rows]
    assert sum(random) >= 13
    assert np.array_equal(equal(original, arrays(model)), np.logical_not(random))
    # A planted fault: the last kernel is as it was before.
    forgotten = max(np.flatnonzero(random))
    model.weights[forgotten].assign(original[forgotten])
    assert not np.array_equal(equal(original, arrays(model)), np.logical_not(random))


initializers = keras.initializers
DISTRIBUTIONS = {
    "he_normal": (initializers.HeNormal, {}, truncated_normal_cdf((2 / 256) ** 0.5)),
    "glorot_uniform": (
        initializers.GlorotUniform,
        {},
        stats.uniform(-((6 / 768) ** 0.5), 2 * (6 / 768) ** 0.5).cdf,
    ),
    "variance_scaling": (
        initializers.VarianceScaling,
        {"scale": 0.5, "mode": "fan_out", "distribution": "untruncated_normal"},
        stats.norm(0, (0.5 / 512) ** 0.5).cdf,
    ),
    "random_normal": (
        initializers.RandomNormal,
        {"mean": 0.5, "stddev": 0.1},
        stats.norm(0.5, 0.1).cdf,
    ),
    "truncated_normal": (
        initializers.TruncatedNormal,
        {"mean": -0.5, "stddev": 0.1},
        stats.truncnorm(-2, 2, -0.5, 0.1).cdf,
    ),
    "random_uniform": (
        initializers.RandomUniform,
        {"minval": 1.0, "maxval": 3.0},
        stats.uniform(1, 2).cdf,
    ),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_built_ins_draw_from_their_own_distributions(name):
    cls, arguments, cdf = DISTRIBUTIONS[name]
    layer = layers.Dense(512, kernel_initializer=cls(seed=3, **arguments))
    layer.build((None, 256))
    # The oracle is right about the built-in itself.
    check_distribution(keras.ops.convert_to_numpy(layer.kernel), cdf)
    report = kf.reinitialize(layer, seed=1)
    values = keras.ops.convert_to_numpy(layer.kernel)
    check_distribution(values, cdf)
    assert report.rows[0].std_asked == pytest.approx(float(values.std()), rel=0.02)
    assert report.rows[0].initializer == cls.__name__
    with pytest.raises(AssertionError):  # a planted fault
        check_distribution(values * 1.05, cdf)


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12), (3, 4, 20)])
def test_orthogonal(shape):
    class Layer(layers.Layer):
        def build(self, _):
            self.w = self.add_weight(
                shape=shape, initializer=initializers.Orthogonal(gain=2.0, seed=1)
            )

    layer = Layer()
    layer.build(None)
    report = kf.reinitialize(layer, seed=1)
    matrix = np.asarray(keras.ops.convert_to_numpy(layer.w), np.float64).reshape(
        -1, shape[-1]
    )
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    np.testing.assert_allclose(matrix.T @ matrix, 4 * np.eye(matrix.shape[1]), atol=2e-6)
    assert report.rows[0].std_asked == pytest.approx(np.sqrt(np.mean(matrix**2)), rel=1e-6)


@pytest.mark.slow
def test_orthogonal_matrices_are_uniform_over_the_group():
    """The trace of a uniform orthogonal n × n matrix has mean 0 and variance 1."""
    layer = layers.SimpleRNNCell(6)
    layer.build((None, 2))
    traces = []
    for seed in range(400):
        kf.reinitialize(layer, seed=seed, only="*recurrent_kernel")
        traces.append(np.trace(keras.ops.convert_to_numpy(layer.recurrent_kernel)))
    check_moments(np.array(traces), 0.0, 1.0, KURTOSIS["untruncated_normal"])
    # QR without the signs is not uniform: LAPACK's reflections prefer a negative trace.
    normal = np.random.default_rng(0).standard_normal((400, 6, 6))
    traces = np.trace(np.linalg.qr(normal).Q, axis1=1, axis2=2)
    with pytest.raises(AssertionError):
        check_moments(traces, 0.0, 1.0, KURTOSIS["untruncated_normal"])


def test_own_initializers_keep_their_fans():
    layer = layers.DepthwiseConv2D(3, depthwise_initializer=kf.FanwiseHeUniform(seed=1))
    layer.build((None, 8, 8, 4000))
    report = kf.reinitialize(layer, seed=1)
    assert report.rows[0].std_asked == pytest.approx((2 / 9) ** 0.5)
    assert report.rows[0].std == pytest.approx((2 / 9) ** 0.5, rel=0.02)


def test_equal_layers_start_differently():
    model = keras.Sequential([keras.Input((8,)), *(layers.Dense(8) for _ in range(3))])
    kf.reinitialize(model, seed=1)
    kernels = arrays(model)[::2]
    assert not any(equal([kernels[0], kernels[1]], [kernels[1], kernels[2]]))


DATA = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
LABELS = np.arange(64) % 3


def compiled(optimizer, **options):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(6, "relu"),
            layers.BatchNormalization(),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(), loss, **options)
    return model


def eager():
    """TensorFlow takes longer to trace a short fit than to run it."""
    run_eagerly = keras.backend.backend() == "tensorflow"
    return compiled(OPTIMIZERS["adam"], run_eagerly=run_eagerly)


def fit(model):
    history = model.fit(DATA, LABELS, epochs=2, batch_size=16, shuffle=False, verbose=0)
    return history.history["loss"]


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True),
    "schedule": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.1)
    ),
}


def several(cls):
    ones = {"kernel": cls(0.01), "bias": keras.optimizers.SGD(0.1, momentum=0.9)}
    return keras.optimizers.MultiOptimizer(lambda weight: ones[weight.name])


# What can be put around an optimizer, or asked of it.
WAYS = {
    "plain": lambda cls: cls(0.01),
    "average": lambda cls: cls(0.01, use_ema=True),
    "accumulation": lambda cls: cls(0.01, gradient_accumulation_steps=2),
    "both": lambda cls: cls(0.01, use_ema=True, gradient_accumulation_steps=2),
    "schedule": lambda cls: cls(keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.1)),
    "scaled": lambda cls: keras.optimizers.LossScaleOptimizer(cls(0.01)),
    "scaled average": lambda cls: keras.optimizers.LossScaleOptimizer(
        cls(0.01, use_ema=True)
    ),
}
if hasattr(keras.optimizers, "MultiOptimizer"):  # from Keras 3.14 on
    WAYS["several"] = several


def every_optimizer():
    """The classes of Keras's optimizers."""
    module = keras.optimizers
    wrappers = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
    return [
        cls
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, module.Optimizer)
        if name not in wrappers
    ]


def state_of(optimizer):
    """All variables that it holds, listed or not, but those that are settings."""
    found = {}

    def look(holder):
        for name, value in sorted(vars(holder).items()):
            if "learning_rate" in name or name == "_trainable_variables":
                continue
            for each in keras.tree.flatten(value):
                if isinstance(each, keras.optimizers.Optimizer):
                    look(each)
                elif isinstance(each, keras.Variable) and "learning_rate" not in each.path:
                    found.setdefault(id(each), each)

    look(optimizer)
    return list(found.values())


@pytest.mark.parametrize("way", fewer_by_default(WAYS, "both", "scaled"))
def test_the_state_of_an_optimizer_is_that_of_a_new_one(way):
    """One built on the new weights, of which some optimizers keep copies."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    wrong = {}
    for seed, cls in enumerate(every_optimizer()):
        used, new = WAYS[way](cls), WAYS[way](cls)
        model.compile(used, "mse")
        used.build(model.trainable_variables)
        for variable in state_of(used):
            variable.assign(variable.value + keras.ops.ones_like(variable.value))
        spoilt = list(map(values_of, state_of(used)))
        kf.reinitialize(model, seed=seed)
        new.build(model.trainable_variables)
        states = [list(map(values_of, state_of(each))) for each in (used, new)]
        assert not any(equal(spoilt, states[1]))  # what the test would see
        if not all(equal(*states)):
            wrong[cls.__name__] = equal(*states)
    assert len(every_optimizer()) > 10
    assert not wrong


@pytest.mark.parametrize(
    "optimizer", fewer_by_default(["momentum", "schedule"], "momentum")
)
def test_a_trained_model_trains_again_like_a_new_one(optimizer):
    optimizer = OPTIMIZERS[optimizer]
    used = compiled(optimizer, jit_compile=False)
    fit(used)
    kf.reinitialize(used, seed=3)
    new = compiled(optimizer, jit_compile=False)
    kf.reinitialize(new, seed=3)
    assert fit(used) == fit(new)
    assert all(equal(arrays(used), arrays(new)))


def test_the_state_of_the_optimizer_can_be_kept():
    used, new = eager(), eager()
    fit(used)
    steps = int(used.optimizer.iterations)
    for model in (used, new):
        kf.reinitialize(model, seed=3, reset_optimizer=False)
    assert int(used.optimizer.iterations) == steps > 0
    assert fit(used) != fit(new)


def test_layers_frozen_after_the_first_training():
    model = eager()
    fit(model)
    model.layers[0].trainable = False
    before = arrays(model)
    kf.reinitialize(model, seed=3)
    assert not equal(before, arrays(model))[0]
    assert int(model.optimizer.iterations) == 0


def test_nothing_is_traced_again():
    traces = []

    class Counter(layers.Layer):
        def call(self, x):
            traces.append(x)
            return x

    model = keras.Sequential([keras.Input((8,)), layers.Dense(3), Counter()])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if keras.backend.backend() == "torch":
        pytest.skip("torch runs eagerly: there are no traces to count")
    fit(model)
    count = len(traces)
    kf.reinitialize(model, seed=1)
    fit(model)
    assert len(traces) == count
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model)
    assert len(traces) > count  # what the test would have seen


def test_a_model_from_a_file(tmp_path):
    model = MODELS["convolutional"]()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", {"ByHand": ByHand})
    kf.reinitialize(loaded, seed=4)
    kf.reinitialize(model, seed=4)
    assert all(equal(arrays(model), arrays(loaded)))


@pytest.mark.slow
def test_a_model_from_before_the_import(tmp_path):
    code = """
import keras, numpy as np
inputs = keras.Input((5, 6))
x = keras.layers.MultiHeadAttention(2, 3)(inputs, inputs)
x = keras.layers.LSTM(4)(x)
model = keras.Model(inputs, keras.layers.Dense(4, kernel_initializer="he_uniform")(x))
before = [np.array(w) for w in map(keras.ops.convert_to_numpy, model.weights)]
import keras_fanwise
report = keras_fanwise.reinitialize(model, seed=1)
after = map(keras.ops.convert_to_numpy, model.weights)
changed = [not np.array_equal(a, b) for a, b in zip(before, after)]
print([row.initializer for row, new in zip(report.rows, changed) if new])
"""
    drawn = ["GlorotUniform"] * 5 + ["Orthogonal", "HeUniform"]
    assert run_python(code).splitlines()[-1] == str(drawn)


def test_only():
    model = sequential()
    names = {layer.name for layer in model.layers if layer.weights}
    last = model.layers[-1].name
    for only in (f"{last}/*", [f"*{last}/kernel", f"*{last}/bias"], f"*/{last}/*"):
        before = arrays(model)
        report = kf.reinitialize(model, only=only)
        assert equal(before, arrays(model)) == [True, True, False, True]
        kept = [row for row in report.rows if row.status == "kept"]
        assert [row.reason for row in kept] == ["not in `only`"] * 2
        assert all(last not in row.path for row in kept)
    assert len(names) == 2


def test_bad_arguments_change_nothing():
    model = sequential()
    before = arrays(model)
    with pytest.raises(ValueError, match=r"`only` .*'head/\*' meets none.*Received: only="):
        kf.reinitialize(model, only=["*kernel", "head/*"])
    for only in (3, [], [3], b"x"):
        with pytest.raises(TypeError, match=r"`only` must be a glob"):
            kf.reinitialize(model, only=only)
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="`seed` must be"):
            kf.reinitialize(model, seed=seed)
    for seed in (True, 1.5, "1"):
        with pytest.raises(TypeError, match="`seed` must be"):
            kf.reinitialize(model, seed=seed)
    with pytest.raises(TypeError, match="`model` must be a Keras model or layer"):
        kf.reinitialize([model])
    with pytest.raises(ValueError, match="`model` must be built"):
        kf.reinitialize(keras.Sequential([layers.Dense(3)]))
    assert all(equal(before, arrays(model)))


def test_weights_of_unknown_initializers_are_kept_and_said():
    class Direct(layers.Layer):
        def build(self, shape):
            self.made = keras.Variable(np.ones(3, "float32"), name="made")
            self.added = self.add_weight(
                shape=(3,), initializer="random_normal", name="added"
            )

    layer = Direct(name="direct")
    layer.build((None, 3))
    with pytest.warns(UserWarning, match="initializer is unknown: .*made") as caught:
        report = kf.reinitialize(layer, seed=1)
    assert caught[0].filename == __file__
    by_name = {row.path.split("/")[-1]: row for row in report.rows}
    assert (by_name["made"].status, by_name["added"].status) == ("kept", "set")
    assert by_name["made"].reason == "its initializer is unknown"
    assert np.array_equal(keras.ops.convert_to_numpy(layer.made), np.ones(3))


def test_adapted_and_quantized_layers_are_kept():
    normalization = layers.Normalization()
    normalization.adapt(DATA)
    dense = layers.Dense(16)
    model = keras.Sequential([keras.Input((8,)), normalization, dense, layers.Dense(3)])
    dense.quantize("int8")
    before = arrays(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        report = kf.reinitialize(model, seed=1)
    reasons = {row.reason for row in report.rows if row.status == "kept"}
    assert reasons == {"adapted to data", "quantized"}
    changed = [
        row.path
        for row, same in zip(report.rows, equal(before, arrays(model)), strict=True)
        if not same
    ]
    assert changed == [model.layers[-1].kernel.path]


def test_without_a_seed():
    model = sequential()
    keras.utils.set_random_seed(1)
    first = kf.reinitialize(model)
    one = arrays(model)
    second = kf.reinitialize(model)
    assert first.seed != second.seed
    keras.utils.set_random_seed(1)
    kf.reinitialize(model)
    assert all(equal(one, arrays(model)))
    kf.reinitialize(model, seed=first.seed)
    assert all(equal(one, arrays(model)))


def test_dry_run():
    model = eager()
    fit(model)
    before, steps = arrays(model), int(model.optimizer.iterations)
    plan = kf.reinitialize(model, seed=1, dry_run=True)
    assert all(equal(before, arrays(model)))
    assert int(model.optimizer.iterations) == steps
    report = kf.reinitialize(model, seed=1)
    assert plan.rows == [row._replace(std=None) for row in report.rows]


@keras.saving.register_keras_serializable("test_reinitialize")
class PlainNumber(keras.initializers.Initializer):
    """Gives a number of Python, as that of the logit scale of keras-hub's CLIP."""

    def __call__(self, shape, dtype=None):
        return 2.5


def test_initializers_that_give_a_number_of_python():
    class Scale(layers.Layer):
        def build(self, shape):
            options = {"shape": (), "trainable": True}
            self.one = self.add_weight(initializer=PlainNumber(), name="one", **options)
            self.two = self.add_weight(
                initializer=lambda shape, dtype=None: 1.5, name="two", **options
            )

        def call(self, x):
            return x * self.one * self.two

    model = keras.Sequential([keras.Input((3,)), Scale()])
    for weight in model.weights:
        weight.assign(9.0)
    kf.reinitialize(model, seed=0)
    assert [float(values) for values in arrays(model)] == [2.5, 1.5]


class Bank(layers.Layer):
    """Assigns to its weights, and to those of a layer inside it, when it is built."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.inner = layers.Dense(3, name="inner")

    def build(self, shape):
        self.inner.build(shape)
        self.inner.kernel.assign(np.eye(3, dtype="float32"))
        options = {"shape": (3,), "initializer": "zeros"}
        self.places = self.add_weight(**options, dtype="int32", trainable=False, name="at")
        self.places.assign(keras.ops.arange(3))
        self.mean = self.add_weight(**options, trainable=False, name="mean")
        self.doubled = self.add_weight(**options, name="doubled")
        self.source = self.add_weight((3,), "random_normal", name="source")
        self.doubled.assign(2 * self.source)

    def call(self, x):
        return self.inner(x) + self.mean + self.doubled


class Closed(Bank):
    """One of which no other can be made."""

    def __init__(self, table):
        super().__init__()


def test_what_a_layer_assigned_when_it_was_built_is_kept():
    model = keras.Sequential([keras.Input((3,)), Bank(name="bank"), layers.Dense(3)])
    bank = model.layers[0]
    bank.mean.assign([1.0, 2.0, 3.0])  # as a training does
    before = values_by_path(model)
    with pytest.warns(UserWarning, match="its layer gave it these values .*: [^:]*kernel"):
        report = kf.reinitialize(model, seed=1)
    kept = {row.path for row in report.rows if row.status == "kept"}
    assert kept == {w.path for w in (bank.inner.kernel, bank.places, bank.doubled)}
    for path, values in values_by_path(model).items():
        stays = path in kept or path.endswith("bias")
        assert np.array_equal(values, before[path]) == stays
    assert not np.any(values_of(bank.mean))
    plan = kf.initialize(model, "he", seed=1, dry_run=True)
    assert next(r for r in plan.rows if r.path.endswith("inner/kernel")).status == "kept"
    # Who names a weight knows better.
    kf.initialize(model, kf.Rule("he_normal", path="*inner/kernel"), seed=1)
    assert not np.array_equal(values_of(bank.inner.kernel), np.eye(3))


def test_what_a_layer_that_cannot_be_made_again_may_have_assigned():
    bank = Closed(object())
    bank.build((None, 3))
    with pytest.warns(UserWarning, match="its layer may have given it .*at$"):
        report = kf.reinitialize(bank, seed=1)
    kept = [row.path.rpartition("/")[2] for row in report.rows if row.status == "kept"]
    assert kept == ["at"]
    assert np.array_equal(values_of(bank.places), np.arange(3))


def steps(shape, dtype=None):
    values = np.arange(np.prod(shape)).reshape(shape)
    return keras.ops.convert_to_tensor(values, dtype)


@pytest.mark.parametrize("filler", [keras.initializers.Constant(np.eye(3)), steps])
def test_values_that_no_seed_changes_are_told_of(filler):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(3, kernel_initializer=filler, use_bias=False)]
    )
    before = arrays(model)
    model.set_weights([before[0] + 1])
    with pytest.warns(UserWarning, match="same values with every seed: .*kernel"):
        report = kf.reinitialize(model, seed=1)
    assert report.rows[0].reason == "its initializer gives the same values with every seed"
    assert equal(before, arrays(model)) == [True]  # as in a new model


@needs("jax")
def test_the_values_of_a_jax_layer_are_told_of():
    """They are drawn outside Keras, by a seed that nobody knows."""
    import jax

    layer = layers.JaxLayer(
        lambda params, inputs: inputs @ params,
        lambda rng, inputs: jax.random.normal(rng, (3, 4)),
    )
    layer.build((None, 3))
    before = arrays(layer)
    with pytest.warns(UserWarning, match="same values with every seed"):
        report = kf.reinitialize(layer, seed=1)
    assert report.rows[0].status == "kept"
    assert not report.unsaved
    assert equal(before, arrays(layer)) == [True]


def test_constants_of_layers_of_ones_own_are_for_no_recipe():
    class States(layers.Layer):
        def build(self, shape):
            self.decay = self.add_weight((3, 3), steps, name="decay_kernel")
            self.kernel = self.add_weight((3, 3), name="kernel")

        def call(self, x):
            return x @ self.kernel @ self.decay

    model = keras.Sequential([keras.Input((3,)), States()])
    rows = kf.initialize(model, "he", seed=0).rows
    assert [row.status for row in rows] == ["kept", "set"]
    assert [row.status for row in kf.initialize(model, kf.Rule("ones"), seed=0).rows] == [
        "set",
        "set",
    ]


def test_functions_draw_by_the_seed():
    """From whatever source they draw, which goes on as if they had not."""
    sources = {
        "numpy": lambda shape, dtype=None: np.random.normal(size=shape).astype(dtype),
        "keras": lambda shape, dtype=None: keras.random.normal(shape, dtype=dtype),
    }
    for name, source in sources.items():
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(3, "relu", False, source)]
        )
        keras.utils.set_random_seed(0)
        kernels = []
        for seed in (1, 2, 1):
            kf.reinitialize(model, seed=seed)
            kernels.append(values_of(model.weights[0]))
        assert not np.array_equal(kernels[0], kernels[1])
        assert np.array_equal(kernels[0], kernels[2])
        after = source((3,), "float32")
        keras.utils.set_random_seed(0)
        again = source((3,), "float32")
        is_seeded = SEEDS_ALL or name == "numpy"
        assert np.array_equal(values_of(after), values_of(again)) or not is_seeded


def test_the_learning_rate_is_kept_or_set():
    model = eager()
    model.optimizer.learning_rate = 1e-7  # as ReduceLROnPlateau leaves it
    report = kf.reinitialize(model, seed=1)
    assert report.kept_learning_rate == pytest.approx(1e-7)
    assert "the optimizer keeps its learning rate, 1e-07" in str(report)
    report = kf.reinitialize(model, seed=1, learning_rate=0.25)
    assert float(model.optimizer.learning_rate) == 0.25
    assert report.kept_learning_rate is None
    scaled = compiled(
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5))
    )
    kf.reinitialize(scaled, seed=1, learning_rate=0.25)
    assert float(scaled.optimizer.inner_optimizer.learning_rate) == 0.25
    before = arrays(model)
    for other in (sequential(), compiled(OPTIMIZERS["schedule"])):
        with pytest.raises(ValueError, match="`learning_rate` must be None without"):
            kf.reinitialize(other, learning_rate=0.1)
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="`learning_rate` must be"):
            kf.reinitialize(model, learning_rate=wrong)
    with pytest.raises(TypeError, match="`learning_rate` must be"):
        kf.reinitialize(model, learning_rate="fast")
    assert all(equal(before, arrays(model)))
