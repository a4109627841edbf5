"""Configs, copies, and models on their way through a file and a fresh process."""

import copy
import json
import pickle
import re

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_fanwise as kf
from keras_fanwise.initializers.base import DISTRIBUTIONS
from keras_fanwise.initializers.variance_scaling import MODES

from support.any_weight import ANY_WEIGHT
from support.models import values_of
from support.processes import run_python

# Delta kernels have taps.
SHAPE = (3, 4, 5)
numbers = st.floats(1e-6, 1e6)
seeds = {"seed": st.none() | st.integers(0, 2**32 - 1)}
samplers = {
    "sampler": st.sampled_from(["portable", "backend"]),
}
fans = {
    "fans": st.sampled_from(["layer", "shape"]) | st.lists(numbers, min_size=2, max_size=2)
}
axes = st.just((None, None)) | st.just(([0], [1])) | st.just(([0, 1], [-1, 0]))
own = {
    kf.FanwiseVarianceScaling: {
        **fans,
        "scale": numbers,
        "mode": st.sampled_from(MODES),
        "distribution": st.sampled_from(DISTRIBUTIONS),
    },
    kf.FanwiseHeNormal: {**fans, "negative_slope": st.floats(-2, 2)},
    kf.FanwiseHeUniform: {**fans, "negative_slope": st.floats(-2, 2)},
    kf.FanwiseOrthogonal: {"gain": numbers},
    kf.FanwiseDeltaOrthogonal: {"gain": numbers},
    kf.FanwiseSiren: {"omega": numbers, "first": st.booleans()},
    kf.FanwiseNormal: {"mean": st.floats(-9, 9), "stddev": numbers},
    kf.FanwiseGammaNoise: {"mean": st.floats(-9, 9), "stddev": numbers},
}


@pytest.mark.few(5)
@pytest.mark.parametrize("cls", ANY_WEIGHT)
@settings(max_examples=40)
@given(st.data())
def test_every_argument_goes_round(cls, data):
    common = (
        seeds
        if issubclass(cls, (kf.FanwiseOrthogonal, kf.FanwiseSiren))
        else {**seeds, **samplers}
    )
    arguments = data.draw(st.fixed_dictionaries({**common, **own.get(cls, fans)}))
    if "fans" in arguments:
        arguments["input_axes"], arguments["output_axes"] = data.draw(axes)
    initializer = cls(**arguments)
    config = initializer.get_config()
    assert config == arguments
    assert cls.from_config(json.loads(json.dumps(config))).get_config() == config
    assert initializer.clone().get_config() == config
    serialized = json.loads(json.dumps(keras.initializers.serialize(initializer)))
    again = keras.initializers.deserialize(serialized)
    assert type(again) is cls
    assert again.get_config() == config
    if arguments["seed"] is not None:
        expected = values_of(initializer(SHAPE))
        for other in (again, initializer.clone(), pickle.loads(pickle.dumps(initializer))):
            assert np.array_equal(values_of(other(SHAPE)), expected)


@pytest.mark.parametrize("cls", ANY_WEIGHT)
def test_a_generator_goes_round(cls):
    initializer = cls(seed=keras.random.SeedGenerator(9))
    config = json.loads(json.dumps(initializer.get_config()))
    again = cls.from_config(config)
    assert isinstance(again.seed, keras.random.SeedGenerator)
    assert again.seed is not initializer.seed
    assert again.get_config() == initializer.get_config()
    assert np.array_equal(values_of(again(SHAPE)), values_of(initializer(SHAPE)))


@pytest.mark.parametrize(
    "duplicate", [lambda i: pickle.loads(pickle.dumps(i)), copy.deepcopy]
)
def test_a_pickled_generator_goes_on_where_it_was(duplicate):
    initializer = kf.FanwiseHeNormal(seed=keras.random.SeedGenerator(9))
    initializer(SHAPE)
    other = duplicate(initializer)
    assert np.array_equal(values_of(other(SHAPE)), values_of(initializer(SHAPE)))
    assert other.get_config() == initializer.get_config()


