"""An audit checks that what was meant to be orthogonal is."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_fanwise as kf
from keras_fanwise.reports.weights import Condition

from support.models import values_of
from support.processes import fewer_by_default


def network(dtype=None):
    """Kernels that are orthogonal, delta-orthogonal, made of signs, and narrow."""
    delta = "fanwise_delta_orthogonal"
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(
        64, 3, strides=2, padding="same", kernel_initializer=delta, name="stem", dtype=dtype
    )(image)
    for i in range(2):
        x = layers.DepthwiseConv2D(
            3, padding="same", depthwise_initializer=delta, name=f"signs_{i}", dtype=dtype
        )(x)
    x = layers.Conv2D(
        64,
        3,
        padding="same",
        kernel_initializer=kf.FanwiseDeltaOrthogonal(1.5),
        name="delta",
        dtype=dtype,
    )(x)
    x = layers.Conv2D(
        8, 3, padding="same", kernel_initializer=delta, name="narrow", dtype=dtype
    )(x)
    x = layers.Conv2D(
        96, 3, padding="same", kernel_initializer=delta, name="wide", dtype=dtype
    )(x)
    x = layers.Conv2D(
        32, 3, padding="same", kernel_initializer="orthogonal", name="keras", dtype=dtype
    )(x)
    x = layers.DepthwiseConv2D(
        3, depthwise_initializer="fanwise_orthogonal", name="depthwise", dtype=dtype
    )(x)
    x = layers.Reshape((-1, 32))(x)
    x = layers.GRU(
        16,
        kernel_initializer="fanwise_orthogonal",
        recurrent_initializer="fanwise_orthogonal",
        name="gru",
        dtype=dtype,
    )(x)
    x = layers.Dense(10, kernel_initializer="fanwise_orthogonal", name="head", dtype=dtype)(
        x
    )
    return keras.Model(image, x)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.mark.parametrize("count", fewer_by_default([10, 200], 10))
def test_no_false_alarms(model, count):
    found = []
    for seed in range(count):
        kf.reinitialize(model, seed=seed)
        found += [(seed, finding) for finding in kf.audit(model).findings]
    assert found == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_no_false_alarms_of_other_types(dtype):
    keras.utils.set_random_seed(0)
    with kf.retrofit(orthogonal=True):  # Keras's own cannot be drawn in 16 bits
        model = network(dtype)
    assert kf.audit(model).findings == []


def replaced_by_normals(values):
    rng = np.random.default_rng(0)
    return np.where(values == 0, 0, rng.standard_normal(values.shape) * np.sqrt(np.mean(values**2)))  # fmt: skip


def a_little_noise(values):
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.standard_normal(values.shape) * np.abs(values).max()
    return np.where(values == 0, 0, values + noise)


def one_short_unit(values):
    values[..., 0] *= 0.5
    return values


FAULTS = {
    "normals": replaced_by_normals,
    "noise": a_little_noise,
    "a short unit": one_short_unit,
}


@pytest.mark.few(5)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "path", ["delta/kernel", "keras/kernel", "gru/gru_cell/recurrent_kernel", "head/kernel"]
)
def test_what_is_not_orthogonal_any_more_is_found(model, path, fault):
    kf.reinitialize(model, seed=0)
    weight = next(weight for weight in model.weights if weight.path.endswith(path))
    weight.assign(FAULTS[fault](values_of(weight)))
    (finding,) = kf.audit(model).findings
    assert finding.path == weight.path
    assert finding.condition == Condition.INITIALIZER
    gain = "1.5" if path.startswith("delta") else "1"
    assert finding.numbers.startswith("singular values from ")
    assert finding.numbers.endswith(f" where {gain} is drawn")


def test_a_value_beside_the_central_taps_is_found(model):
    kf.reinitialize(model, seed=0)
    weight = model.get_layer("delta").kernel
    values = values_of(weight)
    values[0, 0, 3, 4] = 0.01
    weight.assign(values)
    (finding,) = kf.audit(model).findings
    assert finding.numbers == "1 values beside the central taps, where 0 is drawn"


def test_equal_units_and_copies_are_found_among_zeros(model):
    kf.reinitialize(model, seed=0)
    weight = model.get_layer("wide").kernel
    values = values_of(weight)
    values[..., 5] = values[..., 2]
    weight.assign(values)
    conditions = {finding.condition for finding in kf.audit(model).findings}
    assert Condition.SYMMETRY in conditions
    again = keras.Sequential(
        [keras.Input((8, 8, 64))]
        + [
            layers.Conv2D(
                64, 3, kernel_initializer=kf.FanwiseDeltaOrthogonal(), name=f"c{i}"
            )
            for i in range(2)
        ]
    )
    first, second = (layer.kernel for layer in again.layers)
    second.assign(values_of(first))
    (finding,) = kf.audit(again).findings
    assert finding.condition == Condition.SYMMETRY
    assert "it has the values of" in finding.numbers
