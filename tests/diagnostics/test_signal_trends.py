"""What `signal` says of a trend: by its own rows, with limits and remedies that hold."""

import contextlib
import inspect
import math
import random
import re
import sys

import keras
import pytest

import keras_fanwise as kf
from keras_fanwise import FanwiseVarianceScaling, gain
from keras_fanwise.diagnostics import paths, verdicts
from keras_fanwise.reports.diagnosis import trend_text

from support.models import relu_network
from support.processes import fewer_by_default

layers = keras.layers
DIRECTIONS = ("forward", "backward")


def labels(report):
    return [(finding.verdict.label, finding.direction) for finding in report.findings]


def std_of(row, direction):
    return row.std if direction == "forward" else row.gradient_std


def embedding_beside_numbers():
    word, numbers = keras.Input((), dtype="int32"), keras.Input((8,))
    both = layers.Concatenate()([layers.Embedding(100, 8, name="words")(word), numbers])
    hidden = layers.Dense(32, "relu", name="hidden")(both)
    return keras.Model([word, numbers], layers.Dense(1, name="head")(hidden))


def test_an_embedding_beside_numbers():
    """Said to grow "× 109 per layer" once, over half a layer."""
    random.seed(0)
    report = kf.signal(embedding_beside_numbers())
    rows = {row.path: row for row in report.rows}
    shown = rows["hidden"].std / rows["words"].std
    assert (report.forward.rate, report.backward.rate) == (None, None)
    assert (report.forward.first, report.forward.last) == ("words", "hidden")
    assert report.forward.total == pytest.approx(shown)
    assert f"× {shown:.2g} from words to hidden" in str(report)
    assert "per layer" not in str(report)
    assert report.findings == []


@pytest.mark.parametrize(
    ("total", "level"),
    [
        (5e-5, "error"),
        (2e-4, "warning"),
        (0.02, ""),
        (50.0, ""),
        (200.0, "warning"),
        (1e3, "error"),
    ],
)
def test_how_much_a_total_weighs(total, level):
    """The limits, and a chain of linear layers that reaches each."""
    assert paths.level_of(total) == level
    step = keras.initializers.OrthogonalInitializer(total ** (1 / 4), seed=1)
    dense = [layers.Dense(32, kernel_initializer=step) for _ in range(6)]
    report = kf.signal(keras.Sequential([keras.Input((32,)), *dense]))
    # Of the signal it is none where gradients come back, and here they do not, either.
    assert [finding.severity for finding in report.findings] == 2 * [level] * bool(level)
    assert [report.errors, report.warnings] == [
        [f for f in report.findings if f.severity == one] for one in ("error", "warning")
    ]


def initializer(some):
    scale = some.choice([0.2, 1.0, 2.0, 2.0, 2.0, 6.0])
    return FanwiseVarianceScaling(scale, "fan_in", seed=some.randrange(1000))


def plain(some, x):
    width, act = some.choice([4, 16, 64]), some.choice(["relu", "tanh", "gelu", None])
    for _ in range(some.randint(1, 12)):
        x = layers.Dense(width, act, kernel_initializer=initializer(some))(x)
    return x


def residual(some, x):
    width, normalized = x.shape[-1], some.random() < 0.5
    last = some.choice(["zeros", initializer(some)])
    for _ in range(some.randint(1, 6)):
        y = layers.BatchNormalization()(x) if normalized else x
        y = layers.Dense(width, "relu", kernel_initializer=initializer(some))(y)
        x = layers.Add()([x, layers.Dense(width, kernel_initializer=last)(y)])
    return x


def branches(some, x):
    parts = [plain(some, x) for _ in range(some.randint(2, 4))]
    return layers.Concatenate()(parts)


def words(some):
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(30, 8)(inputs)
    if some.random() < 0.5:
        return inputs, layers.GRU(8)(layers.GRU(8, return_sequences=True)(x))
    return inputs, layers.Flatten()(x)


def images(some):
    inputs = x = keras.Input((8, 8, 3))
    for _ in range(some.randint(1, 7)):
        x = layers.Conv2D(8, 3, padding="same", kernel_initializer=initializer(some))(x)
        x = layers.ReLU()(layers.BatchNormalization()(x) if some.random() < 0.4 else x)
    end = some.choice([layers.Flatten, layers.GlobalAveragePooling2D])
    return inputs, end()(x)


