"""Residual networks start with small branches, or none; transformers as their papers say."""

import math
import warnings

import keras
import numpy as np
import pytest
import scipy.stats
from keras import layers, ops

import keras_fanwise as kf
from keras_fanwise.initializers.counterparts import scaled

from support.models import values_of
from support.processes import fewer_by_default
from support.residual_models import (
    OTHERS,
    RESIDUAL,
    WIDTH,
    Block,
    plain_blocks,
    resnet,
)


def inputs_of(model):
    random = np.random.default_rng(0)
    known = getattr(model, "inputs", None)
    shape = (4, *known[0].shape[1:]) if known else (4, WIDTH)
    if known and "int" in known[0].dtype:
        return random.integers(0, 6, shape)
    return random.standard_normal(shape).astype("float32")


def weight(model, end):
    return next(one for one in model.weights if one.path.endswith(end))


FIRST = ("plain blocks", "transformer", "subclassed")


@pytest.mark.parametrize("name", fewer_by_default(RESIDUAL, *FIRST))
def test_from_zero_the_first_kernels_of_branches_do_not_matter(name):
    """A branch that gives 0 gives 0 whatever comes before its end, and learns."""
    model, _ = RESIDUAL[name]()
    x = inputs_of(model)
    kf.initialize(model, "he", seed=0, residual="zero")
    inner = [
        path
        for row in kf.residual_ends(model).rows
        for path in row.kernels
        if path not in row.last
    ]
    # A nested branch is in its outer one, whose kernels also come before its split.
    inner = [path for path in inner if path.split("/")[0] not in ("outer_in",)]
    before = values_of(model(x))
    for one in model.weights:
        if one.path in inner:
            one.assign(one * 3)
    np.testing.assert_allclose(values_of(model(x)), before, rtol=1e-5, atol=1e-6)
    # With a start that is not zero they do matter: the check can fail.
    kf.initialize(model, "he", seed=0)
    before = values_of(model(x))
    for one in model.weights:
        if one.path in inner:
            one.assign(one * 3)
    assert np.abs(values_of(model(x)) - before).max() > 1e-3


@pytest.mark.parametrize("name", fewer_by_default(RESIDUAL, *FIRST))
def test_zero_by_rule_is_zero_by_argument(name):
    first, second = RESIDUAL[name]()[0], RESIDUAL[name]()[0]
    kf.initialize(first, "he", seed=0, residual="zero")
    rules = [kf.Rule("zeros", residual_end=True), *kf.recipes()["he"]]
    kf.initialize(second, rules, seed=0)
    for one, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(values_of(one), values_of(other))


def test_a_rule_for_ends_has_its_other_conditions():
    model, _ = resnet()
    rules = [kf.Rule("zeros", residual_end=True, path="norm_1/*")]
    report = kf.initialize(model, rules, seed=0)
    assert [row.path for row in report.rows if row.status == "set"] == ["norm_1/gamma"]
    with pytest.raises(ValueError, match="meets none"):
        kf.initialize(model, [kf.Rule("zeros", residual_end=True, weight="kernel")])
    assert repr(rules[0]) == "Rule('zeros', path='norm_1/*', residual_end=True)"


def test_a_rule_for_the_head_or_for_a_weight_itself():
    model, _ = resnet()
    head = next(w for w in reversed(model.weights) if w.name == "kernel")
    for rule in (kf.Rule("zeros", head=True), kf.Rule("zeros", weight=head)):
        report = kf.initialize(model, rule, seed=0)
        assert [row.path for row in report.rows if row.status == "set"] == [head.path]
    assert repr(rule) == f"Rule('zeros', weight={head.path!r})"
    for bad in ((head, "kernel"), [head]):
        with pytest.raises(TypeError, match="`weight` must be a glob"):
            kf.Rule("zeros", weight=bad)


@pytest.mark.parametrize("recipe", ["he", "gpt2", "glorot_normal", "orthogonal"])
def test_depth_divides_the_ends_alone(recipe):
    model, ends = plain_blocks(5)
    kf.initialize(model, recipe, seed=3)
    before = {one.path: values_of(one) for one in model.weights}
    report = kf.initialize(model, recipe, seed=3, residual="depth")
    for one in model.weights:
        factor = 1 / math.sqrt(5) if one.path.split("/")[0] in ends else 1
        if "kernel" not in one.path:
            factor = 1
        np.testing.assert_allclose(values_of(one), before[one.path] * factor, rtol=1e-5)
    rows = {row.path: row for row in report.rows}
    if recipe == "gpt2":
        assert rows["out_0/kernel"].std_asked == pytest.approx(0.02 / 5**0.5)
    # It is what is saved, and drawn again.
    kf.reinitialize(model, seed=3)
    np.testing.assert_allclose(
        values_of(weight(model, "out_0/kernel")).std(),
        before["out_0/kernel"].std() / math.sqrt(5),
        rtol=0.5,
    )


