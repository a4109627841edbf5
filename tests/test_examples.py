"""The networks of the examples are as specified, and start as their recipes say."""

import functools
import importlib.util
import itertools
import math
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy import stats

import keras_fanwise as kf

from support.models import values_of
from support.statistics_checks import (
    KURTOSIS,
    check_distribution,
    check_moments,
    truncated_normal_cdf,
)

EXAMPLES, BENCHMARKS = (
    Path(__file__).parents[1] / name for name in ("examples", "benchmarks")
)
layers = keras.layers


def example(name, folder=EXAMPLES):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dcgan_encoder = example("dcgan_encoder").dcgan_encoder
discriminator = example("discriminator").discriminator


def weights_named(model, name):
    return [values_of(weight) for weight in model.weights if weight.name == name]


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def spoil(model):
    """Gives all weights a value that no recipe gives: most biases are 0 before, too."""
    model.set_weights([np.full(weight.shape, 0.5) for weight in model.weights])


def check_normal(values, mean, std):
    check_moments(values, mean, std, KURTOSIS["untruncated_normal"])
    check_distribution(values, stats.norm(mean, std).cdf)


def check_he_normal(kernel):
    std = math.sqrt(2 / kernel.shape[0])
    check_moments(kernel, 0, std, KURTOSIS["truncated_normal"])
    check_distribution(kernel, truncated_normal_cdf(std))


# Of mean 0 and standard deviation 0.02, but not normal.
SAME_MOMENTS = {
    "uniform": keras.initializers.RandomUniform(-0.02 * 3**0.5, 0.02 * 3**0.5),
    "truncated": keras.initializers.TruncatedNormal(0, 0.02 / stats.truncnorm.std(-2, 2)),
}


@functools.cache
def encoder():
    """The one that all tests use: building it takes seconds."""
    return dcgan_encoder(64, channels=3, latent=100, features=64)


# By side: the layers, with the side and the channels of their outputs.
ENCODERS = {
    16: [
        (layers.InputLayer, 16, 3),
        (layers.Conv2D, 8, 8),
        (layers.LeakyReLU, 8, 8),
        (layers.Conv2D, 4, 16),
        (layers.BatchNormalization, 4, 16),
        (layers.LeakyReLU, 4, 16),
        (layers.Conv2D, 1, 5),
    ],
    64: [
        (layers.InputLayer, 64, 3),
        (layers.Conv2D, 32, 64),
        (layers.LeakyReLU, 32, 64),
        (layers.Conv2D, 16, 128),
        (layers.BatchNormalization, 16, 128),
        (layers.LeakyReLU, 16, 128),
        (layers.Conv2D, 8, 256),
        (layers.BatchNormalization, 8, 256),
        (layers.LeakyReLU, 8, 256),
        (layers.Conv2D, 4, 512),
        (layers.BatchNormalization, 4, 512),
        (layers.LeakyReLU, 4, 512),
        (layers.Conv2D, 1, 100),
    ],
}


@pytest.mark.parametrize("side", ENCODERS)
def test_the_encoder_is_as_specified(side):
    # A side of NumPy's is as good as one of Python's.
    model = encoder() if side == 64 else dcgan_encoder(np.int64(side), 3, 5, features=8)
    expected = ENCODERS[side]
    assert [type(layer) for layer in model.layers] == [kind for kind, _, _ in expected]
    shapes = [layer.output.shape for layer in model.layers]
    assert shapes == [(None, side, side, channels) for _, side, channels in expected]
    assert (model.input.shape, model.output.shape) == (shapes[0], shapes[-1])

    *halving, last = convolutions = layers_of(model, layers.Conv2D)
    assert not any(layer.use_bias for layer in convolutions)
    assert all(layer.kernel_size == (4, 4) for layer in convolutions)
    assert all((layer.strides, layer.padding) == ((2, 2), "same") for layer in halving)
    assert (last.strides, last.padding) == ((1, 1), "valid")
    assert all(layer.negative_slope == 0.2 for layer in layers_of(model, layers.LeakyReLU))


