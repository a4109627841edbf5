"""Files and pickles that version 0.1 wrote load, and draw what they drew.

`data/write_version_0_1.py` wrote them.
"""

import copy
import json
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.initializers.registration import CLASSES

from support.models import values_of
from support.processes import run_python

FOLDER = Path(__file__).parent / "data" / "version_0_1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
SHAPE = (2, 3)
NEWER = {kf.FanwiseOrthogonal, kf.FanwiseDeltaOrthogonal}
# Of these the model's weights are drawn by integers and generators alone.
DRAWN_AGAIN = (
    "depthwise/kernel",
    "norm/gamma",
    "recurrent_kernel",
    "head/kernel",
    "head/bias",
)


def weights_of(model):
    """Without the name of the model, which stands in the paths on some versions of Keras."""
    paths = (weight.path.removeprefix("net/") for weight in model.weights)
    return dict(zip(paths, map(values_of, model.get_weights()), strict=True))


def assert_equal_weights(weights, expected):
    assert weights.keys() == expected.keys()
    for path, values in weights.items():
        assert np.array_equal(values, expected[path]), path


@pytest.fixture
def objects():
    return pickle.loads((FOLDER / "objects.pickle").read_bytes())


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_models_load_with_their_weights(name):
    model = keras.saving.load_model(FOLDER / name, compile=False)
    assert_equal_weights(weights_of(model), EXPECTED["weights"])
    given = [
        model.get_layer("depthwise").depthwise_initializer,
        model.get_layer("norm").gamma_initializer,
        model.get_layer("lstm").cell.kernel_initializer,
        model.get_layer("lstm").cell.recurrent_initializer,
        model.get_layer("head").kernel_initializer,
        model.get_layer("head").bias_initializer,
    ]
    assert [type(initializer) for initializer in given] == [
        kf.FanwiseHeUniform,
        kf.FanwiseGammaNoise,
        kf.FanwiseGlorotUniform,
        kf.FanwiseVarianceScaling,
        kf.FanwiseHeNormal,
        kf.FanwiseNormal,
    ]


def test_a_wrong_weight_is_noticed():
    expected = copy.deepcopy(EXPECTED["weights"])
    expected["head/bias"][0] += 1e-7
    model = keras.saving.load_model(FOLDER / "model.keras", compile=False)
    with pytest.raises(AssertionError, match="head/bias"):
        assert_equal_weights(weights_of(model), expected)


def test_a_model_from_json_draws_its_seeded_weights_again():
    # Not those of version 0.1: the streams of weights changed once, before the release.
    one, two = (
        weights_of(keras.models.model_from_json((FOLDER / "model.json").read_text()))
        for _ in range(2)
    )
    seeded = {path for path in one if path.endswith(DRAWN_AGAIN)}
    assert len(seeded) == len(DRAWN_AGAIN)
    for path in seeded:
        assert np.array_equal(one[path], two[path]), path
    # The one without a seed, or the equality above would show nothing.
    assert not np.array_equal(one["lstm/lstm_cell/kernel"], two["lstm/lstm_cell/kernel"])


def test_pickled_initializers_draw_what_they_drew(objects):
    draws = EXPECTED["draws"]
    assert {type(objects[name]) for name in draws} == set(CLASSES) - NEWER
    for name, expected in draws.items():
        assert np.array_equal(values_of(objects[name](SHAPE)), expected), name
    # The state of the generator was pickled after a draw, and goes on.
    second = EXPECTED["second draw of the generator"]
    assert np.array_equal(values_of(objects["generator"](SHAPE)), second)
    assert not np.array_equal(second, draws["generator"])


def test_pickled_initializers_have_their_arguments(objects):
    for name, config in EXPECTED["configs"].items():
        assert objects[name].get_config() == config, name


def test_pickled_fans_and_rules(objects):
    assert objects["fans"] == kf.Fans(9, 16.5)
    rule = objects["rule"]
    assert type(rule) is kf.Rule
    assert (rule.path, rule.weight, rule.optional) == (None, "*kernel", False)
    assert rule.layer == (keras.layers.Dense, keras.layers.Conv2D)
    assert np.array_equal(values_of(rule.initializer(SHAPE)), EXPECTED["draw of the rule"])


def test_a_pickle_loads_without_an_import():
    program = """
import pickle, sys
objects = pickle.load(open(sys.argv[1], "rb"))
print(*sorted({type(value).__module__ for value in objects.values()}))
"""
    assert run_python(program, FOLDER / "objects.pickle").split() == ["keras_fanwise"]
