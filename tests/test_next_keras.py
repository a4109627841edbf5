"""What a later Keras may change: where names are looked up, how layers make weights.

Each is planted here, so that the tests of every Keras know what the package does then.
"""

import inspect
import random

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.backend.common.global_state import get_global_attribute

import keras_fanwise as kf
from keras_fanwise.arguments import snake_case
from keras_fanwise.backends.private_keras import (
    initializer_modules,
    initializer_table,
    seam_holds,
)
from keras_fanwise.seam import binding

from support.any_weight import ANY_WEIGHT
from support.models import values_of

NAMES = [name for cls in ANY_WEIGHT for name in (cls.__name__, snake_case(cls.__name__))]
# Of a depthwise kernel with 512 channels, by its own fans and by its shape.
HE, BY_SHAPE = np.sqrt(2 / 9), np.sqrt(2 / (9 * 512))


@pytest.fixture
def unknown():
    """Keras as it is before the package is imported, as far as names go."""
    objects, table = keras.saving.get_custom_objects(), initializer_table()
    before = dict(objects), dict(table)
    objects.clear()
    for name in NAMES:
        table.pop(name, None)
    yield
    for now, then in zip((objects, table), before, strict=True):
        now.clear()
        now.update(then)


def get_by_table_alone(identifier):
    """`keras.initializers.get` of Keras 3.16, as far as names go."""
    if isinstance(identifier, str):
        if identifier not in initializer_table():
            raise ValueError(f"Could not interpret initializer identifier: {identifier}")
        identifier = initializer_table()[identifier]
    elif isinstance(identifier, dict):
        return keras.initializers.deserialize(identifier)
    return identifier() if inspect.isclass(identifier) else identifier


def get_of_no_name(identifier):
    """One of a Keras that has changed again."""
    if isinstance(identifier, str) and identifier.lower().startswith("fanwise"):
        raise LookupError(identifier)
    return get_by_table_alone(identifier)


def plant(monkeypatch, get):
    for module in initializer_modules():
        monkeypatch.setattr(module, "get", get)


# Names


@pytest.mark.usefixtures("unknown")
def test_names_resolve_where_keras_asks_its_own_table_alone(monkeypatch):
    plant(monkeypatch, get_by_table_alone)
    with pytest.raises(ValueError, match="fanwise_he_normal"):
        layers.Dense(1, kernel_initializer="fanwise_he_normal")
    kf.register()
    kf.register()
    check_every_place()
    keras.saving.get_custom_objects().clear()
    check_std(HE, depthwise_initializer="fanwise_he_normal")  # but saved ones do not load
    kf.register()
    check_every_place()


@pytest.mark.usefixtures("unknown")
def test_names_resolve_with_this_keras():
    kf.register()
    kf.register()
    check_every_place()
    keras.saving.get_custom_objects().clear()
    kf.register()
    check_every_place()


def check_every_place():
    for name, cls in zip(NAMES, np.repeat(ANY_WEIGHT, 2), strict=True):
        assert type(keras.initializers.get(name)) is cls
        config = {"class_name": name, "config": {}}
        assert type(keras.initializers.deserialize(config)) is cls
        assert type(keras.initializers.get(config)) is cls
        config = keras.initializers.serialize(cls(seed=1))
        assert type(keras.initializers.get(config)) is cls
        assert type(keras.saving.deserialize_keras_object(config)) is cls
        assert type(layers.Dense(1, kernel_initializer=name).kernel_initializer) is cls
        with kf.retrofit():
            assert type(keras.initializers.get(name)) is cls
        # A layer's own config, and one that was written by hand.
        layer = layers.Dense(1, kernel_initializer=name)
        for config in (layer.get_config(), {"units": 1, "kernel_initializer": name}):
            again = layers.Dense.from_config(config)
            assert type(again.kernel_initializer) is cls
    check_std(HE, depthwise_initializer="fanwise_he_normal")

    class Own(layers.DepthwiseConv2D):  # a name that no constructor has resolved
        def build(self, shape):
            self.kernel = self.add_weight(
                shape=(3, 3, 512, 1), initializer="fanwise_he_normal", name="kernel"
            )

    check_std(HE, Own)