def numbers(some):
    inputs = keras.Input((8,))
    return inputs, inputs


def architecture(seed):
    some = random.Random(seed)
    random.seed(seed)
    inputs, x = some.choice([words, images, numbers, numbers])(some)
    for _ in range(some.randint(0, 2)):
        x = some.choice([plain, plain, residual, branches])(some, x)
    return keras.Model(inputs, layers.Dense(2)(x))


def check_against_rows(report):
    """Every number that is said of a trend, by the rows at its ends."""
    rows = {row.name: row for row in report.rows}
    said = str(report)
    assert "over 1 layers" not in said
    for direction in DIRECTIONS:
        trend = getattr(report, direction)
        if trend is None:
            continue
        ends = rows[trend.first], rows[trend.last]
        first, last = (std_of(row, direction) for row in ends)
        # Those of branches beside the path are not counted.
        assert abs(ends[1].depth - ends[0].depth) >= trend.layers >= 1
        assert trend.total == pytest.approx(last / first, rel=1e-9)
        per_layer = re.search(r"× (\S+) per layer, × (\S+) over (\d+)", trend_text(trend))
        assert bool(per_layer) == (trend.rate is not None)
        if not per_layer:
            continue
        rate, total, over = map(float, per_layer.groups())
        assert over >= 4
        assert total == pytest.approx(last / first, rel=0.06)
        # Whichever rows of the two depths one looks at.
        for one in report.rows:
            for two in report.rows:
                if (one.depth, two.depth) == (ends[0].depth, ends[1].depth):
                    stds = std_of(one, direction), std_of(two, direction)
                    if all(stds):
                        shown = (stds[1] / stds[0]) ** (1 / over)
                        assert 1 / 1.51 < rate / shown < 1.51


def check_limits(report):
    """A row is beyond a limit if and only if there is such a finding."""
    for direction in DIRECTIONS:
        trend = getattr(report, direction)
        if trend is None:
            continue
        stds = [std for row in report.rows if (std := std_of(row, direction))]
        found = {label for label, way in labels(report) if way == direction}
        assert any(std < trend.low for std in stds) == ("vanishing" in found)
        assert any(std > trend.high for std in stds) == ("exploding" in found)


@pytest.fixture(scope="module")
def reports():
    return [kf.signal(architecture(seed)) for seed in range(120)]


@pytest.mark.slow
def test_what_is_said_is_what_the_rows_show(reports):
    for report in reports:
        check_against_rows(report)
    trends = [getattr(report, way) for report in reports for way in DIRECTIONS]
    rates = [trend.rate is not None for trend in trends if trend]
    assert 30 < sum(rates) < len(rates) - 30  # of each kind there are some


@pytest.mark.slow
def test_limits_are_those_of_the_verdicts(reports):
    for report in reports:
        check_limits(report)
    found = {finding for report in reports for finding in labels(report)}
    assert found >= {(v, way) for v in ("vanishing", "exploding") for way in DIRECTIONS}


@pytest.mark.slow
def test_another_rate_or_limit_would_be_noticed(reports):
    report = next(r for r in reports if r.forward and r.forward.rate and not r.findings)
    report = kf.SignalReport(report.rows, report.forward, None, findings=report.findings)
    trend = report.forward
    for change, check in (
        ({"rate": trend.rate * 1.6}, check_against_rows),
        ({"rate": trend.rate / 1.6}, check_against_rows),
        ({"total": trend.total * 1.2}, check_against_rows),
        ({"layers": trend.layers + 1}, check_against_rows),
        ({"low": trend.level * 2}, check_limits),
        ({"high": trend.level / 2}, check_limits),
    ):
        report.forward = trend._replace(**change)
        with pytest.raises(AssertionError):
            check(report)


def deep(activation, kernel_initializer, between=lambda: [], depth=20):
    random.seed(0)
    body = [
        layer
        for _ in range(depth)
        for layer in (
            layers.Dense(128, activation, kernel_initializer=kernel_initializer),
            *between(),
        )
    ]
    return keras.Sequential([keras.Input((128,)), *body, layers.Dense(3)])


