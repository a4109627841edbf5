"""Signals through models: closed forms, a second route, kinds of models, nothing changed."""

import math
import random

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.reports.diagnosis import Verdict
from keras_fanwise.sampling.sampler import Stream, stream_key

from support.models import MODELS, relu_network
from support.processes import (
    fewer_by_default,
    needs,
)

# An LSTM of Keras 3.16, behind an embedding with a mask.
pytestmark = pytest.mark.filterwarnings("ignore:Layer 'lstm.*does not support masking")

layers = keras.layers
BACKEND = keras.backend.backend()
DEEP, WIDTH = 30, 512


def labels(report):
    return [(finding.verdict.label, finding.direction) for finding in report.findings]


CLOSED_FORMS = {
    "he": ("fanwise_he_normal", 1.0, []),
    "lecun": ("fanwise_lecun_normal", 0.5, ["vanishing"]),
    "scale 4": (kf.FanwiseVarianceScaling(4.0, "fan_in"), 2.0, ["exploding"]),
}


@pytest.mark.parametrize("case", fewer_by_default(CLOSED_FORMS, "lecun"))
def test_closed_forms_of_relu_networks(case):
    """Each layer multiplies the second moment by half the scale: He et al. 2015."""
    initializer, factor, verdicts = CLOSED_FORMS[case]
    keras.utils.set_random_seed(1)
    report = kf.signal(relu_network(initializer, DEEP, WIDTH))
    assert len(report.rows) == DEEP
    forward = np.array([row.std**2 + row.mean**2 for row in report.rows])
    backward = np.array([row.gradient_std**2 for row in report.rows])[::-1]
    layer = np.arange(DEEP)
    # Of independent layers of this width the logarithm has a variance of 5 / width each
    # (Hanin and Rolnick 2018); of the first, which is compared with, as well.
    errors = np.sqrt(5 * (layer + 1) / WIDTH)
    for moments in (forward, backward):
        deviation = np.log(moments / moments[0]) - layer * math.log(factor)
        assert np.all(np.abs(deviation) < 4 * errors)
    assert labels(report) == [(v, way) for v in verdicts for way in ("forward", "backward")]
    for trend in (report.forward, report.backward):
        assert trend.layers == DEEP - 2
        error = math.sqrt(5 / WIDTH / (DEEP / 2))
        assert abs(math.log(trend.rate**2 / factor)) < 4 * error
        assert trend.total == pytest.approx(trend.rate**trend.layers)
    for finding in report.findings:
        trend = getattr(report, finding.direction)
        assert f"× {trend.rate:.3g} per layer" in finding.numbers
        assert finding.path.startswith("net/body_")


def test_the_closed_form_has_teeth():
    """A scale that is 1.3 times as large is found."""
    initializer = kf.FanwiseVarianceScaling(2 * 1.3, "fan_in")
    keras.utils.set_random_seed(1)
    rows = kf.signal(relu_network(initializer, DEEP, WIDTH)).rows
    moments = np.array([row.std**2 + row.mean**2 for row in rows])
    assert abs(math.log(moments[-1] / moments[0])) > 4 * math.sqrt(5 * DEEP / WIDTH)


def test_the_same_by_hand():
    """Every number against NumPy's own forward and backward pass."""
    keras.utils.set_random_seed(0)
    network = relu_network("fanwise_he_normal", 4, 24, [layers.Dense(5, name="head")])
    x = np.random.default_rng(0).standard_normal((16, 24)).astype("float32")
    report = kf.signal(network, x)
    kernels = [keras.ops.convert_to_numpy(w.value) for w in network.weights[::2]]
    outputs = [x.astype("float64")]
    for kernel in kernels[:-1]:
        outputs.append(np.maximum(outputs[-1] @ kernel, 0))
    outputs.append(outputs[-1] @ kernels[-1])
    gradient = Stream(stream_key(0, "cotangent 0")).draw("untruncated_normal", (16, 5))
    arriving = [gradient.astype("float64")]
    passed = arriving[0]  # the head has no ReLU
    for kernel, output in zip(kernels[:0:-1], outputs[-2:0:-1], strict=True):
        arriving.append(passed @ kernel.T)
        passed = arriving[-1] * (output > 0)
    for row, output, gradient in zip(report.rows, outputs[1:], arriving[::-1], strict=True):
        assert row.shape == output.shape
        assert row.mean == pytest.approx(output.mean(), rel=1e-3, abs=1e-6)
        assert row.std == pytest.approx(output.std(), rel=1e-5)
        assert row.dead == np.mean(np.all(output == 0, axis=0))
        assert row.gradient_std == pytest.approx(gradient.std(), rel=1e-5)