@pytest.mark.parametrize("is_first", [True, False])
def test_depth_scales_the_value_of_a_gated_branch(is_first):
    """66 once where the gate, which is about a half whatever its kernel, came first."""
    x = inputs = keras.Input((64,))
    for _ in range(16):
        gate = layers.Dense(64, "sigmoid")(x)
        value = layers.Dense(64)(layers.Dense(64, "relu")(x))
        x = x + (gate * value if is_first else value * gate)
    model = keras.Model(inputs, x)
    kf.initialize(model, "he", seed=0, residual="depth")
    given = np.random.default_rng(0).standard_normal((64, 64)).astype("float32")
    assert values_of(model(given)).std() == pytest.approx(1.4, abs=0.3)


def test_depth_scales_a_gamma_where_that_comes_last():
    # A kernel before a normalization could have any scale.
    model, _ = resnet()
    kf.initialize(model, "he", seed=0, residual="depth")
    np.testing.assert_allclose(values_of(weight(model, "norm_0/gamma")), 0.5)
    assert values_of(weight(model, "second_0/kernel")).std() > 0.1


@pytest.mark.slow
def test_a_deep_transformer_keeps_its_stream_with_depth():
    """The variance of the sum of L branches is that of one, and without it L times that."""

    def stream(residual):
        x = inputs = keras.Input((6, WIDTH))
        for i in range(24):
            x = Block(name=f"block_{i}")(x)
        model = keras.Model(inputs, x)
        kf.initialize(model, "he", seed=0, residual=residual)
        given = np.random.default_rng(0).standard_normal((8, 6, WIDTH)).astype("float32")
        return values_of(model(given)).std()

    assert stream("depth") < 0.5 * stream(None)
    assert stream("zero") == pytest.approx(1, abs=0.1)


def kolmogorov_smirnov(values, std):
    return scipy.stats.kstest(values.ravel() / std, "norm").pvalue


@pytest.mark.parametrize(
    ("recipe", "own"), [("gpt2", 0.02), ("transformer", math.sqrt(2 / (5 * 64)))]
)
def test_transformers_by_the_distribution_of_every_weight(recipe, own):
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(200, 64)(tokens)
    for i in range(3):
        block = Block(name=f"block_{i}")
        block.second.units = 64
        block.attention = layers.MultiHeadAttention(4, 32, name="attention")
        x = block(x)
    model = keras.Model(tokens, layers.Dense(30)(x))
    kf.initialize(model, recipe, seed=0, residual="depth")
    for one in model.weights:
        values, name = values_of(one), one.name
        if name == "gamma":
            np.testing.assert_array_equal(values, 1)
        elif name in ("beta", "bias"):
            np.testing.assert_array_equal(values, 0)
        else:
            end = "second/" in one.path or "attention_output/" in one.path
            std = own / math.sqrt(6) if end else own
            assert kolmogorov_smirnov(values, std) > 1e-4, one.path
            assert kolmogorov_smirnov(values, std * 1.4) < 1e-4, one.path


