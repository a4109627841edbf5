import json
import math

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.arguments import snake_case
from keras_fanwise.initializers.base import TRUNCATED_STD

from support.any_weight import ANY_WEIGHT
from support.models import values_of
from support.statistics_checks import (
    KURTOSIS,
    check_distribution,
    check_moments,
    truncated_normal_cdf,
)

SHAPE = (400, 900)
NAMED = {
    # name: (scale, fan for SHAPE, distribution)
    "glorot_normal": (1.0, 650.0, "truncated_normal"),
    "glorot_uniform": (1.0, 650.0, "uniform"),
    "he_normal": (2.0, 400.0, "truncated_normal"),
    "he_uniform": (2.0, 400.0, "uniform"),
    "lecun_normal": (1.0, 400.0, "truncated_normal"),
    "lecun_uniform": (1.0, 400.0, "uniform"),
}


def named(name, **arguments):
    return type(keras.initializers.get(f"fanwise_{name}"))(**arguments)


def draw(initializer, shape=SHAPE, dtype=None):
    return values_of(initializer(shape, dtype=dtype))


# Names


@pytest.mark.parametrize("cls", ANY_WEIGHT)
def test_both_names_resolve(cls):
    for name in (cls.__name__, snake_case(cls.__name__)):
        assert type(keras.initializers.get(name)) is cls
    assert getattr(kf, cls.__name__) is cls


def test_the_public_names_are_sorted_and_all_there():
    assert kf.__all__ == sorted(kf.__all__)
    assert all(hasattr(kf, name) for name in kf.__all__)


def test_not_a_subclass_of_what_einsum_dense_rebuilds():
    for cls in ANY_WEIGHT:
        assert not issubclass(cls, keras.initializers.VarianceScaling)


# What is drawn


@pytest.mark.parametrize("name", NAMED)
def test_moments_and_distribution(name):
    scale, fan, distribution = NAMED[name]
    std = math.sqrt(scale / fan)
    values = draw(named(name, seed=5))
    assert values.dtype == np.float32
    check_moments(values, 0.0, std, KURTOSIS[distribution])
    if distribution == "truncated_normal":
        check_distribution(values, truncated_normal_cdf(std))
    # The limit and the truncation, and that draws come close to them.
    bound = math.sqrt(3) * std if distribution == "uniform" else 2 * std / TRUNCATED_STD
    assert 0.999 * bound < np.abs(values).max() <= bound


def test_fan_out_in_place_of_fan_in_is_caught():
    values = draw(kf.FanwiseVarianceScaling(2.0, "fan_out", seed=5), (400, 410))
    with pytest.raises(AssertionError):
        check_moments(values, 0.0, math.sqrt(2 / 400), KURTOSIS["truncated_normal"])


@pytest.mark.parametrize("distribution", sorted(KURTOSIS))
@pytest.mark.parametrize(
    ("mode", "fan"),
    [("fan_in", 400), ("fan_out", 900), ("fan_avg", 650), ("fan_geo_avg", 600)],
)
def test_modes_and_distributions(mode, fan, distribution):
    initializer = kf.FanwiseVarianceScaling(1.5, mode, distribution, seed=3)
    check_moments(draw(initializer), 0.0, math.sqrt(1.5 / fan), KURTOSIS[distribution])


def test_normal_is_truncated_normal_as_in_keras():
    assert (
        kf.FanwiseVarianceScaling(distribution="normal").distribution == "truncated_normal"
    )
    assert kf.FanwiseVarianceScaling(mode="FAN_OUT").mode == "fan_out"


@pytest.mark.parametrize("name", ["he_normal", "he_uniform"])
def test_negative_slope(name):
    distribution = NAMED[name][2]
    values = draw(named(name, seed=1, negative_slope=0.5))
    check_moments(values, 0.0, math.sqrt(2 / 1.25 / 400), KURTOSIS[distribution])


def test_fans_given_or_by_axes():
    arguments = {"seed": 1, "scale": 1.0, "mode": "fan_in"}
    by_pair = kf.FanwiseVarianceScaling(fans=(50.5, 1), **arguments)
    check_moments(draw(by_pair), 0, math.sqrt(1 / 50.5), KURTOSIS["truncated_normal"])
    # Axes win over fans.
    by_axes = kf.FanwiseVarianceScaling(
        fans=(50.5, 1), input_axes=[1], output_axes=[0], **arguments
    )
    check_moments(draw(by_axes), 0, math.sqrt(1 / 900), KURTOSIS["truncated_normal"])
    by_shape = kf.FanwiseVarianceScaling(fans="shape", **arguments)
    assert np.array_equal(draw(by_shape), draw(kf.FanwiseVarianceScaling(**arguments)))


