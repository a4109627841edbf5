"""What `audit` calls an error, a warning and a note: by what kernels do together."""

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.reports.weights import Condition

from support.architectures import Siren, dcgan, residual_network, transformer_network
from support.processes import fewer_by_default

layers = keras.layers
NORMAL, SIGMOIDS = keras.initializers.RandomNormal, 20


def chain(initializer, depth=10, width=64, activation="relu", between=()):
    x = inputs = keras.Input((width,))
    for _ in range(depth):
        x = layers.Dense(width, activation)(x)
        for make in between:
            x = make()(x)
    model = keras.Model(inputs, layers.Dense(10)(x))
    hidden = kf.Rule(
        initializer,
        weight=tuple(one.kernel for one in model.layers[1:-1] if hasattr(one, "kernel")),
    )
    kf.initialize(model, [hidden], seed=0)
    return model


def levels(model):
    report = kf.audit(model)
    return len(report.errors), len(report.warnings)


TINY, LARGE = NORMAL(stddev=0.02), NORMAL(stddev=1.0)
CHAINS = {
    "tiny": (chain, (TINY,), "error"),
    "tiny, few": (chain, (TINY, 3), "warning"),
    "tiny, two": (chain, (TINY, 2), ""),
    "large": (chain, (LARGE,), "error"),
    "large, two": (chain, (LARGE, 2), "warning"),
    "Glorot's of many ReLUs": (chain, ("glorot_uniform", 40), "error"),
    "Glorot's of some ReLUs": (chain, ("glorot_uniform", 20), "warning"),
    "Glorot's of few ReLUs": (chain, ("glorot_uniform", 8), ""),
    "He's of many ReLUs": (chain, ("he_normal", 40), ""),
    "tanh": (chain, ("glorot_uniform", 20, 64, "tanh"), ""),
    "PReLU": (chain, (TINY, 10, 64, None, [layers.PReLU]), "error"),
    "sigmoid, Glorot's": (chain, ("glorot_uniform", SIGMOIDS, 64, "sigmoid"), "error"),
    "sigmoid, N(0, 1)": (chain, (LARGE, SIGMOIDS, 64, "sigmoid"), ""),
    "normalized": (chain, (TINY, 10, 64, None, [layers.BatchNormalization, layers.ReLU]), ""),
    "through somebody's function": (chain, (TINY, 10, 64, None, [lambda: layers.Lambda(keras.ops.sin)]), ""),
}  # fmt: skip


@pytest.mark.few(6)
@pytest.mark.parametrize("name", CHAINS)
def test_what_kernels_of_a_chain_do_together(name):
    make, arguments, level = CHAINS[name]
    report = kf.audit(make(*arguments))
    assert (bool(report.errors), bool(report.warnings)) == (
        level == "error",
        level == "warning",
    ), str(report)
    found = report.errors + report.warnings
    assert {finding.condition for finding in found} <= {Condition.SCALE}
    if found and "Glorot" in name:  # where no kernel is far off by itself
        assert f" over {len(found)} kernels, from " in found[0].cause
        assert len(found) >= arguments[1] - 1
        assert ("normalization" in found[0].remedy) == ("sigmoid" in name)
        assert set(report.remedies().values()) <= {"fanwise_he_normal"}


RECIPES = {
    "mlp": ("he", "glorot", "lecun", "kaiming", "critical"),
    "deep": ("he", "critical"),
    "dcgan": ("dcgan", "he", "kaiming", "normal", "glorot"),
    "transformer": ("transformer", "vit", "he", "glorot", "lecun", "normal"),
    "residual": ("fixup", "glorot", "he"),
}


def network(kind, width):
    if kind == "mlp":
        return chain("he_normal", 4, width)
    if kind == "deep":
        return chain("he_normal", 30, min(width, 128))
    if kind == "dcgan":
        return dcgan(min(width, 128))
    if kind == "transformer":
        return transformer_network(width, 2)
    return residual_network(6, width)


@pytest.mark.few(3)
@pytest.mark.parametrize("width", fewer_by_default([16, 64, 256, 1024], 16))
@pytest.mark.parametrize("kind", RECIPES)
def test_after_a_recipe_there_is_neither_error_nor_warning(kind, width):
    model = network(kind, width)
    for recipe in RECIPES[kind]:
        kf.initialize(model, recipe, seed=1)
        assert levels(model) == (0, 0), (recipe, str(kf.audit(model)))