def check_std(std, cls=layers.DepthwiseConv2D, **arguments):
    layer = cls(3, **arguments)
    layer.build((None, 8, 8, 512))
    values = values_of(layer.kernel)
    # 5 standard errors, of values that are spread less than normal ones.
    assert values.std() == pytest.approx(std, rel=5 / np.sqrt(2 * values.size))


def test_the_names_of_an_older_import_are_replaced(monkeypatch):
    plant(monkeypatch, get_by_table_alone)
    for name, cls in zip(NAMES, np.repeat(ANY_WEIGHT, 2), strict=True):
        monkeypatch.setitem(initializer_table(), name, type(cls.__name__, (cls,), {}))
    kf.register()
    for name, cls in zip(NAMES, np.repeat(ANY_WEIGHT, 2), strict=True):
        assert type(keras.initializers.get(name)) is cls


@pytest.mark.usefixtures("unknown")
def test_a_keras_that_finds_no_names_is_warned_of(monkeypatch):
    plant(monkeypatch, get_of_no_name)
    with pytest.warns(
        UserWarning, match=f"Keras {keras.__version__} does not find"
    ) as told:
        kf.register()
    assert told[0].filename == __file__
    # What it says still works, and what it says of versions.
    message = str(told[0].message)
    assert "kernel_initializer=keras_fanwise.FanwiseHeNormal()" in message
    assert "3.8 to 3.16" in message
    for initializer in (kf.FanwiseHeNormal, kf.FanwiseHeNormal()):
        check_std(HE, depthwise_initializer=initializer)


def test_a_keras_without_a_table(monkeypatch):
    monkeypatch.delattr(initializer_modules()[0], "ALL_OBJECTS_DICT", raising=False)
    assert initializer_table() == {}


def test_registering_leaves_no_trace(monkeypatch):
    random.seed(1)
    before = random.getstate()
    kf.register()
    assert seam_holds()
    binding.install()
    assert random.getstate() == before
    with keras.StatelessScope():  # at whose end Keras fills what is left to be filled
        layers.Dense(1).build((None, 1))
        assert seam_holds()
        assert len(get_global_attribute("uninitialized_variables")) == 2
    number = int("0" + "".join(filter(str.isdigit, layers.Dense(1).name)))
    assert int("".join(filter(str.isdigit, layers.Dense(1).name))) == number + 1


# The seam


def unwrapped():
    return inspect.unwrap(layers.Layer.add_weight)


def test_layers_that_go_past_the_seam_are_found(monkeypatch):
    assert seam_holds()
    monkeypatch.setattr(layers.Dense, "add_weight", unwrapped(), raising=False)
    assert not seam_holds()
    with pytest.warns(UserWarning, match="do not learn which weight they fill") as told:
        binding.install()
    assert "3.8 to 3.16" in str(told[0].message)


def test_layers_that_cannot_be_built_are_found(monkeypatch):
    def build(self, input_shape):
        raise TypeError

    monkeypatch.setattr(layers.Dense, "build", build)
    assert not seam_holds()


def test_no_draw_by_the_shape_in_silence(monkeypatch):
    monkeypatch.setattr(layers.Layer, "add_weight", unwrapped())
    with pytest.warns(UserWarning, match="do not learn which weight they fill"):
        check_std(BY_SHAPE, depthwise_initializer="fanwise_he_normal")
    with pytest.warns(UserWarning, match="do not learn which weight they fill"):
        kf.FanwiseHeNormal()((2, 3))


def test_somebody_s_own_wrapper_is_no_reason_to_warn(monkeypatch):
    ours = layers.Layer.add_weight

    def wrapper(self, *args, **kwargs):  # and bears no attributes of ours
        return ours(self, *args, **kwargs)

    monkeypatch.setattr(layers.Layer, "add_weight", wrapper)
    # A warning is an error here.
    check_std(HE, depthwise_initializer="fanwise_he_normal")
    kf.FanwiseHeNormal()((2, 3))