def test_copies_share_the_generator():
    initializer = kf.FanwiseHeNormal(seed=keras.random.SeedGenerator(9))
    assert copy.copy(initializer).seed is initializer.seed


def test_a_changed_config_changes_no_initializer():
    arguments = {"fans": [3, 4], "input_axes": [0], "output_axes": [1]}
    initializer = kf.FanwiseHeNormal(seed=1, **arguments)
    for key in arguments:
        initializer.get_config()[key].append(7)
    assert initializer.get_config().items() >= arguments.items()


def test_a_pickled_unseeded_initializer_keeps_its_seed():
    initializer = kf.FanwiseHeNormal()
    other = pickle.loads(pickle.dumps(initializer))
    assert np.array_equal(values_of(other(SHAPE)), values_of(initializer(SHAPE)))
    assert other.get_config()["seed"] is None


def test_configs_hold_the_registered_name():
    # It stands in users' files.
    serialized = keras.initializers.serialize(kf.FanwiseHeNormal(seed=1))
    assert serialized["registered_name"] == "keras_fanwise>FanwiseHeNormal"


def a_model(seed):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, kernel_initializer=kf.FanwiseHeNormal(seed=seed)),
            layers.BatchNormalization(gamma_initializer="fanwise_gamma_noise"),
            layers.DepthwiseConv2D(3, depthwise_initializer="fanwise_he_uniform"),
            layers.Flatten(),
            layers.Dense(
                5,
                kernel_initializer=kf.FanwiseVarianceScaling(0.5, "fan_geo_avg"),
                bias_initializer=kf.FanwiseNormal(stddev=0.1),
            ),
        ]
    )


INPUT = np.linspace(-1, 1, 2 * 8 * 8 * 3, dtype="float32").reshape(2, 8, 8, 3)


@pytest.mark.parametrize("seed", [3, None, "generator"])
def test_cloned_models_and_models_from_json(seed):
    model = a_model(keras.random.SeedGenerator(3) if seed == "generator" else seed)
    for other in (
        keras.models.clone_model(model),
        keras.models.model_from_json(model.to_json()),
        keras.Sequential.from_config(model.get_config()),
    ):
        layer = other.layers[0]
        assert type(layer.kernel_initializer) is kf.FanwiseHeNormal
        same = np.array_equal(values_of(layer.kernel), values_of(model.layers[0].kernel))
        assert same == (seed is not None)
        other.set_weights(model.get_weights())
        assert np.array_equal(values_of(other(INPUT)), values_of(model(INPUT)))


LOAD = """
import sys
import numpy as np
import keras
folder = sys.argv[1]
try:
    keras.models.load_model(folder + "/model.keras")
except (TypeError, ValueError) as error:  # the second from Keras 3.16 on
    print(error)
else:
    raise SystemExit("loaded without the package")
import keras_fanwise
for name in sys.argv[2:]:
    model = keras.models.load_model(f"{folder}/{name}")
    for layer in model.layers:
        if hasattr(layer, "kernel_initializer"):
            assert type(layer.kernel_initializer).__module__.startswith("keras_fanwise"), layer
    outputs = model.predict(np.load(folder + "/input.npy"), verbose=0)
    np.save(f"{folder}/{name}.npy", outputs)
again = keras.models.model_from_json(open(folder + "/model.json").read())
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_models_load_in_a_fresh_process_after_the_import_and_not_before(tmp_path):
    model = a_model(keras.random.SeedGenerator(3))
    model.compile("adam", keras.losses.MeanSquaredError())
    model.fit(INPUT, np.ones((2, 5)), verbose=0)
    np.save(tmp_path / "input.npy", INPUT)
    (tmp_path / "model.json").write_text(model.to_json())
    names = ("model.keras", "model.h5")
    for name in names:
        model.save(tmp_path / name)
    before = run_python(LOAD, tmp_path, *names)
    # It says what is missing.
    assert re.search(
        "Could not (interpret initializer identifier: .*|locate class ')FanwiseHeNormal",
        before,
    )
    for name in names:
        outputs = np.load(tmp_path / f"{name}.npy")
        # Another process may be compiled to add in another order.
        expected = model.predict(INPUT, verbose=0)
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6, err_msg=name)
