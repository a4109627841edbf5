"""Copies, also transposed, and values of the wrong shape: found, and nothing else."""

import ml_dtypes
import numpy as np
import pytest
from scipy import stats

from keras_fanwise.diagnostics.measured import equal_beginnings, equal_bits, shape_tail
from keras_fanwise.initializers.base import DISTRIBUTIONS
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling
from keras_fanwise.sampling.sampler import Stream

from support.statistics_checks import K

DTYPES = ("float32", "bfloat16", "float16", "float64")


def weights(distribution, count, size, dtype="float32"):
    return [
        Stream(seed).draw(distribution, (size,), dtype, spread=0.1) for seed in range(count)
    ]


def orthogonal(count, size):
    side = round(size**0.5)
    normals = np.random.default_rng(0).normal(size=(count, side, side))
    q, r = np.linalg.qr(normals)
    signs = np.sign(np.diagonal(r, axis1=1, axis2=2))  # or LAPACK would choose them
    return list((q * signs[:, None, :]).reshape(count, -1))


@pytest.mark.few(3)
@pytest.mark.parametrize("kind", [*DISTRIBUTIONS, "orthogonal"])
@pytest.mark.parametrize("size", [64, 1024])
def test_independent_weights_are_no_copies(kind, size):
    """At a level at which some pairs are close by chance, and at one of audits."""
    count, expected, side = 600, 40, round(size**0.5)
    values = orthogonal(count, size) if kind == "orthogonal" else weights(kind, count, size)
    values = [each.reshape(side, side) for each in values]
    found = equal_beginnings(values, expected)
    assert len(found) < expected + K * np.sqrt(expected)
    if kind == "uniform":  # of which there are the most: the check can fail
        assert len(found) > 0
    assert not equal_beginnings(values, 1e-4)


REARRANGEMENTS = {
    "transposed": lambda v: v.T,
    "its last axes swapped": lambda v: np.swapaxes(v, -1, -2),
    "scaled": lambda v: v * np.float32(-0.37),
    "transposed and scaled": lambda v: v.T * np.float32(-0.37),
    "as it is": lambda v: v.copy(),
}


@pytest.mark.few(20)
@pytest.mark.parametrize("kind", REARRANGEMENTS)
@pytest.mark.parametrize("shape", [(8, 8), (64, 32), (300, 200), (3, 3, 16, 32)])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_copies_are_found(kind, shape, distribution):
    values = [Stream(seed).draw(distribution, shape, spread=0.1) for seed in range(40)]
    values.append(REARRANGEMENTS[kind](values[7]))
    assert equal_beginnings(values, 1e-4) == {40: 7}


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_of_any_type(dtype):
    values = [
        Stream(seed).draw("uniform", (40, 50), dtype, spread=0.1) for seed in range(30)
    ]
    values.append(values[3].T)
    assert equal_beginnings(values, 1e-4) == {30: 3}


def test_what_is_not_compared():
    assert not equal_beginnings([np.zeros(100)] * 3, 1e-4)
    assert not equal_beginnings([np.ones((8, 8))], 1e-4)


def test_equal_beginnings():
    values = weights("uniform", 10, 200)
    values.append(3 * values[4][:70])
    assert equal_beginnings(values, 1e-4) == {10: 4}


def parameters(distribution):
    return FanwiseVarianceScaling(1.0, "fan_in", distribution).expected((1, 1))


def shape_tails(values, distribution, dtype="float32"):
    eps = float(ml_dtypes.finfo(dtype).eps)
    return shape_tail(np.asarray(values).astype(dtype), parameters(distribution), eps)


@pytest.mark.few(3)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("size", [2, 30, 5000])
def test_false_alarms_of_shapes(distribution, size):
    trials = 400
    drawn = parameters(distribution)
    values = Stream(5).draw(distribution, (trials, size), spread=drawn.spread)
    tails = np.array([shape_tails(each, distribution) for each in values])
    for asked in (0.2, 0.02):
        alarms = np.mean(tails < asked)
        assert alarms < asked + K * np.sqrt(asked / trials)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_rounding_is_no_other_shape(distribution, dtype):
    drawn = parameters(distribution)
    for seed in range(5):
        values = Stream(seed).draw(distribution, (2**17,), dtype, spread=drawn.spread)
        assert shape_tails(values, distribution, dtype) > 1e-4
    coarse = drawn.spread * (np.floor(values.astype(float) / drawn.spread * 128) / 128)
    assert shape_tails(coarse, distribution, "bfloat16") > 1e-4


SAMPLERS = {
    "uniform": stats.uniform(-(3**0.5), 2 * 3**0.5),
    "truncated_normal": stats.truncnorm(-2, 2, scale=1 / stats.truncnorm.std(-2, 2)),
    "untruncated_normal": stats.norm(),
    "two values": stats.rv_discrete(values=([-1, 1], [0.5, 0.5])),
    "long tails": stats.laplace(scale=2**-0.5),
}
# Values from which on a wrong shape of the right deviation is found: the limits of a
# distribution betray at once what has none; the rest is for the distribution function.
ENOUGH = {
    ("uniform", "truncated_normal"): 300,
    ("uniform", "untruncated_normal"): 200,
    ("truncated_normal", "uniform"): 20_000,
    ("truncated_normal", "untruncated_normal"): 500,
    ("untruncated_normal", "uniform"): 6000,
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("wrong", SAMPLERS)
def test_wrong_shapes_are_found(distribution, wrong):
    if wrong == distribution or (distribution, wrong) == (
        "untruncated_normal",
        "truncated_normal",
    ):
        # Normals of one deviation, with tails or not, differ too little in the middle.
        return
    size = ENOUGH.get((distribution, wrong), 3000)
    for seed in range(10):
        values = SAMPLERS[wrong].rvs(size=size, random_state=seed)
        assert shape_tails(values, distribution) < 1e-6


def test_short_weights_that_are_equal_bit_for_bit():
    """Of a few values, unless chance alone makes so few equal in so coarse a type."""
    values = [Stream(seed).draw("uniform", (1, 1, 3, 4), "float32") for seed in range(300)]
    assert equal_bits(values, [20] * 300, 1e-4) == {}
    values[200] = values[7].copy()
    assert equal_bits(values, [20] * 300, 1e-4) == {200: 7}
    values[7] = values[7].reshape(3, 4)
    assert equal_bits(values, [20] * 300, 1e-4) == {}
    coarse = [np.float16([seed % 50]) for seed in range(300)]
    assert equal_bits(coarse, [8] * 300, 1e-4) == {}