@pytest.mark.parametrize(("padding", "same"), [((1, 1), True), (((0, 2), (0, 2)), False)])
def test_same_padding_is_one_pixel_at_each_end(padding, same):
    image = np.random.default_rng(0).standard_normal((1, 8, 8, 2)).astype("float32")
    layer = layers.Conv2D(3, 4, 2, "same", use_bias=False)
    expected = layer(image)
    valid = layers.Conv2D(3, 4, 2, use_bias=False)
    padded = layers.ZeroPadding2D(padding)(image)
    valid.build(padded.shape)
    valid.set_weights(layer.get_weights())
    close = np.allclose(values_of(valid(padded)), values_of(expected), atol=1e-5)
    assert close == same


@pytest.mark.parametrize(
    "side", [0, -16, 4, 8, 15, 17, 40, 48, 80, 96, 32.0, "32", None, True]
)
def test_sides_that_do_not_halve_to_four_are_refused(side):
    with pytest.raises(ValueError, match="`side` must be a multiple of 16") as error:
        dcgan_encoder(side, channels=1, latent=10)
    assert str(error.value).endswith(f"Received: side={side!r}")


def test_dcgan_starts_the_encoder_as_it_says():
    model = encoder()
    constants = {"beta": 0, "moving_mean": 0, "moving_variance": 1}

    def constant(name):
        return all(
            (values == constants[name]).all() for values in weights_named(model, name)
        )

    spoil(model)
    assert not any(map(constant, constants))
    kf.initialize(model, "dcgan", seed=0)
    assert all(map(constant, constants))

    kernels = weights_named(model, "kernel")
    channels = (3, 64), (64, 128), (128, 256), (256, 512), (512, 100)
    assert [kernel.shape for kernel in kernels] == [(4, 4, *pair) for pair in channels]
    for kernel in kernels:
        check_normal(kernel, 0, 0.02)
    gammas = weights_named(model, "gamma")
    assert [gamma.size for gamma in gammas] == [128, 256, 512]
    for gamma in gammas:
        check_normal(gamma, 1, 0.02)
    # There are no others.
    assert len(model.weights) == len(kernels) + (1 + len(constants)) * len(gammas)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        kf.FanwiseNormal(stddev=0.02 * 1.05),
        kf.FanwiseNormal(stddev=0.02 * 0.95),
        kf.FanwiseNormal(mean=0.001),
        *SAME_MOMENTS.values(),
        "fanwise_he_normal",
    ],
    ids=["std 5 % over", "std 5 % under", "mean", *SAME_MOMENTS, "He"],
)
def test_other_kernels_of_convolutions_are_noticed(fault):
    kf.initialize(encoder(), kf.Rule(fault, weight="kernel"), seed=0)
    # All but the first, which is small.
    for kernel in weights_named(encoder(), "kernel")[1:]:
        with pytest.raises(AssertionError):
            check_normal(kernel, 0, 0.02)


# The gammas of one model are too few to notice a standard deviation that is 5 % off.
SEEDS = 24


def gammas_of_many(models, rules):
    batches = []
    for model, seed in itertools.product(models, range(SEEDS)):
        kf.initialize(model, rules, seed=seed)
        batches += weights_named(model, "gamma")
    return np.concatenate(batches)


@pytest.mark.slow
def test_dcgan_gives_gammas_their_distribution_over_many_seeds():
    # Without the kernels, which would take most of the time.
    recipe = [one for one in kf.recipes()["dcgan"] if isinstance(one, kf.Rule)]
    rules = [rule for rule in recipe if rule.role != "kernel"]
    gammas = gammas_of_many([encoder()], rules)
    assert gammas.size == SEEDS * (128 + 256 + 512)
    check_normal(gammas, 1, 0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        kf.FanwiseGammaNoise(stddev=0.02 * 1.05),
        kf.FanwiseGammaNoise(stddev=0.02 * 0.95),
        kf.FanwiseGammaNoise(mean=1.001),
        keras.initializers.RandomUniform(1 - 0.02 * 3**0.5, 1 + 0.02 * 3**0.5),
        "ones",
        "fanwise_normal",
    ],
    ids=["std 5 % over", "std 5 % under", "mean", "uniform", "ones", "around 0"],
)
def test_other_gammas_are_noticed(fault):
    # Of the layers alone: a report of the whole model measures its kernels, too.
    normalizations = layers_of(encoder(), layers.BatchNormalization)
    gammas = gammas_of_many(normalizations, kf.Rule(fault, weight="gamma"))
    assert gammas.size == SEEDS * (128 + 256 + 512)
    with pytest.raises(AssertionError):
        check_normal(gammas, 1, 0.02)