class Branching(keras.Model):
    """Two outputs, a shared layer, weights made when it is called."""

    def __init__(self):
        super().__init__(name="branching")
        self.shared = layers.Dense(8, "tanh")
        self.norm = layers.BatchNormalization()
        self.drop = layers.Dropout(0.5)

    def call(self, x):
        once = self.shared(x)
        return {"once": once, "twice": self.drop(self.norm(self.shared(once)))}


def branching():
    model = Branching()
    model(np.zeros((2, 8), "float32"))
    return model


def several_inputs():
    image = keras.Input((8, 8, 3), name="image")
    words = keras.Input((5,), dtype="int32", name="words")
    flags = keras.Input((4,), dtype="bool", name="flags")
    parts = [
        layers.Flatten()(layers.Conv2D(4, 3)(image)),
        layers.GlobalAveragePooling1D()(layers.Embedding(7, 6)(words)),
        layers.Rescaling(1.0)(flags),
    ]
    return keras.Model(
        {"image": image, "words": words, "flags": flags},
        layers.Dense(3)(layers.Concatenate()(parts)),
    )


def float_indices():
    return keras.Sequential(
        [keras.Input((6,)), layers.Embedding(9, 8, mask_zero=True), layers.LSTM(4)]
    )


def states():
    inputs = keras.Input((5, 3))
    _, state, cell = layers.LSTM(4, return_state=True, return_sequences=True)(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([state, cell])))


def stateful():
    inputs = keras.Input(batch_shape=(6, 5, 3))
    return keras.Model(inputs, layers.GRU(4, stateful=True)(inputs))


def open_sizes():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3)(inputs)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def frozen():
    model = MODELS["nested"]()
    model.trainable = False
    return model


def transformer():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 8)(inputs)
    attended = layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x, use_causal_mask=True)
    x = layers.LayerNormalization()(layers.Add()([x, attended]))
    return keras.Model(inputs, layers.Dense(11)(x))


KINDS = MODELS | {
    make.__name__: make
    for make in (
        branching, several_inputs, float_indices, states, stateful, open_sizes, frozen,
        transformer,
    )
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    keras.utils.set_random_seed(0)
    return KINDS[request.param]()


def state(model):
    """All that a call could change: variables, generators, what the layers do."""
    variables = [keras.ops.convert_to_numpy(v.value).tobytes() for v in model.variables]
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        variables += [keras.ops.convert_to_numpy(v).tobytes() for v in optimizer.variables]
    replaced = ["call" in vars(layer) for layer in model._flatten_layers()]
    generators = [random.getstate(), np.random.get_state()[1].tobytes()]
    if BACKEND == "torch":
        import torch

        generators.append(torch.random.get_rng_state().numpy().tobytes())
        generators += [parameter.grad for parameter in model.parameters()]
    return variables, replaced, generators


@pytest.mark.few(7)
def test_every_kind_of_model(kind):
    before = state(kind)
    report = kf.signal(kind)
    assert state(kind) == before
    assert not any(before[1])
    assert len(report.rows) >= 1
    for row in report.rows:
        assert math.isfinite(row.mean)
        assert row.std > 0
        assert row.gradient_std is None or math.isfinite(row.gradient_std)
    assert [row.gradient_std for row in report.rows][-1] > 0
    assert str(report) == str(kf.signal(kind))


def test_training_is_not_disturbed():
    """Trains after a signal as without: Dropout, BatchNormalization, the optimizer."""
    x, y = np.ones((32, 8), "float32"), np.zeros((32, 3), "float32")

    def trained(measured):
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [
                keras.Input((8,)),
                layers.Dense(6, "relu"),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.SpectralNormalization(layers.Dense(3)),
            ]
        )
        model.compile("adam", "mse", run_eagerly=BACKEND == "tensorflow")
        for _ in range(2):
            if measured:
                kf.signal(model)
            model.fit(x, y, verbose=0)
        return [keras.ops.convert_to_numpy(w.value).tobytes() for w in model.variables]

    assert trained(True) == trained(False)


