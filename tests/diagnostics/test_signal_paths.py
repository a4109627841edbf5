"""`signal` compares what follows each other, knows zeros by choice, and mends what it finds."""

import json
import random

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_fanwise as kf

from support.models import values_of

BACKEND = keras.backend.backend()
HE = "fanwise_he_normal"


def labels(report):
    return [(one.verdict.label, one.direction, one.severity) for one in report.findings]


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)


def heads(zero=""):
    """A trunk, and three heads of two kernels side by side."""
    x = inputs = keras.Input((32,))
    for i in range(3):
        x = layers.Dense(64, "relu", kernel_initializer=HE, name=f"trunk_{i}")(x)
    outputs = []
    for name in ("cls", "box", "obj"):
        hidden = layers.Dense(64, "relu", kernel_initializer=HE, name=f"{name}_0")(x)
        last = "zeros" if name == zero else HE
        outputs.append(layers.Dense(4, kernel_initializer=last, name=f"{name}_1")(hidden))
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("zero", ["cls", "box", "obj"])
def test_heads_side_by_side_are_not_compared(zero):
    """A zero end of one was a dead layer, and the next head was said to vanish after it."""
    report = kf.signal(heads(zero))
    assert labels(report) == []
    assert (report.forward.first, report.forward.last) == ("trunk_0", "cls_0")
    assert report.forward.layers == 3


def test_the_worst_of_several_heads_is_told():
    model = heads()
    for layer in map(model.get_layer, ("box_0", "box_1")):
        layer.kernel.assign(layer.kernel * 1e-5)
    [found] = kf.signal(model).findings
    assert (found.verdict.label, found.path) == ("vanishing", "box_0")
    assert "from trunk_0 to box_0" in found.numbers
    # Gradients come back through the other heads.
    assert (found.direction, found.severity) == ("forward", "warning")


JOINS = {
    "an operator": lambda x, f: x + f,
    "a difference": lambda x, f: x - f,
    "an operation": lambda x, f: ops.add(x, f),
    "a layer": lambda x, f: layers.Add()([x, f]),
    "a layer's difference": lambda x, f: layers.Subtract()([x, f]),
    "a mean": lambda x, f: layers.Average()([x, f]),
    "halves": lambda x, f: 0.5 * (x + f),
    "a constant": lambda x, f: x + 0.1 * f,
    "a gate": lambda x, f: x + ops.sigmoid(x) * f,
    "a function": lambda x, f: x + ops.tanh(f),
}


class Joined(keras.Model):
    def __init__(self, join):
        super().__init__()
        self.join = join
        self.first = [layers.Dense(8, "relu", kernel_initializer=HE) for _ in range(2)]
        self.last = [layers.Dense(8, kernel_initializer="zeros") for _ in range(2)]
        self.head = layers.Dense(2)

    def call(self, x):
        for first, last in zip(self.first, self.last, strict=True):
            x = self.join(x, last(first(x)))
        return self.head(x)


def subclassed(join):
    model = Joined(join)
    model(np.zeros((2, 8), "float32"))
    return model


def functional(join):
    inputs = keras.Input((8,))
    outputs = subclassed(join).call(inputs)
    return keras.Model(inputs, outputs)


@pytest.mark.few(6)
@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
@pytest.mark.parametrize("make", [functional, subclassed])
def test_zeros_at_the_end_of_a_branch(make, join):
    model = make(join)
    assert labels(kf.signal(model)) == []
    # A zero before the end is no choice.
    first = next(one for one in model.layers if getattr(one, "activation", None))
    first.kernel.assign(np.zeros((8, 8)))
    assert ("dead", "forward", "error") in labels(kf.signal(model))


def chain(between=lambda: []):
    body = []
    for _ in range(10):
        body += [layers.Dense(64, kernel_initializer="fanwise_lecun_normal")]
        body += [layers.ReLU(), *between()]
    return keras.Sequential([keras.Input((64,)), *body, layers.Dense(3)])