ACTIVATIONS = ["relu", "tanh", "gelu", "silu", "elu", "selu", "leaky_relu", "linear"]


@pytest.mark.parametrize("activation", fewer_by_default(ACTIVATIONS, "relu", "gelu"))
@pytest.mark.parametrize("scale", fewer_by_default([0.1, 50.0], 0.1))
def test_the_gain_is_named_and_helps(activation, scale):
    report = kf.signal(deep(activation, FanwiseVarianceScaling(scale, "fan_in")))
    assert report.findings
    [remedy] = {finding.remedy for finding in report.findings}
    assert activation in remedy
    written = re.search(r"kernel_initializer=(\".*?\"|.* \*\* 2\))", remedy)[1]
    assert labels(kf.signal(deep(activation, eval(written)))) == []


def test_no_gain_helps_what_is_flat():
    """A sigmoid loses the gradient at any scale that it keeps its values at."""
    for scale in (1.0, gain("sigmoid") ** 2):
        report = kf.signal(deep("sigmoid", FanwiseVarianceScaling(scale, "fan_in")))
        assert labels(report) == [("vanishing", "backward")]
        assert "normalization after the layers with sigmoid" in report.findings[0].remedy
    normalized = deep(
        "sigmoid", "fanwise_lecun_normal", lambda: [layers.LayerNormalization()]
    )
    assert labels(kf.signal(normalized)) == []


def residual_network(last, norm=False, blocks=20):
    random.seed(0)
    inputs = x = keras.Input((64,))
    for _ in range(blocks):
        y = layers.Dense(64, "relu", kernel_initializer="fanwise_he_normal")(x)
        y = layers.Dense(64, kernel_initializer=last)(y)
        y = layers.BatchNormalization(gamma_initializer="zeros")(y) if norm else y
        x = layers.Add()([x, layers.Dropout(0.1)(y)])
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.slow
def test_additions_that_explode():
    report = kf.signal(residual_network("fanwise_he_normal"))
    assert labels(report) == [("exploding", way) for way in DIRECTIONS]
    for found in report.findings:
        assert "20 residual branches" in found.remedy
        assert 'initialize(model, recipe, residual="depth")' in found.remedy
        assert "gain" not in found.remedy
    # It helps.
    model = residual_network("fanwise_he_normal")
    for residual in ("depth", "zero"):
        kf.initialize(model, "he", seed=0, residual=residual)
        assert not kf.signal(model).findings


def halved(x):
    return 0.5 * keras.ops.tanh(x)


def test_an_activation_that_is_not_keras_s():
    model = deep(halved, "fanwise_lecun_normal")
    [found, *_] = kf.signal(model).findings
    assert "calibrate(model, x)" in found.remedy
    assert "gain(halved)" in found.remedy
    given = kf.FanwiseVarianceScaling(kf.gain(halved) ** 2)
    kf.initialize(model, given, seed=0)
    assert not kf.signal(model).findings
    kf.initialize(model, "lecun", seed=0)
    kf.calibrate(model)
    assert not kf.signal(model).findings


class LayerScale(layers.Layer):
    """As of ConvNeXt: branches begin at a millionth, and so do the gradients in them."""

    def build(self, shape):
        self.gamma = self.add_weight((shape[-1],), "ones", name="gamma")

    def call(self, x):
        return x * self.gamma * 1e-6


def test_a_model_that_ends_with_a_branch(monkeypatch):
    """The gradient within it is not where that of the model comes from."""
    random.seed(0)
    inputs = keras.Input((64,))
    x = layers.Dense(64, name="stem")(inputs)
    for _ in range(8):
        y = layers.Dense(64, "relu", kernel_initializer="fanwise_he_normal")(x)
        x = x + LayerScale()(layers.Dense(64)(y))
    model = keras.Model(inputs, x)
    report = kf.signal(model)
    assert labels(report) == []
    check_against_rows(report)
    assert 0.1 < report.backward.total < 10
    monkeypatch.setattr(verdicts, "_BRANCH", 0)
    assert labels(kf.signal(model)) != []


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "model",
    [
        lambda: residual_network("zeros", blocks=6),
        lambda: residual_network("fanwise_he_normal", norm=True, blocks=6),
        lambda: relu_network(
            "fanwise_he_normal", 8, 64, [layers.Dense(3, kernel_initializer="zeros")]
        ),
    ],
    ids=["last kernels", "gammas", "head"],
)
def test_zeros_by_choice_are_no_findings(model, monkeypatch):
    assert labels(kf.signal(model())) == []
    monkeypatch.setattr(
        verdicts.Wired, "chosen_zeros", lambda wired: [False] * len(wired.rows)
    )
    assert ("dead", "forward") in labels(kf.signal(model()))