def attention_blocks(widths, count=2):
    x = inputs = keras.Input((6, widths[0]))
    for width in widths:
        x = layers.Dense(width, name=f"stem_{width}")(x)
        for i in range(count):
            name = f"{width}_{i}"
            attention = layers.MultiHeadAttention(2, width // 2, name=f"attention_{name}")
            x = layers.LayerNormalization()(x + attention(x, x))
            hidden = layers.Dense(2 * width, "relu", name=f"up_{name}")(x)
            x = layers.LayerNormalization()(
                x + layers.Dense(width, name=f"down_{name}")(hidden)
            )
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def test_the_transformer_recipe_goes_by_the_width_of_each_stream():
    model = attention_blocks((64, 128))
    kf.initialize(model, "transformer", seed=0)
    for one in model.weights:
        if one.name == "kernel":
            width = 64 if "64" in one.path else 128  # the head reads the last stream
            std = math.sqrt(2 / (5 * width))
            assert kolmogorov_smirnov(values_of(one), std) > 1e-4, one.path
    assert kolmogorov_smirnov(values_of(weight(model, "up_64_0/kernel")), 0.056) < 1e-4


def test_the_transformer_recipe_without_a_stream_goes_by_fan_in():
    model = keras.Sequential([keras.Input((50,)), layers.Dense(400, name="dense")])
    kf.initialize(model, "transformer", seed=0)
    values = values_of(weight(model, "dense/kernel"))
    assert values.std() == pytest.approx(math.sqrt(0.4 / 50), rel=4 / math.sqrt(2 * 20_000))


def test_a_literal_recipe_says_what_it_means_at_the_widths_of_the_model():
    def chain(width, depth=6, units=None):
        dense = [layers.Dense(units or width, "relu") for _ in range(depth)]
        return keras.Sequential([keras.Input((width,)), *dense, layers.Dense(3)])

    (remark,) = kf.initialize(chain(32), "normal", seed=0).remarks
    # By 0.02 sqrt(32 / 2) = 0.08 a layer, after the first.
    assert "over 6 kernels, " in remark
    assert 0.1 < float(remark.split("× ")[1].split(" ")[0]) / 0.08**6 < 10
    assert kf.initialize(chain(32), "he", seed=0).remarks == []
    # At width 5,000 the same start is He's; there it is in the limits.
    assert kf.initialize(chain(5000, 1, units=64), "normal", seed=0).remarks == []
    assert kf.initialize(attention_blocks((64,)), "gpt2", seed=0).remarks == []


def test_deepnorm_scales_what_the_branches_give_and_says_the_constant():
    model = attention_blocks((64,), count=4)  # of 8 branches
    report = kf.initialize(model, "deepnorm", seed=0)
    assert "each of the 8 residual additions is to be 1.682 * x + f(x)" in report.remarks
    assert "1.682 * x + f(x)" in report.text()
    factor = 32**-0.25
    for path, gain in {
        "attention_64_1/query": 1,
        "attention_64_1/key": 1,
        "attention_64_1/value": factor,
        "attention_64_1/attention_output": factor,
        "up_64_3": factor,
        "down_64_3": factor,
        "head": 1,
    }.items():
        kernel = weight(model, f"{path}/kernel")
        layer = model.get_layer(path.split("/")[0])
        owner = (
            getattr(layer, f"_{path.split('/')[1].removeprefix('attention_')}_dense", layer)
            if "/" in path
            else layer
        )
        fans = kf.layer_fans(owner, "kernel", kernel.shape)
        std = gain * math.sqrt(2 / sum(fans))
        values = values_of(kernel)
        assert values.std() == pytest.approx(std, rel=4 / math.sqrt(2 * values.size)), path
    with pytest.raises(ValueError, match="one with residual branches"):
        kf.initialize(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), "deepnorm")


class Tokens(layers.Layer):
    def build(self, shape):
        self.token = self.add_weight((1, 1, shape[-1]), "uniform", name="class_token")
        self.places = self.add_weight(
            (1, shape[1] + 1, shape[-1]), "uniform", name="position_embedding"
        )

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], 1) + self.places


def vit():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(64, 4, 4, name="patches")(image)
    x = Tokens(name="tokens")(layers.Reshape((16, 64))(x))
    for i in range(2):
        block = Block(name=f"block_{i}")
        block.second.units = 64
        x = block(x)
    x = layers.LayerNormalization()(x)
    return keras.Model(image, layers.Dense(10, name="head")(x[:, 0]))


def test_the_vit_recipe_by_the_distribution_of_every_weight():
    model = vit()
    kf.initialize(model, "vit", seed=0)
    values = {one.path: values_of(one) for one in model.weights}
    for path, given in values.items():
        name = path.rpartition("/")[2]
        if path.startswith("head/kernel") or name in ("class_token", "beta"):
            np.testing.assert_array_equal(given, 0)
        elif name == "gamma":
            np.testing.assert_array_equal(given, 1)
        elif name == "position_embedding":
            assert kolmogorov_smirnov(given, 0.02) > 1e-4
        elif name == "bias" and ("attention" in path or "patches" in path):
            np.testing.assert_array_equal(given, 0)
        elif name == "bias":
            assert np.abs(given).max() < 1e-5
            assert given.any()
        elif "patches" in path:
            assert given.std() == pytest.approx(math.sqrt(1 / 48), rel=0.05)
        else:
            layer = path.rpartition("/")[0].rpartition("/")[2]
            fans = {"first": 64 + 16, "second": 16 + 64}.get(layer, 64 + 8)
            limit = math.sqrt(6 / fans)
            assert np.abs(given).max() <= limit
            assert given.std() == pytest.approx(limit / math.sqrt(3), rel=0.1), path


def test_fixup():
    def deep(branches, kernels):
        x = inputs = keras.Input((64,))
        for i in range(branches):
            h = x
            for j in range(kernels - 1):
                h = layers.Dense(64, "relu", name=f"inner_{i}_{j}")(h)
            x = x + layers.Dense(64, name=f"out_{i}")(h)
        return keras.Model(inputs, layers.Dense(10, name="head")(x))

    for branches, kernels in ((4, 2), (9, 3)):
        model = deep(branches, kernels)
        kf.initialize(model, "fixup", seed=0)
        expected = math.sqrt(2 / 64) * branches ** (-1 / (2 * kernels - 2))
        for one in model.weights:
            values = values_of(one)
            if "inner" in one.path and one.name == "kernel":
                within = 5 / math.sqrt(2 * values.size)
                assert values.std() == pytest.approx(expected, rel=within)
                assert abs(expected / math.sqrt(2 / 64) - 1) > 2 * within
            else:
                np.testing.assert_array_equal(values, 0)
        x = np.random.default_rng(0).standard_normal((4, 64)).astype("float32")
        np.testing.assert_array_equal(values_of(model(x)), 0)


