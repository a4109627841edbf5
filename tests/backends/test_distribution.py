"""Layers under `tf.distribute` have the weights of one device.

Those under `keras.distribution` are tested by `test_sharding`.
"""

import pytest

from support.processes import run_python

MIRRORED = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
import keras, keras_fanwise

def build():
    initializer = keras_fanwise.FanwiseHeNormal(seed=7)
    inputs = keras.Input((8, 8, 4), name="x")
    x = keras.layers.DepthwiseConv2D(3, depthwise_initializer=initializer)(inputs)
    x = keras.layers.Reshape((-1, 4))(x)
    x = keras.layers.MultiHeadAttention(2, 4, kernel_initializer=initializer)(x, x)
    return keras.Model(inputs, keras.layers.Dense(4, kernel_initializer=initializer)(x))

def kernels(model):
    return [np.array(keras.ops.convert_to_numpy(w.value * 1))
            for w in model.weights if w.name == "kernel"]

alone = kernels(build())
assert len(alone) == 6 and all(kernel.std() > 0 for kernel in alone)
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)])
with strategy.scope():
    model = build()
for weight, expected in zip([w for w in model.weights if w.name == "kernel"], alone):
    replicas = strategy.experimental_local_results(weight.value)
    assert len(replicas) == 4
    for replica in replicas:
        assert np.array_equal(replica.numpy(), expected)

one = build()
report = keras_fanwise.reinitialize(one, seed=3)
spread = keras_fanwise.reinitialize(model, seed=3)
assert [row.std for row in spread.rows] == [row.std for row in report.rows]
for weight, expected in zip(model.weights, one.weights):
    for replica in strategy.experimental_local_results(weight.value):
        assert np.array_equal(replica.numpy(), expected.numpy())
print("equal")
"""


@pytest.mark.multi_backend
def test_weights_are_those_of_one_device():
    assert run_python(MIRRORED, backend="tensorflow").splitlines()[-1] == "equal"