def test_the_discriminator_is_as_specified():
    model = discriminator(30)
    hidden = [layers.Dense, layers.LeakyReLU] * 5
    kinds = [layers.InputLayer, *hidden, layers.Dense]
    assert [type(layer) for layer in model.layers] == kinds
    shapes = [layer.output.shape for layer in model.layers]
    assert shapes == [(None, 30), *[(None, 1000)] * 10, (None, 2)]
    dense = layers_of(model, layers.Dense)
    assert all(layer.use_bias for layer in dense)
    assert all(layer.activation is keras.activations.linear for layer in dense)
    assert all(layer.negative_slope == 0.2 for layer in layers_of(model, layers.LeakyReLU))


# So that every kernel but the last is large enough to notice a standard deviation that
# is 5 % off.
LATENT, WIDTH = 150, 200
CHECKS = {
    "kaiming": check_he_normal,
    "normal": functools.partial(check_normal, mean=0, std=0.02),
}


@pytest.mark.parametrize("recipe", CHECKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_recipes_start_the_discriminator_as_they_say(recipe, seed):
    model = discriminator(LATENT, WIDTH, recipe, seed)
    kernels = weights_named(model, "kernel")
    assert [kernel.shape for kernel in kernels] == [(150, 200), *[(200, 200)] * 4, (200, 2)]
    for kernel in kernels:
        CHECKS[recipe](kernel)
    biases = weights_named(model, "bias")
    assert [bias.shape for bias in biases] == [*[(200,)] * 5, (2,)]
    assert all((bias == 0).all() for bias in biases)

    # What the network was before is of no account, its biases neither.
    weights = model.get_weights()
    spoil(model)
    kf.initialize(model, recipe, seed=seed)
    for value, again in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, again)


@pytest.mark.parametrize("recipe", CHECKS)
def test_the_seed_decides_about_the_discriminator(recipe):
    first, again, other = (
        weights_named(discriminator(3, 4, recipe, seed), "kernel") for seed in (0, 0, 1)
    )
    for kernel, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(kernel, same)
        assert not np.array_equal(kernel, different)


def he(scale=2.0, distribution="truncated_normal"):
    return kf.FanwiseVarianceScaling(scale, "fan_in", distribution)


FAULTS = {
    "kaiming": {
        "std 5 % over": he(2 * 1.05**2),
        "std 5 % under": he(2 * 0.95**2),
        "not truncated": he(distribution="untruncated_normal"),
        "uniform": he(distribution="uniform"),
        "LeCun": "fanwise_lecun_normal",
        "N(0, 0.02²)": "fanwise_normal",
    },
    "normal": {
        "std 5 % over": kf.FanwiseNormal(stddev=0.02 * 1.05),
        "std 5 % under": kf.FanwiseNormal(stddev=0.02 * 0.95),
        **SAME_MOMENTS,
        "He": "fanwise_he_normal",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "fault"),
    [(recipe, fault) for recipe, faults in FAULTS.items() for fault in faults],
)
def test_other_kernels_of_the_discriminator_are_noticed(recipe, fault):
    rule = kf.Rule(FAULTS[recipe][fault], weight="kernel")
    *kernels, _ = weights_named(discriminator(LATENT, WIDTH, rule), "kernel")
    for kernel in kernels:
        with pytest.raises(AssertionError):
            CHECKS[recipe](kernel)


@pytest.fixture(scope="module")
def rates():
    pytest.importorskip("jax")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return example("rates", BENCHMARKS)


def test_the_interval_over_the_seeds_is_of_student(rates):
    values = [0.914, 0.95, 0.93, 0.91, 0.97]
    known = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    mean, reach = rates.interval(values)
    assert (mean - reach, mean + reach) == pytest.approx((known.low, known.high))