class Breaking(layers.Layer):
    """Stops forward, or on the way back."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def call(self, x):
        if self.where == "forward":
            raise RuntimeError("broken")
        if BACKEND == "jax":
            import jax

            def broken(_, g):
                raise RuntimeError("broken")

            passed = jax.custom_vjp(lambda x: x)
            passed.defvjp(lambda x: (x, None), broken)
            return passed(x)
        if BACKEND == "torch":
            import torch

            class Passed(torch.autograd.Function):
                @staticmethod
                def forward(context, x):
                    return x.clone()

                @staticmethod
                def backward(context, g):
                    raise RuntimeError("broken")

            return Passed.apply(x)
        import tensorflow as tf

        def broken(g):
            raise RuntimeError("broken")

        return tf.custom_gradient(lambda x: (tf.identity(x), broken))(x)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_nothing_is_changed_after_an_error(where):
    breaking = Breaking("backward")
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5),
         breaking, layers.Dense(2)]
    )  # fmt: skip
    breaking.where = where
    before = state(model)
    with pytest.raises(RuntimeError, match="broken"):
        kf.signal(model)
    assert state(model) == before
    assert not any(before[1])


def test_rows_of_shared_layers_and_several_outputs():
    model = branching()
    report = kf.signal(model)
    names = [(row.layer, row.call, row.depth) for row in report.rows]
    assert names == [
        ("Dense", 1, 1), ("Dense", 2, 2), ("BatchNormalization", 1, 2), ("Dropout", 1, 2)
    ]  # fmt: skip
    assert "(2)" in report.rows[1].name
    rows = {row.layer: row for row in kf.signal(states()).rows}
    # The sequence is not used: no gradient comes there, and it counts for nothing.
    assert rows["LSTM"].gradient_std == pytest.approx(rows["Concatenate"].gradient_std)


def test_gradients_add_up_where_a_tensor_is_used_twice():
    inputs = keras.Input((64,))
    x = layers.Dense(64, name="start")(inputs)
    model = keras.Model(inputs, layers.Add()([layers.Activation("linear")(x), x]))
    rows = {row.layer: row for row in kf.signal(model).rows}
    assert rows["Dense"].gradient_std == pytest.approx(2 * rows["Add"].gradient_std)
    assert rows["Activation"].gradient_std == pytest.approx(rows["Add"].gradient_std)


def test_no_gradient_where_none_comes():
    inputs = keras.Input((8,))
    x = layers.Dense(8)(inputs)
    stopped = layers.Lambda(keras.ops.stop_gradient)(x)
    report = kf.signal(keras.Model(inputs, layers.Dense(3)(stopped)))
    assert report.rows[0].gradient_std in (None, 0.0)
    assert report.rows[-1].gradient_std > 0


def test_dropout_and_normalization_as_in_training():
    x = np.random.default_rng(0).normal(3.0, 5.0, (512, 64)).astype("float32")
    model = keras.Sequential(
        [keras.Input((64,)), layers.BatchNormalization(), layers.Dropout(0.75)]
    )
    norm, drop = kf.signal(model, x).rows
    assert norm.std == pytest.approx(1.0, rel=1e-3)
    # A quarter stays, four times as large. 5 standard errors of a variance of kurtosis 12.
    assert drop.std**2 == pytest.approx(4.0, rel=5 * math.sqrt(11 / x.size))


def planted(kind):
    """A model in which `dense_3` does something to the signal."""
    model = relu_network("fanwise_he_normal", 8, 64, [layers.Dense(3, name="head")])
    middle = model.layers[3]
    if kind == "dead":
        middle.bias.assign(middle.bias - 100.0)
    elif kind == "nearly dead":
        middle.bias.assign([-100.0] * 60 + [0.0] * 4)
    elif kind == "infinite":
        middle.kernel.assign(middle.kernel * np.inf)
    elif kind == "too large":
        middle.kernel.assign(middle.kernel * 1e30)
    elif kind == "too small":
        middle.kernel.assign(middle.kernel * 1e-6)
    return model


PLANTED = {
    "nothing": [],
    "dead": [("dead", "forward")],
    "nearly dead": [("dead", "forward")],
    "infinite": [("non-finite", "forward")],
    "too large": [("exploding", "forward"), ("exploding", "backward")],
    "too small": [("vanishing", "forward"), ("vanishing", "backward")],
}


@pytest.mark.few(3)
@pytest.mark.parametrize("kind", PLANTED)
def test_planted_faults_are_named(kind):
    keras.utils.set_random_seed(0)
    report = kf.signal(planted(kind))
    assert labels(report) == PLANTED[kind]
    if report.findings:
        assert report.findings[0].path == "net/body_3"
        # Lines are wrapped.
        assert report.findings[0].remedy in " ".join(str(report).split())


def test_the_names_of_one_model_are_of_one_form():
    """Keras puts the name of a model before those of layers that have weights alone."""
    inner = [layers.Dense(8), layers.ReLU(name="relu"), layers.Dropout(0.1, name="drop")]
    model = keras.Sequential([keras.Input((8,)), *inner], name="net")
    assert [layer.path for layer in inner[1:]] != ["net/relu", "net/drop"]  # Keras's own
    paths = [row.path for row in kf.signal(model).rows]
    assert paths == [f"net/{layer.name}" for layer in inner]
    inputs = keras.Input((8,))
    outer = keras.Model(inputs, layers.Activation("tanh", name="end")(model(inputs)))
    assert [row.path for row in kf.signal(outer).rows] == [*paths, "end"]


def test_a_gradient_that_is_not_finite():
    """The square root has an infinite slope at 0."""
    root = layers.Lambda(keras.ops.sqrt)
    zero = layers.Rescaling(0.0, name="zero")
    model = keras.Sequential([keras.Input((16,)), zero, root, layers.Dense(3)], name="net")
    report = kf.signal(model)
    assert ("non-finite", "backward") in labels(report)
    assert report.findings[0].path == "net/zero"
    assert Verdict.NON_FINITE in report.rows[0].verdicts


@pytest.mark.slow
def test_half_of_the_units_may_be_silent_by_chance():
    """All samples equal: a ReLU is silent for all of them, or for none."""
    quiet = 0
    for seed in range(30):
        keras.utils.set_random_seed(seed)
        report = kf.signal(
            relu_network("fanwise_he_normal", 3, 24), np.ones((8, 24), "float32")
        )
        quiet += bool(report.findings)
    # False alarms are one in a thousand; two of thirty would be 1 in 2,300.
    assert quiet <= 1


def test_half_precision_is_measured_without_overflow():
    model = keras.Sequential(
        [
            keras.Input((8,), dtype="float16"),
            layers.Rescaling(30000.0, dtype="float16"),
            layers.Rescaling(1e-7, dtype="float32"),
        ]
    )
    x = np.array([[1.0, -1.0] * 4] * 4, "float16")
    large, small = kf.signal(model, x).rows
    assert large.std == pytest.approx(30000)  # whose square float16 does not hold
    assert small.std == pytest.approx(0.003, rel=1e-5)


def test_tiny_signals_are_measured():
    model = keras.Sequential([keras.Input((8,)), layers.Rescaling(1e-30)])
    [row] = kf.signal(model, np.array([[1.0, -1.0] * 4] * 4, "float32")).rows
    assert row.std == pytest.approx(1e-30, rel=1e-5)  # whose square float32 does not hold


def test_a_layer_alone():
    layer = layers.Dense(4, kernel_initializer="fanwise_he_normal")
    layer.build((None, 8))
    [row] = kf.signal(layer).rows
    assert row.shape == (32, 4)
    assert row.depth == 1


@pytest.mark.slow
def test_networks_of_keras_applications():
    """The one that normalizes is well, the one whose depth made its authors pretrain it is
    not: Simonyan and Zisserman 2014, section 3.1."""
    keras.utils.set_random_seed(0)
    small = {"weights": None, "include_top": False, "input_shape": (64, 64, 3)}
    assert labels(kf.signal(keras.applications.MobileNetV2(alpha=0.35, **small))) == []
    vanishing = labels(kf.signal(keras.applications.VGG16(**small)))
    assert ("vanishing", "backward") in vanishing


def test_large_inputs_take_fewer_samples():
    model = keras.Sequential([keras.Input((300, 300, 3)), layers.GlobalAveragePooling2D()])
    layer = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    assert kf.signal(keras.Sequential([model, layer])).rows[0].shape[0] == 3


def unbuilt():
    return keras.Sequential([layers.Dense(2)])


def silent():
    class Silent(keras.Model):
        def call(self, x, y=None):
            return x

    model = Silent()
    model.built = True
    return model


BAD = {
    "no model": (lambda: "model", TypeError, "`model` must be a Keras model or layer"),
    "not built": (unbuilt, ValueError, "`model` must be built"),
    "nothing said of its inputs": (silent, ValueError, "`x` must be given"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        kf.signal(make())


@pytest.mark.parametrize("function", [kf.signal, kf.calibrate])
def test_a_batch_without_a_signal_is_no_fault_of_the_model(function):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    for empty in (np.ones((0, 4), "float32"), []):
        with pytest.raises(ValueError, match="`x` must hold a sample or more"):
            function(model, empty)
    zeros = np.zeros((3, 4), "float32")
    with pytest.raises(ValueError, match="`x` must hold other numbers than 0"):
        function(model, zeros)
    zeros[1, 2] = 1e-3
    function(model, zeros)


@pytest.mark.parametrize("function", [kf.signal, kf.calibrate])
def test_zeros_that_are_indices_or_one_input_of_two_are_a_signal(function):
    function(
        keras.Sequential(
            [keras.Input((4,), dtype="int32"), layers.Embedding(3, 8), layers.Dense(2)]
        ),
        np.zeros((3, 4), "int32"),
    )
    inputs = [keras.Input((4,)), keras.Input((4,))]
    both = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(inputs)))
    function(both, [np.zeros((3, 4), "float32"), np.eye(3, 4, dtype="float32")])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("function", [kf.signal, kf.calibrate])
def test_a_batch_that_is_not_finite_is_no_fault_of_the_model(function, value):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    x = np.ones((3, 4), "float32")
    function(model, x)
    x[1, 2] = value
    with pytest.raises(ValueError, match="`x` must be of finite numbers"):
        function(model, x)


def test_code_that_is_compiled_is_passed_over():
    """Layers called within it are not seen; the others are."""
    inner = layers.Dense(8)
    inner.build((None, 8))

    class Compiled(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner, self.head = inner, layers.Dense(2)

        def call(self, x):
            return self.head(compiled(self.inner)(x))

    def compiled(function):
        if BACKEND == "jax":
            import jax

            return jax.checkpoint(function)
        if BACKEND == "tensorflow":
            import tensorflow as tf

            return tf.function(function)
        return function

    model = Compiled()
    model(np.zeros((2, 8), "float32"))
    rows = kf.signal(model).rows
    assert len(rows) == 1 + (BACKEND == "torch")
    assert rows[-1].gradient_std > 0


def softmax_of(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_gradient_of_the_compiled_loss():
    """That of a cross-entropy, the mean over the samples, by hand."""
    keras.utils.set_random_seed(0)
    network = relu_network("fanwise_he_normal", 2, 24, [layers.Dense(5, name="head")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("sgd", loss, metrics=["accuracy"])
    generator = np.random.default_rng(0)
    x = generator.standard_normal((16, 24)).astype("float32")
    y = generator.integers(5, size=16)
    report = kf.signal(network, x, y)
    logits = keras.ops.convert_to_numpy(network(x)).astype("float64")
    arriving = (softmax_of(logits) - np.eye(5)[y]) / 16
    assert report.rows[-1].gradient_std == pytest.approx(arriving.std(), rel=1e-4)
    head = keras.ops.convert_to_numpy(network.layers[-1].kernel)
    gradient = arriving @ head.T
    assert report.rows[-2].gradient_std == pytest.approx(gradient.std(), rel=1e-4)
    # Another y, and the random gradient, give other numbers.
    for other in (kf.signal(network, x, (y + 1) % 5), kf.signal(network, x)):
        assert abs(other.rows[-1].gradient_std / arriving.std() - 1) > 1e-3


def test_the_loss_is_left_as_it_was():
    """Before and after a first step of training, of a model with two outputs."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = layers.Dense(8, "relu")(inputs)
    outputs = {"a": layers.Dense(1)(x), "b": layers.Dense(2)(x)}

    def trained(measured):
        keras.utils.set_random_seed(0)
        model = keras.models.clone_model(keras.Model(inputs, outputs))
        model.compile(
            "sgd",
            {"a": "mse", "b": "mae"},
            {"a": 2.0, "b": 1.0},
            run_eagerly=BACKEND == "tensorflow",
        )
        data = np.ones((6, 4), "float32"), {"a": np.ones((6, 1)), "b": np.ones((6, 2))}
        history = []
        for _ in range(2):
            if measured:
                before = state(model), len(model.variables), len(model.metrics)
                assert math.isfinite(kf.signal(model, *data).rows[0].gradient_std)
                assert (state(model), len(model.variables), len(model.metrics)) == before
            history.append(model.fit(*data, verbose=0).history)
        return history

    assert trained(True) == trained(False)


