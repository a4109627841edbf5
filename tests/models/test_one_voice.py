"""What reads a model and what writes it agree on kernels, and on what is meant so."""

import itertools
from collections import Counter

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_fanwise as kf
from keras_fanwise.graph.graph import Graph

from support.models import structured_model, values_by_path, values_of

RECIPES = ("he", "glorot", "lecun", "kaiming", "normal", "dcgan", "transformer", "vit")


class Nodes(layers.Layer):
    """Attention over the nodes of a graph, with the names that such layers give."""

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], 2, 8), name="att_kernel")
        self.own = self.add_weight(shape=(8, 2), name="attention_kernel_self")
        self.others = self.add_weight(shape=(8, 2), name="attention_kernel_neighs")
        self.bias = self.add_weight(shape=(8,), name="bias", initializer="ones")

    def call(self, x):
        hidden = ops.einsum("bnd,dhf->bnhf", x, self.table)
        own = ops.einsum("bnhf,fh->bnh", hidden, self.own)
        others = ops.einsum("bnhf,fh->bnh", hidden, self.others)
        scores = ops.softmax(own[:, :, None] + others[:, None], axis=2)
        return ops.einsum("bnmh,bmhf->bnf", scores, hidden) + self.bias


class Experts(layers.Layer):
    def build(self, shape):
        units = shape[-1]
        self.router = self.add_weight(shape=(units, 3))
        self.w_experts = self.add_weight(shape=(3, units, 16), name="w_experts")
        self.w_back = self.add_weight(shape=(3, 16, units), name="w_back")

    def call(self, x):
        shares = ops.softmax(ops.matmul(x, self.router))
        hidden = ops.relu(ops.einsum("bnd,edf->benf", x, self.w_experts))
        return ops.einsum("benf,efd,bne->bnd", hidden, self.w_back, shares)


class Taps(layers.Layer):
    """A convolution of one's own, beside what is none of its kernels."""

    def build(self, shape):
        self.w = self.add_weight(shape=(3, shape[-1], 12), name="w")
        self.mixing = self.add_weight(shape=(5, 5), name="mixing")
        self.token = self.add_weight(shape=(1, 1, 12), name="class_token")
        self.mean = self.add_weight(shape=(12,), name="kernel_mean", trainable=False)
        self.fixed = self.add_weight(shape=(12, 12), name="kernel", trainable=False)

    def call(self, x):
        mixed = ops.einsum("bnd,nm->bmd", x, self.mixing)
        return ops.conv(mixed, self.w, padding="same") + self.token


def zoo():
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 8, name="tokens")(tokens)
    x = layers.Dense(8, "relu", name="dense")(x)
    x = Nodes(name="nodes")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = Experts(name="experts")(x)
    x = layers.SeparableConv1D(8, 3, padding="same", name="separable")(x)
    x = Taps(name="taps")(x)
    x = layers.TimeDistributed(layers.Dense(6), name="each")(x)
    x = layers.Bidirectional(layers.GRU(4, name="gru"), name="both")(x)
    x = layers.SpectralNormalization(layers.Dense(6), name="spectral")(x)
    return keras.Model(tokens, layers.PReLU(name="slopes")(x))


KERNELS = {
    "dense": 1, "nodes": 3, "attention": 4, "experts": 3, "separable": 2, "taps": 1,
    "each": 1, "both": 4, "spectral": 1,
}  # fmt: skip


def owner(path):
    return path.split("/")[0]


@pytest.fixture(scope="module")
def model():
    return zoo()


def test_all_agree_on_what_is_a_kernel(model):
    roles = {row.path: row.role for row in kf.fans_table(model).rows}
    kernels = {path for path, role in roles.items() if role == "kernel"}
    matrices = {path for path, role in roles.items() if role == "matrix"}
    assert matrices == {"taps/mixing"}
    assert Counter(map(owner, kernels)) == KERNELS
    assert {row.path: row.role for row in kf.audit(model).rows} == roles
    rows = {row.path: row for row in kf.calibrate(model, dry_run=True).rows}
    assert set(rows) == kernels | matrices
    unknown = {path for path, row in rows.items() if "not recognized" in row.reason}
    assert unknown == matrices
    graph = {kernel.path for call in Graph(model).calls for kernel in call.kernels}
    assert graph == kernels | matrices
    depths = {owner(row.path): row.depth for row in kf.signal(model).rows}
    order = list(depths)
    deeper = {b for a, b in itertools.pairwise(order) if depths[b] > depths[a]}
    assert deeper | {order[0]} == {"tokens", *KERNELS}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_set_the_kernels_and_tell_what_they_leave(model, recipe):
    rows = kf.initialize(model, recipe, seed=0, dry_run=True).rows
    left = {row.path: row.reason for row in rows if row.status == "kept"}
    kept = {row.path for row in rows if row.role == "kernel" and row.path in left}
    leaves_recurrent = recipe in ("kaiming", "normal", "dcgan")
    recurrent = {row.path for row in rows if row.path.startswith("both/")}
    assert kept == {path for path in recurrent if "kernel" in path and leaves_recurrent}
    assert all(left[path] == "a rule keeps it" for path in kept)
    assert left["taps/mixing"] == "no rule for it: not recognized as a kernel"
    assert left["taps/kernel"] == left["slopes/alpha"] == "no rule for it"