def test_zeros_that_nobody_chose():
    """A kernel of 0 within the chain, a branch of ReLUs that are silent."""
    random.seed(0)
    model = relu_network("fanwise_he_normal", 8, 64, [layers.Dense(3)])
    model.layers[3].kernel.assign(keras.ops.zeros((64, 64)))
    assert labels(kf.signal(model)) == [("dead", "forward")]
    model = residual_network("fanwise_lecun_normal", blocks=6)
    model.layers[1].bias.assign([-1000.0] * 64)
    assert ("dead", "forward") in labels(kf.signal(model))


def test_what_is_constant_carries_no_signal():
    """Not dead, since it is 1 everywhere."""
    model = deep("sigmoid", "fanwise_lecun_normal", depth=6)
    model.layers[3].bias.assign([1000.0] * 128)
    assert ("vanishing", "backward") in labels(kf.signal(model))


@pytest.mark.parametrize("layer", [2, 3, 4])
def test_the_layer_with_the_jump_is_named(layer):
    random.seed(0)
    model = relu_network("fanwise_he_normal", 7, 64, [layers.Dense(3)])
    model.layers[layer].kernel.assign(model.layers[layer].kernel * 1e-5)
    report = kf.signal(model)
    assert labels(report) == [("vanishing", way) for way in DIRECTIONS]
    for finding in report.findings:
        assert finding.path == f"net/body_{layer}"
        assert f"look at the weights of net/body_{layer}" in finding.remedy
        assert "per layer" not in finding.numbers
        assert "from net/body_" in finding.numbers


def convolutions(pool):
    random.seed(0)
    he = {"activation": "relu", "kernel_initializer": "fanwise_he_normal"}
    body = [layers.Conv2D(16, 3, **he) for _ in range(3)]
    head = [layers.Dense(32, **he), layers.Dense(3)]
    return keras.Sequential([keras.Input((32, 32, 3)), *body, *pool, *head])


def test_an_average_over_positions_is_no_loss():
    """Each of 676 positions gets a 676th of the gradient, and passes it on together."""
    report = kf.signal(convolutions([layers.GlobalAveragePooling2D()]))
    assert report.backward.total < 1 / 100
    assert labels(report) == []
    # But a loss beside it is, and there is no allowance where nothing is averaged.
    small = layers.Rescaling(1e-4)
    small_too = kf.signal(convolutions([small, layers.GlobalAveragePooling2D()]))
    # An error stands before a warning, and the draw decides which of them is one.
    assert sorted(labels(small_too)) == [
        ("vanishing", "backward"),
        ("vanishing", "forward"),
    ]
    assert labels(kf.signal(convolutions([layers.Flatten()]))) == []
    assert len(labels(kf.signal(convolutions([small, layers.Flatten()])))) == 2


@contextlib.contextmanager
def recursion_limit(limit):
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.slow
def test_a_network_of_a_thousand_layers():
    random.seed(0)
    scale = FanwiseVarianceScaling(1.0, "fan_in")
    body = [layers.Dense(4, kernel_initializer=scale) for _ in range(1000)]
    with recursion_limit(20_000):  # which Keras needs to build it
        model = keras.Sequential([keras.Input((4,)), *body])
    report = kf.signal(model)
    assert report.rows[-1].depth == 1000
    assert math.isfinite(report.backward.total)


@pytest.mark.slow
def test_a_graph_is_read_without_recursion():
    inputs = x = keras.Input((4,))
    for _ in range(150):
        x = layers.Add()([x, layers.Dense(4, kernel_initializer="zeros")(x)])
    model = keras.Model(inputs, x)
    kf.signal(model)  # what the first call on a backend needs
    with recursion_limit(len(inspect.stack()) + 120):
        assert len(kf.signal(model).rows) == 300