def test_a_fan_below_one_counts_as_one():
    values = draw(kf.FanwiseVarianceScaling(fans=(0.01, 0.01), seed=1))
    check_moments(values, 0.0, 1.0, KURTOSIS["truncated_normal"])
    assert draw(kf.FanwiseHeNormal(), (0, 5)).shape == (0, 5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("cls", ANY_WEIGHT)
def test_dtypes(cls, dtype):
    # Delta kernels have taps.
    shape = (2, 40, 50) if cls is kf.FanwiseDeltaOrthogonal else (40, 50)
    tensor = cls(seed=1)(shape, dtype=dtype)
    assert keras.backend.standardize_dtype(tensor.dtype) == dtype
    single = draw(cls(seed=1), shape, "float32").astype(np.float64)
    low = values_of(keras.ops.cast(tensor, "float32")).astype(np.float64)
    # Half a unit in the last place: 11 bits of float16, 8 of bfloat16.
    assert np.all(np.abs(low - single) <= np.abs(single) * 2.0**-8 + 1e-7)


def test_the_default_dtype_is_floatx():
    keras.config.set_floatx("float16")
    try:
        tensor = kf.FanwiseHeNormal()((2, 2))
        assert keras.backend.standardize_dtype(tensor.dtype) == "float16"
    finally:
        keras.config.set_floatx("float32")


def test_gamma_noise_in_batch_normalization():
    layer = keras.layers.BatchNormalization(gamma_initializer="fanwise_gamma_noise")
    layer.build((None, 100_000))
    check_moments(values_of(layer.gamma), 1.0, 0.02, 3.0)
    assert np.all(values_of(layer.beta) == 0)


def test_fanwise_normal_is_not_truncated():
    values = draw(kf.FanwiseNormal(mean=0.5, stddev=0.1, seed=4))
    check_moments(values, 0.5, 0.1, 3.0)
    assert np.abs(values - 0.5).max() > 0.4


# Seeds


@pytest.mark.parametrize("sampler", ["portable", "backend"])
def test_an_integer_seed_gives_the_same_values_at_every_call(sampler):
    initializer = kf.FanwiseHeNormal(seed=3, sampler=sampler)
    first = draw(initializer)
    assert np.array_equal(first, draw(initializer))
    assert np.array_equal(first, draw(kf.FanwiseHeNormal(seed=3, sampler=sampler)))
    assert not np.array_equal(first, draw(kf.FanwiseHeNormal(seed=4, sampler=sampler)))


@pytest.mark.parametrize("sampler", ["portable", "backend"])
def test_set_random_seed_governs_unseeded_initializers(sampler):
    def three():
        return [draw(kf.FanwiseHeNormal(sampler=sampler), (4, 5)) for _ in range(3)]

    keras.utils.set_random_seed(7)
    first = three()
    keras.utils.set_random_seed(7)
    assert np.array_equal(first, three())
    assert not np.array_equal(first[0], first[1])
    initializer = kf.FanwiseHeNormal(sampler=sampler)
    assert np.array_equal(draw(initializer), draw(initializer))


@pytest.mark.parametrize("sampler", ["portable", "backend"])
def test_a_generator_advances_with_every_draw(sampler):
    generator = keras.random.SeedGenerator(5)
    initializer = kf.FanwiseHeNormal(seed=generator, sampler=sampler)
    first, second = draw(initializer), draw(initializer)
    assert not np.array_equal(first, second)
    assert "seed=SeedGenerator(seed=5)" in repr(kf.FanwiseHeNormal(generator))
    again = kf.FanwiseHeNormal(seed=keras.random.SeedGenerator(5), sampler=sampler)
    assert np.array_equal(first, draw(again))
    assert np.array_equal(second, draw(again))
    assert np.array_equal(values_of(generator.state.value), [5, 2])


def test_numpy_integers_are_seeds():
    initializer = kf.FanwiseHeNormal(seed=np.int64(3))
    assert type(initializer.seed) is int
    assert np.array_equal(draw(initializer), draw(kf.FanwiseHeNormal(seed=3)))
    json.dumps(initializer.get_config())


def test_large_seeds():
    values = [draw(kf.FanwiseHeNormal(seed=s), (9,)) for s in (0, 2**32, 2**63, 2**64 - 1)]
    assert len({value.tobytes() for value in values}) == 4


class WithoutBuild(keras.Model):
    """A model whose weights are created while Keras infers shapes."""

    def __init__(self, initializer):
        super().__init__()
        self.one = keras.layers.Dense(4, kernel_initializer=initializer)
        self.two = keras.layers.Dense(3, kernel_initializer=initializer)

    def call(self, x):
        return self.two(self.one(x))


@pytest.mark.few(3)
@pytest.mark.parametrize("sampler", ["portable", "backend"])
@pytest.mark.parametrize("seed", [1, None, "generator"])
def test_models_that_create_their_weights_in_call(seed, sampler):
    generator = keras.random.SeedGenerator(5)
    seed = generator if seed == "generator" else seed
    model = WithoutBuild(kf.FanwiseHeNormal(seed=seed, sampler=sampler))
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(np.ones((4, 5)), np.ones((4, 3)), verbose=0)
    for layer in (model.one, model.two):
        assert np.std(values_of(layer.kernel.value)) > 0
    if seed is generator:
        assert values_of(generator.state.value)[1] >= 2  # it advanced for both


# `sampler="backend"`


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(
    "shape", [(7,), (30, 40), (3, 16, 8), (3, 3, 8, 16), (2, 3, 2, 4, 5)]
)
def test_backend_draws_are_the_bits_of_the_built_in(name, shape):
    for seed in (0, 11, *filter(_keras_takes, [2**31 + 7])):
        built_in = keras.initializers.deserialize(
            {"class_name": name, "config": {"seed": seed}}
        )
        ours = named(name, seed=seed, sampler="backend")
        assert np.array_equal(draw(ours, shape), draw(built_in, shape))


def _keras_takes(seed):
    """Not every Keras takes seeds beyond 31 bits on PyTorch."""
    try:
        keras.random.uniform((1,), seed=seed)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("seed", [2**31 - 1, 2**31, 2**31 + 7, 2**32 - 1])
def test_backend_draws_take_all_seeds_of_32_bits(seed):
    values = draw(kf.FanwiseNormal(seed=seed, sampler="backend"))
    check_moments(values, 0.0, 0.02, KURTOSIS["untruncated_normal"])
    if (
        getattr(keras.ops.zeros(()).device, "type", None) == "cpu"
    ):  # PyTorch's, which it seeds
        import torch

        generator = torch.Generator().manual_seed(seed)
        expected = torch.normal(0.0, 0.02, values.shape, generator=generator)
        assert np.array_equal(values, expected.numpy())


def test_backend_draws_follow_set_random_seed_as_the_built_in_does():
    keras.utils.set_random_seed(1)
    built_in = draw(keras.initializers.HeNormal())
    keras.utils.set_random_seed(1)
    assert np.array_equal(draw(kf.FanwiseHeNormal(sampler="backend")), built_in)


def test_backend_draws_of_the_normals():
    built_in = keras.initializers.RandomNormal(1.0, 0.02, seed=3)
    ours = kf.FanwiseGammaNoise(seed=3, sampler="backend")
    assert np.array_equal(draw(ours), draw(built_in))
    variance_scaling = keras.initializers.VarianceScaling(
        3.0, "fan_avg", "untruncated_normal", seed=3
    )
    ours = kf.FanwiseVarianceScaling(
        3.0, "fan_avg", "untruncated_normal", seed=3, sampler="backend"
    )
    assert np.array_equal(draw(ours), draw(variance_scaling))


def test_portable_draws_are_not_those_of_the_built_in():
    # Or the equalities above would hold for want of a difference.
    assert not np.array_equal(
        draw(kf.FanwiseHeNormal(seed=3)), draw(keras.initializers.HeNormal(seed=3))
    )


# The tensors that come out


def test_a_draw_is_nobody_elses_memory():
    variable = keras.Variable(kf.FanwiseHeNormal(seed=3), shape=(64, 64))
    other = keras.Variable(kf.FanwiseHeNormal(seed=3), shape=(64, 64))
    before = values_of(other.value)
    variable.assign_add(keras.ops.ones((64, 64)))
    assert np.array_equal(values_of(other.value), before)
    assert np.array_equal(values_of(variable.value), before + 1)


def test_drawn_weights_can_be_trained():
    layer = keras.layers.Dense(3, kernel_initializer="fanwise_he_normal", dtype="float32")
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile("sgd", "mse", jit_compile=False)
    before = values_of(layer.kernel.value)
    model.fit(np.ones((8, 5)), np.ones((8, 3)), verbose=0)
    after = values_of(layer.kernel.value)
    assert np.all(np.isfinite(after))
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_dtype_policies(policy):
    def kernel(dtype):
        initializer = kf.FanwiseHeNormal(seed=1)
        layer = keras.layers.Dense(64, kernel_initializer=initializer, dtype=dtype)
        layer.build((None, 32))
        assert keras.backend.standardize_dtype(layer.kernel.dtype) == layer.variable_dtype
        return values_of(
            keras.ops.cast(layer.kernel.value, "float32")
        ), layer.variable_dtype

    values, dtype = kernel(policy)
    single, _ = kernel("float32")
    rounded = keras.ops.cast(keras.ops.cast(single, dtype), "float32")
    assert np.array_equal(values, values_of(rounded))