@pytest.mark.parametrize("recipe", ["he", "kaiming"])
def test_an_audit_after_a_recipe_finds_no_kernel_that_it_left(recipe):
    inputs = keras.Input((5, 64))
    x = layers.Dense(64, "relu")(Nodes()(inputs))
    for weight in (model := keras.Model(inputs, Experts()(x))).trainable_weights:
        weight.assign(0 * weight + 0.5)
    assert kf.audit(model).errors
    kf.initialize(model, recipe, seed=0)
    assert not kf.audit(model).errors


def test_structured_starts_are_meant_so():
    """Identities, equal phases, sines and long memories, whoever looks at them."""
    model = structured_model()
    report = kf.diagnose(model)
    assert not report.findings, report.text()
    for by in ("layer", "unit"):
        calibrated = {row.path: row for row in kf.calibrate(model, by=by).rows}
        for path in ("first/kernel", "second/kernel"):
            assert "the scale that its sine is for" in calibrated[path].reason
        kernel = values_by_path(model)["phases/kernel"].reshape(3, 3, 8, 4, 4)
        assert (kernel == kernel[..., :1, :]).all()
        again = kf.diagnose(model)
        assert not again.errors + again.warnings, again.text()
    # Planted: the same kernels without the name of their start are scaled.
    kf.initialize(model, kf.Rule("glorot_uniform", path="second/kernel"))
    rows = kf.calibrate(model, dry_run=True).rows
    assert {row.path: row.status for row in rows}["second/kernel"] == "scaled"


def test_structured_starts_in_residual_branches():
    x = place = keras.Input((2,))
    x = ops.sin(30.0 * layers.Dense(32)(x))
    for name in "ab":
        inner = ops.sin(30.0 * layers.Dense(32)(x))
        x = x + ops.sin(30.0 * layers.Dense(32, name=name)(inner))
    model = keras.Model(place, layers.Dense(1)(x))
    ends = [end for row in kf.residual_ends(model).rows for end in row.last]
    assert ends == ["a/kernel", "b/kernel"]
    plain, small = (
        {row.path: row.std for row in kf.initialize(model, "siren", 0, residual=way).rows}
        for way in (None, "depth")
    )
    for path, std in small.items():
        factor = 0.5**0.5 if path in ends else 1.0
        assert std == pytest.approx(factor * plain[path], rel=1e-6)
    assert not kf.diagnose(model).findings
    x = image = keras.Input((8, 8, 8))
    for _ in "ab":
        x = x + layers.Conv2D(8, 3, padding="same")(x)
    model = keras.Model(image, x)
    for start in (kf.FanwiseDirac(), kf.FanwiseSubpixel(), kf.FanwiseSiren()):
        rule = kf.Rule(start, role="kernel")
        once, divided = (
            kf.initialize(model, rule, 0, residual=way).rows[0].std
            for way in (None, "depth")
        )
        assert divided == pytest.approx(once / 2**0.5, rel=1e-6)
    rule = kf.Rule(kf.FanwiseSiren(first=True), role="kernel")
    with pytest.raises(ValueError, match="cannot be multiplied by a number"):
        kf.initialize(model, rule, residual="depth")


def hidden(written):
    """A layer of units and ReLUs, and by hand what Keras draws far too large."""
    far_off = keras.initializers.RandomNormal(stddev=1.0)
    if written == "argument":
        return [layers.Dense(64, "relu", kernel_initializer=far_off)]
    between = [layers.BatchNormalization()] if written == "after a normalization" else []
    return [layers.Dense(64, kernel_initializer=far_off), *between, layers.ReLU()]


@pytest.mark.parametrize("written", ["argument", "layer", "after a normalization"])
def test_a_remedy_fits_the_activation_however_it_is_written(written):
    blocks = [layer for _ in range(4) for layer in hidden(written)]
    model = keras.Sequential([keras.Input((64,)), *blocks])
    remedies = kf.audit(model).remedies()
    assert set(remedies.values()) == {"fanwise_he_normal"}
    assert len(remedies) == 4


class Closed(layers.Layer):
    """What its call does cannot be seen, as it takes no `KerasTensor`."""

    def __init__(self, initializer):
        super().__init__()
        self.initializer, self.activation = initializer, keras.activations.relu

    def build(self, shape):
        self.kernel = self.add_weight(shape=(64, 64), initializer=self.initializer)

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("Only of values.")
        return self.activation(ops.matmul(x, self.kernel))


