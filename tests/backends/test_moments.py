"""Moments in float64, on the host and by the backend's own operations."""

import math

import keras
import ml_dtypes
import numpy as np
import pytest

from keras_fanwise.backends import arrays
from keras_fanwise.backends.arrays import moments, pooled

# What rounding float64 leaves, relatively, of a sum over blocks.
ROUNDING = 1e-13


@pytest.fixture(params=["host", "device"])
def route(request, monkeypatch):
    """On a device the arrays stay tensors, as if their memory were not the host's."""
    if request.param == "device":
        if keras.backend.backend() == "jax":
            pytest.skip("JAX measures on the host")
        monkeypatch.setattr(arrays, "_where_it_is", lambda tensor: tensor)
        monkeypatch.setattr(arrays, "_DEVICE_BLOCK", 1000)
    monkeypatch.setattr(arrays, "_BLOCK", 1000)


def sample(shape, dtype="float32", mean=0.3):
    values = np.random.default_rng(0).normal(mean, 2.0, shape)
    values[..., 0] = 0.0
    return keras.ops.cast(keras.ops.convert_to_tensor(values), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(1,), (40, 70), (3, 4, 5, 60)])
@pytest.mark.usefixtures("route")
def test_moments_are_those_of_numpy(shape, dtype):
    tensor = sample(shape, dtype)
    values = np.asarray(keras.ops.convert_to_numpy(tensor)).astype("float64")
    found = moments(tensor)
    assert found.size == values.size
    assert found.mean == pytest.approx(values.mean(), rel=ROUNDING)
    assert found.std == pytest.approx(values.std(), rel=ROUNDING)
    assert (found.smallest, found.largest) == (values.min(), values.max())
    positive = ((values > 0).mean() + (values >= 0).mean()) / 2
    assert found.positive == pytest.approx(positive, rel=ROUNDING)
    assert found.dead == 0.0  # nobody asked


@pytest.mark.usefixtures("route")
def test_a_small_deviation_beside_a_large_mean():
    """Which the mean of the squares, less the square of the mean, would lose."""
    tensor = sample((40, 70), mean=3e4)
    values = np.asarray(keras.ops.convert_to_numpy(tensor)).astype("float64")[:, 1:]
    assert moments(tensor[:, 1:]).std == pytest.approx(values.std(), rel=1e-11)


@pytest.mark.usefixtures("route")
def test_dead_units():
    values = np.ones((6, 4, 5), "float32")
    values[..., 2] = 0.0
    values[:, 1] = 0.0
    tensor = keras.ops.convert_to_tensor(values)
    assert moments(tensor, -1).dead == pytest.approx(1 / 5)
    assert moments(tensor, 1).dead == pytest.approx(1 / 4)
    assert moments(tensor * 0, -1).dead == 1.0
    assert moments(tensor[0, 0], -1).dead == 0.0  # one unit, with a value that is not 0
    assert moments(tensor[0, 1], -1).dead == 1.0


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_values_that_are_not_finite(value):
    values = np.ones((3, 1000), "float32")
    values[1, 1] = value
    found = moments(keras.ops.convert_to_tensor(values))
    assert not math.isfinite(found.mean)
    assert not math.isfinite(found.std)
    assert not math.isfinite(found.smallest + found.largest)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_values_whose_squares_float64_does_not_hold(scale):
    values = np.random.default_rng(0).normal(size=200_000)
    assert moments(values * scale).std == pytest.approx(scale * values.std(), rel=ROUNDING)


def test_pooled_moments_are_those_of_all_values():
    values = np.random.default_rng(0).normal(1.0, 2.0, 1000)
    parts = [moments(values[:10]), moments(values[10:10]), moments(values[10:] * 1.0)]
    assert pooled(parts) == pytest.approx(moments(values), rel=ROUNDING)
    assert math.isnan(pooled([]).std)
    assert math.isnan(moments(np.zeros((0, 3), ml_dtypes.bfloat16), -1).mean)
