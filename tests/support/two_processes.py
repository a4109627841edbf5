"""One of two processes of `jax.distributed`, each with four devices.

Run with the port of the first process, the number of this one, and a folder in which to
save what it has.
"""

import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
port, number, folder = sys.argv[1:]

import jax

jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(number))

import keras
import numpy as np

import keras_fanwise as kf

SHAPE = (64, 48)
drawn, draw = [], kf.Stream.draw


def recorded(*args, **kwargs):
    values = draw(*args, **kwargs)
    drawn.append(values.size)
    return values


kf.Stream.draw = recorded

assert jax.process_count() == 2
assert len(jax.devices()) == 8
devices = np.array(jax.devices()).reshape(4, 2)
mesh = jax.sharding.Mesh(devices, ("a", "b"))
spec = jax.sharding.PartitionSpec("a", "b")
value = kf.FanwiseHeNormal(seed=7)(SHAPE, layout=jax.sharding.NamedSharding(mesh, spec))
assert not value.is_fully_addressable
assert sum(drawn) == 64 * 48 // 2, drawn  # its half of the whole, and no more
np.savez(
    f"{folder}/{number}.npz",
    **{str(shard.index): np.asarray(shard.data) for shard in value.addressable_shards},
)

# A whole model: its weights lie over both processes, and each draws what it holds.
keras.utils.set_random_seed(1)
mesh = keras.distribution.DeviceMesh(
    (8,), ["model"], keras.distribution.list_devices("cpu")
)
layout_map = keras.distribution.LayoutMap(mesh)
layout_map[".*kernel"] = (None, "model")
keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layout_map))
model = keras.Sequential(
    [
        keras.Input((16,)),
        keras.layers.Dense(32, kernel_initializer="fanwise_he_normal", name="body"),
        keras.layers.Dense(8, kernel_initializer="fanwise_he_normal", name="head"),
    ]
)
drawn.clear()
report = kf.reinitialize(model, seed=5)
assert sum(drawn) == (16 * 32 + 32 * 8) // 2, drawn
assert all(row.std >= 0 for row in report.rows)
np.savez(
    f"{folder}/model-{number}.npz",
    **{
        f"{weight.path} {shard.index}": np.asarray(shard.data)
        for weight in model.weights
        for shard in weight.value.addressable_shards
    },
)