def test_slopes_give_no_depth():
    random.seed(0)
    plain = kf.signal(chain())
    random.seed(0)
    sloped = kf.signal(chain(lambda: [layers.PReLU("ones")]))
    assert len(sloped.rows) == len(plain.rows) + 10
    for way in ("forward", "backward"):
        one, other = getattr(plain, way), getattr(sloped, way)
        assert (one.layers, other.layers) == (9, 9)
        assert other.rate == pytest.approx(one.rate, rel=1e-3)


# On TensorFlow Keras sends no gradients through float8, but in a tf.function.
QUANTIZED = ["int8", "int4", *["float8"] * (BACKEND != "tensorflow")]


@pytest.mark.few(1)
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a .quantize.")
@pytest.mark.parametrize("mode", QUANTIZED)
def test_a_quantized_model_is_measured(mode):
    def made():
        body = [layers.Dense(32, "relu", kernel_initializer=HE) for _ in range(4)]
        return keras.Sequential([keras.Input((32,)), *body, layers.Dense(3)])

    model, silent = made(), made()
    before = kf.signal(model)
    model.quantize(mode)
    keras.models.clone_model(model)  # whose layers are quantized before they are built
    report = kf.signal(model)
    assert labels(report) == []
    for one, other in zip(before.rows, report.rows, strict=True):
        assert other.std == pytest.approx(one.std, rel=0.3)
        assert other.gradient_std == pytest.approx(one.gradient_std, rel=0.3)
    silent.layers[1].kernel.assign(ops.zeros((32, 32)))
    silent.quantize(mode)
    assert ("dead", "forward", "error") in labels(kf.signal(silent))