def test_rates_are_tried_until_the_accuracy_falls_on_both_sides(rates):
    asked = []

    def score(exponent):
        """Highest at 10; within 0.02 of that from 7.5 to 12.5."""
        asked.append(exponent)
        return 0.9 - 0.008 * abs(exponent - 10)

    curve = rates.search(score, rates.Search(range(0, 3), -5, 20))
    assert (list(curve), rates.best(curve)) == (list(range(0, 14)), 10)
    assert sorted(asked) == list(curve), "each once"
    assert rates.good_range(curve) == pytest.approx((7.5, 12.5))
    assert list(rates.search(score, rates.Search(range(10, 13), 8, 20))) == [*range(8, 14)]

    # Where the grid ends first, nothing is known of the range.
    open_above = rates.search(score, rates.Search(range(0, 3), -5, 12))
    assert list(open_above)[-1] == 12
    assert rates.good_range(open_above) == (pytest.approx(7.5), math.inf)
    assert (rates.width(curve), rates.width(open_above)) == ("× 316", "≥ × 178")
    # A good rate beyond a bad one is no part of the range.
    gap = {0: 0.5, 1: 0.9, 2: 0.5, 3: 0.89, 4: 0.5}
    assert rates.good_range(gap) == pytest.approx((0.95, 1.05))


@pytest.mark.parametrize(("stride", "side"), [(1, 8), (2, 8), (2, 7)])
def test_the_faster_depthwise_layer_computes_the_same(rates, stride, side):
    if keras.backend.backend() != "jax":
        pytest.skip("it is for JAX")
    images = np.random.default_rng(0).normal(size=(2, side, side, 5)).astype("float32")
    layer = rates.Depthwise(3, stride, "same", bias_initializer="normal")
    known = layers.DepthwiseConv2D(3, stride, "same")
    result = values_of(layer(images))
    known.build(images.shape)
    known.set_weights(layer.get_weights())
    np.testing.assert_allclose(result, values_of(known(images)), atol=1e-5)
    assert kf.fans_table(layer).rows[0].fans.fan_in == 9


def test_rates_are_compared_from_a_file_that_keeps_every_run(rates, tmp_path, monkeypatch):
    if keras.backend.backend() != "jax":
        pytest.skip("it is for JAX")
    file = tmp_path / "rates.json"
    rates.Results(rates.QUICK, file).train()
    monkeypatch.delattr(rates, "Trainer")  # nothing is trained again
    results = rates.Results(rates.QUICK, file)
    # Four starts and two other scales, from two rates by two seeds, and two reported.
    assert len(results.runs) == 6 * (2 * 2 + 2)
    rates.print_tables(results)
    rates.draw(results, tmp_path / "rates.png")
    # After two steps the starts differ by their depthwise kernels.
    changes = {
        start: results.run(
            rates.Setting("digits", "4 blocks", start, "Adam"), -6, 1000
        ).change
        for start in rates.STARTS
    }
    assert changes["he_normal"] > 1.2 * changes["fanwise_he_normal"]


thousand_layers = example("thousand_layers")


def test_the_thousand_layers_differ_in_their_kernels_only():
    depth = 12
    critical = kf.criticality("tanh", q=1 / depth)
    for start in thousand_layers.STARTS:
        keras.utils.set_random_seed(0)
        network = thousand_layers.build_network(start, depth)
        *hidden, head = [layer for layer in network.layers if layer.weights]
        assert [type(layer) for layer in hidden] == [layers.Conv2D] * (depth + 1)
        assert all(layer.activation is keras.activations.tanh for layer in hidden)
        assert [layer.strides for layer in hidden] == [(2, 2), *[(1, 1)] * depth]
        assert head.output.shape == (None, 10)
        biases = np.concatenate([values_of(layer.bias) for layer in hidden[1:]])
        check_normal(biases, 0, critical.bias_variance**0.5)
        kernel = values_of(hidden[1].kernel).reshape(9, 16, 16)
        isometry = np.allclose(
            kernel[4].T @ kernel[4], critical.weight_variance * np.eye(16), atol=1e-5
        )
        assert isometry == (start == thousand_layers.OURS)


def run(accuracy):
    return thousand_layers.Run([1.0], [1.0], accuracy, 1.0)


def test_the_thousand_layers_must_be_as_claimed():
    ours, he = thousand_layers.OURS, "he_normal"
    thousand_layers.check({ours: [run(0.93), run(0.91)], he: [run(0.1)]}, 1000)
    for ours_accuracy, he_accuracy in [(0.9, 0.1), (0.93, 0.21), (0.93, 0.95), (0.1, 0.1)]:
        results = {ours: [run(0.93), run(ours_accuracy)], he: [run(he_accuracy)]}
        with pytest.raises(SystemExit, match="not as claimed"):
            thousand_layers.check(results, 1000)