def test_embeddings_have_rules():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(200, 64, name="table")(tokens)
    model = keras.Model(tokens, layers.Dense(2)(x))
    for recipe, std in {"he": 1, "glorot": 1, "lecun": 1, "gpt2": 0.02}.items():
        kf.initialize(model, recipe, seed=0)
        assert values_of(weight(model, "table/embeddings")).std() == pytest.approx(
            std, rel=0.05
        )
    before = values_of(weight(model, "table/embeddings"))
    kf.initialize(model, "fanwise_he_normal", seed=0)  # which is for kernels
    np.testing.assert_array_equal(values_of(weight(model, "table/embeddings")), before)


def test_vit_where_no_dense_layer_comes_last():
    """As in MobileNet, whose head is a convolution."""
    inputs = keras.Input((4, 4, 8))
    x = layers.Conv2D(16, 1, name="body")(inputs)
    model = keras.Model(inputs, layers.Conv2D(3, 1, name="head")(x))
    kf.initialize(model, "vit", seed=0)
    assert values_of(weight(model, "head/kernel")).any()


def test_branches_that_cannot_start_at_zero_are_told():
    inputs = keras.Input((WIDTH,))
    x = inputs + layers.Dense(WIDTH, "relu", name="dead")(inputs)
    x = x + layers.Dense(WIDTH, name="fine")(layers.Dense(WIDTH, "relu")(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.warns(UserWarning, match="learns nothing from 0") as warned:
        kf.initialize(model, "he", seed=0, residual="zero")
    assert warned[0].filename == __file__
    assert values_of(weight(model, "dead/kernel")).any()
    assert not values_of(weight(model, "fine/kernel")).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kf.initialize(model, "he", seed=0, residual="depth")


@pytest.mark.parametrize("residual", ["zero", "depth"])
@pytest.mark.parametrize("name", ["two towers", "unet of sums"])
def test_a_model_without_branches_is_an_error(name, residual):
    model = OTHERS[name]()
    before = model.get_weights()
    with pytest.raises(ValueError, match="residual branches"):
        kf.initialize(model, "he", residual=residual)
    with pytest.raises(ValueError, match="residual branches"):
        kf.initialize(model, "fixup")
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_bad_arguments_change_nothing():
    model, _ = plain_blocks()
    before = model.get_weights()
    with pytest.raises(ValueError, match="'zero', 'depth'"):
        kf.initialize(model, "he", residual="zeros")
    with pytest.raises(TypeError, match="residual_end"):
        kf.Rule("zeros", residual_end="yes")

    class Own(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return ops.ones(shape, dtype)

    with pytest.raises(ValueError, match="cannot be multiplied by a number"):
        kf.initialize(model, [kf.Rule(Own(), weight="kernel")], residual="depth")
    kf.initialize(model, "he", residual="zero", dry_run=True)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "initializer",
    [
        "glorot_uniform",
        "he_normal",
        "fanwise_he_uniform",
        "random_normal",
        "random_uniform",
        "truncated_normal",
        "orthogonal",
        "fanwise_orthogonal",
        "fanwise_gamma_noise",
        "ones",
        "zeros",
        keras.initializers.Constant(3.0),
        keras.initializers.VarianceScaling(3.0, "fan_out", "uniform"),
        kf.FanwiseVarianceScaling(3.0, "fan_avg", "uniform", fans=(3, 5)),
    ],
)
def test_scaled_initializers_draw_the_same_times_the_factor(initializer):
    model = keras.Sequential([keras.Input((32,)), layers.Dense(16, use_bias=False)])
    given = keras.initializers.get(initializer)
    kf.initialize(model, [kf.Rule(given)], seed=5)
    before = model.get_weights()[0]
    kf.initialize(model, [kf.Rule(scaled(given, 0.25, "x"))], seed=5)
    np.testing.assert_allclose(model.get_weights()[0], before / 4, rtol=1e-5, atol=1e-8)


def test_saved_and_loaded(tmp_path):
    model, _ = plain_blocks(4)
    kf.initialize(model, "gpt2", seed=0, residual="depth")
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    kf.reinitialize(model, seed=7)
    kf.reinitialize(loaded, seed=7)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded.get_layer("out_1").kernel_initializer.stddev == pytest.approx(0.01)