class Cell(layers.Layer):
    """One's own."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.state_size = scale, 16

    def build(self, shape):
        own = kf.FanwiseVarianceScaling(self.scale)
        self.w = self.add_weight((shape[-1], 16), "glorot_uniform", name="w")
        self.r = self.add_weight((16, 16), own, name="recurrent")

    def call(self, x, states):
        h = x @ self.w + states[0] @ self.r
        return h, [h]


def scaled(scale):
    return {"recurrent_initializer": kf.FanwiseVarianceScaling(scale)}


RECURRENT = {
    "linear": lambda scale: layers.SimpleRNN(16, None, **scaled(scale)),
    "its gradients": lambda scale: layers.SimpleRNN(
        16, "tanh", return_sequences=True, **scaled(scale)
    ),
    "GRU": lambda scale: layers.GRU(16, None, **scaled(2 * scale)),
    "both ways": lambda scale: layers.Bidirectional(
        layers.SimpleRNN(16, None, **scaled(scale))
    ),
    "own cell": lambda scale: layers.RNN(Cell(scale)),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)
def test_what_explodes_from_step_to_step(make):
    def model(scale):
        body = [make(scale), layers.Dense(3)]
        return keras.Sequential([keras.Input((40, 8)), *body])

    assert labels(kf.signal(model(0.5))) == []
    exploding = model(12.0)
    report = kf.signal(exploding)
    assert ("exploding", "backward") in [one[:2] for one in labels(report)]
    assert all("from step to step" in one.numbers for one in report.findings)
    assert all(
        path.endswith(("recurrent_kernel", "recurrent")) for path in report.remedies()
    )
    kf.initialize(exploding, report.remedies(), seed=0)
    assert labels(kf.signal(exploding)) == []


class Product(layers.Layer):
    """A ReLU inside its call, and no argument for its kernel."""

    def build(self, shape):
        self.kernel = self.add_weight(
            (shape[-1], 64), kf.FanwiseLecunNormal(), name="kernel"
        )

    def call(self, x):
        return ops.relu(x @ self.kernel)


class Stack(keras.Model):
    def __init__(self):
        super().__init__()
        lecun = "fanwise_lecun_normal"
        self.hidden = [
            layers.Dense(64, "relu", kernel_initializer=lecun) for _ in range(20)
        ]
        self.head = layers.Dense(3)

    def call(self, x):
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


def stack():
    model = Stack()
    model(np.zeros((2, 64), "float32"))
    return model


def sequence(shape, make, count):
    body = [layer for _ in range(count) for layer in make()]
    head = [layers.GlobalAveragePooling2D()] if len(shape) == 3 else []
    return keras.Sequential([keras.Input(shape), *body, *head, layers.Dense(2)])


def attention():
    x = inputs = keras.Input((6, 32))
    for _ in range(5):
        small = kf.FanwiseNormal(stddev=0.05)
        x = layers.MultiHeadAttention(2, 16, kernel_initializer=small)(x, x)
    return keras.Model(inputs, layers.Dense(2)(x))


def separable():
    small = {"pointwise_initializer": "random_normal"}
    return [layers.SeparableConv2D(8, 3, padding="same", activation="relu", **small)]


def depthwise():
    wrong = {"depthwise_initializer": "he_normal"}  # counts all channels
    return [
        layers.DepthwiseConv2D(3, padding="same", activation="relu", **wrong),
        layers.Conv2D(16, 1, activation="relu"),
    ]


# What is written there, and what is not.
REMEDIES = {
    "a layer of one's own": (
        lambda: sequence((64,), lambda: [Product()], 20),
        [],
        "_initializer",
    ),
    "a subclassed model": (stack, [f'kernel_initializer="{HE}"'], "depthwise"),
    "attention": (attention, ['kernel_initializer="fanwise_lecun_normal"'], "relu"),
    "depthwise": (
        lambda: sequence((8, 8, 16), depthwise, 6),
        [f'depthwise_initializer="{HE}"', f' kernel_initializer="{HE}"'],
        "lecun",
    ),
    "separable": (
        lambda: sequence((8, 8, 8), separable, 8),
        ['depthwise_initializer="fanwise_lecun_normal"', f'pointwise_initializer="{HE}"'],
        "kernel_initializer",
    ),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("name", REMEDIES)
def test_a_remedy_names_what_the_layer_has_and_helps(name):
    make, written, missing = REMEDIES[name]
    model = make()
    report = kf.signal(model)
    assert {found.verdict.label for found in report.findings} == {"vanishing"}
    for found in report.findings:
        assert all(each in found.remedy for each in written)
        assert missing not in found.remedy
        assert "initialize(model, report.remedies())" in found.remedy
    remedies = report.remedies()
    assert set(remedies) <= {weight.path for weight in model.weights}
    assert json.loads(report.to_json())["findings"][0]["replacements"]
    head = values_of(model.layers[-1].kernel)
    kf.initialize(model, remedies, seed=0)
    assert labels(kf.signal(model)) == []
    np.testing.assert_array_equal(values_of(model.layers[-1].kernel), head)


def test_sigmoids_are_errors():
    """The gradient is × 1e-12; large kernels, as of N(0, 1), bring it back."""

    def deep(kernel):
        body = [layers.Dense(64, "sigmoid", kernel_initializer=kernel) for _ in range(20)]
        return keras.Sequential([keras.Input((64,)), *body, layers.Dense(3)])

    [found] = kf.signal(deep("glorot_uniform")).findings
    assert (found.direction, found.severity) == ("backward", "error")
    assert kf.signal(deep(keras.initializers.RandomNormal(stddev=1.0))).errors == []


def test_an_activation_without_a_gain():
    """It takes two units for each that it gives."""
    if ops.glu(keras.KerasTensor((None, 32))).shape[-1] != 16:
        pytest.skip("this Keras takes glu for one that keeps the shape")
    x = inputs = keras.Input((16,))
    for _ in range(6):
        x = ops.glu(layers.Dense(32, kernel_initializer=kf.FanwiseNormal(stddev=0.01))(x))
    [*_, found] = kf.signal(keras.Model(inputs, x)).findings
    assert "calibrate(model, x)" in found.remedy
    assert not found.replacements