class Stack(keras.Model):
    def __init__(self, depth, initializer):
        super().__init__()
        self.parts = [Closed(initializer) for _ in range(depth)]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def test_of_what_cannot_be_opened_all_know_the_layer_s_own_activation():
    x = keras.random.normal((32, 64), seed=0)
    tiny = Stack(6, keras.initializers.RandomNormal(stddev=0.01))
    halved = Stack(40, "lecun_normal")
    for model in (tiny, halved):
        model(x)
        assert Graph(model).unopened
    remedies = [kf.audit(tiny).remedies(), kf.signal(tiny, x).remedies()]
    assert {each for found in remedies for each in found.values()} == {"fanwise_he_normal"}
    assert not kf.audit(halved).remedies()
    assert 'initialize(model, "he", seed=0)' in str(kf.diagnose(halved, x))


def ends(activation=None, norm=None, shift="zeros", join=layers.Add):
    """The end of a branch, with a kernel of 0, or a γ of 0 if there is a normalization."""

    def end(x):
        zero = {"kernel_initializer": "fanwise_he_normal" if norm else "zeros"}
        x = layers.Dense(16, **zero, bias_initializer="zeros" if norm else shift)(x)
        if norm:
            x = norm(gamma_initializer="zeros", beta_initializer=shift)(x)
        return x if activation is None else activation(x)

    return end, join


def zero_before_a_normalization(x):
    return layers.LayerNormalization()(layers.Dense(16, kernel_initializer="zeros")(x))


@pytest.mark.parametrize(
    ("end", "join"),
    [
        ends(),
        ends(layers.ReLU()),
        ends(ops.relu),
        ends(layers.ReLU(negative_slope=0.1)),
        ends(layers.PReLU()),
        ends(ops.gelu),
        ends(ops.tanh),
        ends(ops.square),
        ends(layers.ReLU(), shift="ones"),
        ends(lambda x: ops.relu(x + 1.0)),
        ends(norm=layers.BatchNormalization),
        ends(layers.ReLU(), layers.BatchNormalization),
        ends(layers.ReLU(), layers.BatchNormalization, shift="ones"),
        ends(ops.gelu, layers.LayerNormalization),
        ends(join=layers.Concatenate),
        ends(layers.ReLU(), join=layers.Concatenate),
        (zero_before_a_normalization, layers.Add),
    ],
)
def test_zeros_are_meant_so_where_they_learn(end, join):
    """By a step of training, which has the last word."""
    keras.utils.set_random_seed(0)
    rows = keras.Input((16,))
    x = layers.Dense(16, "tanh", kernel_initializer="fanwise_glorot_normal")(rows)
    for _ in range(2):
        hidden = layers.Dense(16, "tanh", kernel_initializer="fanwise_glorot_normal")(x)
        x = join()([x, end(hidden)])
    model = keras.Model(rows, layers.Dense(3, kernel_initializer="fanwise_lecun_normal")(x))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    inputs = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    targets = inputs[:, :3]
    reports = kf.audit(model), kf.signal(model, inputs), kf.diagnose(model, inputs, targets)
    zeros = [
        weight
        for weight in model.trainable_weights
        if weight.name in ("kernel", "gamma") and not np.any(values_of(weight))
    ]
    assert len(zeros) == 2
    model.train_on_batch(inputs, targets)
    learns = {bool(np.any(values_of(weight))) for weight in zeros}
    assert [{not report.errors} for report in reports] == [learns] * 3


def test_what_is_0_before_a_smooth_activation_is_not_dead():
    """The channels that an identity does not fill learn before a GELU, not before a ReLU."""
    for activation, where in (("relu", 1), ("gelu", 0)):
        keras.utils.set_random_seed(0)
        identity = layers.Conv2D(
            128,
            3,
            padding="same",
            activation=activation,
            kernel_initializer="fanwise_dirac",
        )
        he = {"activation": activation, "kernel_initializer": "fanwise_he_normal"}
        stack = [layers.Conv2D(8, 3, **he), identity, layers.MaxPooling2D()]
        stack += [layers.Conv2D(16, 3, **he), layers.GlobalAveragePooling2D()]
        model = keras.Sequential([keras.Input((12, 12, 3)), *stack, layers.Dense(3)])
        dead = [finding.path for finding in kf.signal(model).findings]
        assert dead == [identity.path] * where


@pytest.mark.parametrize("function", [ops.relu, lambda x: ops.where(x > 0, x, 0.0)])
def test_what_a_function_of_one_s_own_sets_to_0_is_dead(function):
    silent = layers.Dense(64, kernel_initializer="fanwise_he_normal")
    own = layers.Lambda(function, name="own")
    inputs = [keras.Input((32,)), silent, own, layers.Dropout(0.1), layers.Dense(3)]
    model = keras.Sequential(inputs)
    silent.bias.assign([-100.0] * 60 + [0.0] * 4)
    [finding] = kf.signal(model).findings
    assert (finding.path.split("/")[-1], finding.severity) == ("own", "warning")
