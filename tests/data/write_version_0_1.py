"""Writes the files that `test_older_versions.py` loads, by the code of version 0.1.

It is to be run with that version, commit 885578a, and with Keras 3.8, the oldest that the
package supports, whose files every later one loads:

    git worktree add ../version_0_1 885578a
    KERAS_BACKEND=jax PYTHONPATH=../version_0_1 python tests/data/write_version_0_1.py
"""

import json
import pickle
from pathlib import Path

import keras
import numpy as np

import keras_fanwise as kf

layers = keras.layers
FOLDER = Path(__file__).parent / "version_0_1"
SHAPE = (2, 3)


def a_model():
    """With a weight by each kind of seed, and names that no number is added to."""
    image = keras.Input((4, 4, 2), name="image")
    generator = keras.random.SeedGenerator(5)
    x = layers.DepthwiseConv2D(
        2, depthwise_initializer=kf.FanwiseHeUniform(seed=generator), name="depthwise"
    )(image)
    x = layers.BatchNormalization(
        gamma_initializer=kf.FanwiseGammaNoise(seed=7), name="norm"
    )(x)
    x = layers.Reshape((9, 2), name="sequence")(x)
    x = layers.LSTM(
        3,
        kernel_initializer="fanwise_glorot_uniform",
        recurrent_initializer=kf.FanwiseVarianceScaling(0.5, "fan_geo_avg", seed=2**40),
        name="lstm",
    )(x)
    x = layers.Dense(
        2,
        kernel_initializer=kf.FanwiseHeNormal(seed=3, negative_slope=0.2),
        bias_initializer=kf.FanwiseNormal(stddev=0.1, seed=4, sampler="portable"),
        name="head",
    )(x)
    return keras.Model(image, x, name="net")


def objects():
    """What the pickle holds, by a name for each."""
    generator = keras.random.SeedGenerator(9)
    advanced = kf.FanwiseHeNormal(seed=generator, negative_slope=0.1)
    advanced(SHAPE)
    return {
        "integer": kf.FanwiseGammaNoise(seed=1),
        "none": kf.FanwiseGlorotNormal(),
        "generator": advanced,
        "long integer": kf.FanwiseGlorotUniform(seed=2**63 + 1),
        "two fans": kf.FanwiseHeUniform(seed=2, fans=(9, 16)),
        "axes": kf.FanwiseLecunNormal(seed=3, input_axes=[1], output_axes=[0]),
        "shape": kf.FanwiseLecunUniform(seed=4, fans="shape"),
        "normal": kf.FanwiseNormal(mean=1.0, stddev=0.5, seed=5),
        "variance scaling": kf.FanwiseVarianceScaling(0.5, "fan_out", "uniform", seed=6),
        "fans": kf.Fans(9, 16.5),
        "rule": kf.Rule(
            kf.FanwiseHeNormal(seed=7),
            layer=(layers.Dense, layers.Conv2D),
            weight="*kernel",
        ),
    }


def values_of(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor), np.float64).tolist()


def main():
    assert keras.__version__.startswith("3.8."), keras.__version__
    FOLDER.mkdir(exist_ok=True)
    keras.utils.set_random_seed(0)
    model = a_model()
    model.save(FOLDER / "model.keras")
    model.save(FOLDER / "model.h5")
    (FOLDER / "model.json").write_text(model.to_json())
    content = objects()
    (FOLDER / "objects.pickle").write_bytes(pickle.dumps(content, protocol=4))
    draws = {
        name: values_of(content[name](SHAPE))
        for name in content
        if isinstance(content[name], keras.initializers.Initializer)
    }
    expected = {
        "weights": {weight.path: values_of(weight.value) for weight in model.weights},
        "draws": draws,
        # Of a pickled generator the state counts: its draws go on, also after a draw.
        "second draw of the generator": values_of(content["generator"](SHAPE)),
        "draw of the rule": values_of(content["rule"].initializer(SHAPE)),
        "configs": {
            name: content[name].get_config() for name in draws if name != "generator"
        },
    }
    (FOLDER / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