@pytest.mark.few(1)
@pytest.mark.parametrize("blocks", [20, 30, 60])
def test_fixup_of_branches_of_two_kernels(blocks):
    model = residual_network(blocks, 24)
    kf.initialize(model, "fixup", seed=0)
    report = kf.audit(model)
    assert (report.errors, report.warnings) == ([], [])
    # Small it may be in a branch, and not before all of them.
    first = next(one for one in model.layers if one.weights)
    first.kernel.assign(first.kernel * 1e-5)
    assert [f.path for f in kf.audit(model).warnings] == [first.kernel.path]


class User(keras.initializers.Initializer):
    """As people write it for SIREN."""

    def __init__(self, first):
        self.first = first

    def __call__(self, shape, dtype=None):
        limit = 1 / shape[0] if self.first else (6 / shape[0]) ** 0.5 / 30
        return keras.random.uniform(shape, -limit, limit, dtype=dtype)


def fanwise(first):
    scale = 1 / 6 if first else 2 / 900
    return kf.FanwiseVarianceScaling(scale, distribution="uniform")


def sine(x):
    return keras.ops.sin(30.0 * x)


@pytest.mark.few(4)
@pytest.mark.parametrize("initializer", [User, fanwise])
@pytest.mark.parametrize("wave", ["layer", "activation", "Activation", "Lambda", "ops"])
def test_siren(initializer, wave):
    x = inputs = keras.Input((2,))
    for number in range(5):
        given = {"kernel_initializer": initializer(number == 0)}
        if wave == "layer":
            x = Siren(64, **given)(x)
            continue
        x = layers.Dense(64, sine if wave == "activation" else None, **given)(x)
        if wave in ("Activation", "Lambda"):
            x = getattr(layers, wave)(sine)(x)
        elif wave == "ops":
            x = sine(x)
    model = keras.Model(inputs, layers.Dense(1, kernel_initializer=initializer(False))(x))
    assert levels(model) == (0, 0)


def test_equal_units_that_ones_own_initializer_draws():
    def repeated(shape, dtype=None):
        half = keras.random.normal((*shape[:-1], shape[-1] // 2), stddev=0.1)
        return keras.ops.cast(keras.ops.concatenate([half, half], axis=-1), dtype)

    dense = layers.Dense(16, kernel_initializer=repeated)
    dense.build((None, 16))
    [finding] = kf.audit(dense).errors
    assert finding.condition is Condition.SYMMETRY
    assert "equal" in finding.numbers
    # Those of a convolution may be meant so, before pixels are shuffled.
    phases = layers.Conv2D(16, 3, kernel_initializer=repeated)
    phases.build((None, 8, 8, 4))
    assert [f.severity for f in kf.audit(phases).findings] == ["note"]


def test_a_trained_model_looks_trained():
    rng = np.random.default_rng(0)
    model = chain("he_normal", 3, 32)
    assert not kf.audit(model).is_trained
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    x = rng.normal(size=(256, 32)).astype("float32")
    model.fit(x, np.tile(x[:, :1] * x[:, 1:2], 10), epochs=30, batch_size=64, verbose=0)
    report = kf.audit(model)
    assert report.is_trained
    assert str(report).startswith("The model looks trained: 0 errors, 0 warnings, ")
    assert report.notes
    # What cannot be right is said of it too.
    kernel = model.layers[1].kernel
    kernel.assign(kernel * np.inf)
    assert [f.path for f in kf.audit(model).errors] == [kernel.path]


def test_an_orthogonal_kernel_that_is_not_finite_is_an_error():
    dense = layers.Dense(8, kernel_initializer="orthogonal")
    dense.build((None, 8))
    dense.kernel.assign(dense.kernel * np.nan)
    assert [f.path for f in kf.audit(dense).errors] == [dense.kernel.path]


def test_kernels_that_are_spoilt_do_not_look_trained():
    model = chain("he_normal", 3, 32)
    for layer in model.layers[1:]:
        layer.kernel.assign(keras.ops.abs(layer.kernel))
    report = kf.audit(model)
    assert not report.is_trained
    assert report.errors