def test_losses_that_a_model_computes_itself():
    class Squares(keras.Sequential):
        def compute_loss(self, x, y, y_pred, *args, **kwargs):
            return 3.0 * keras.ops.sum(y_pred * y)

    model = Squares([keras.Input((4,)), layers.Dense(2)])
    model.compile("sgd", "mse")
    y = np.arange(10.0, dtype="float32").reshape(5, 2)
    [row] = kf.signal(model, np.ones((5, 4), "float32"), y).rows
    assert row.gradient_std == pytest.approx(3 * y.std(), rel=1e-5)


def test_y_of_what_has_no_loss():
    x, y = np.ones((2, 4), "float32"), np.ones((2, 3), "float32")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="`model` must be compiled with a loss"):
        kf.signal(model, x, y)
    with pytest.raises(ValueError, match="`model` must be compiled with a loss"):
        kf.signal(model.layers[0], x, y)
    model.compile("sgd")
    with pytest.raises(ValueError, match="`model` must be compiled with a loss"):
        kf.signal(model, x, y)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="`x` must be given with `y`"):
        kf.signal(model, y=y)


@needs("tensorflow")  # which warns of its functions
def test_no_function_is_traced_again_and_again(caplog):
    """Of many shapes, types and layers, in one process as in a notebook."""
    for width in range(3, 15):
        policy = ("float32", "mixed_bfloat16", "float16")[width % 3]
        body = [layers.Dense(width + i, dtype=policy) for i in range(3)]
        model = keras.Sequential([keras.Input((width,)), *body])
        kf.signal(model)
        kf.audit(model)
    assert "retracing" not in caplog.text

    import tensorflow as tf

    for width in range(12):  # what it would say
        tf.function(tf.identity)(tf.zeros(width))
    assert "retracing" in caplog.text
