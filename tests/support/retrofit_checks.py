"""What the tests of `retrofit` share."""

import keras
import keras.src.initializers
import numpy as np

from keras_fanwise.arguments import snake_case
from keras_fanwise.seam.record import recorded

from support.models import values_of

layers = keras.layers
GETS = {module: module.get for module in (keras.initializers, keras.src.initializers)}

# Scale, mode and distribution of each, written out and not asked of either side.
RECIPES = {
    "GlorotNormal": (1.0, "fan_avg", "truncated_normal"),
    "GlorotUniform": (1.0, "fan_avg", "uniform"),
    "HeNormal": (2.0, "fan_in", "truncated_normal"),
    "HeUniform": (2.0, "fan_in", "uniform"),
    "LecunNormal": (1.0, "fan_in", "truncated_normal"),
    "LecunUniform": (1.0, "fan_in", "uniform"),
    "VarianceScaling": (1.0, "fan_in", "truncated_normal"),
}
# How code names one of them.
FORMS = {
    "snake_case": snake_case,
    "CamelCase": lambda name: name,
    "class": lambda name: getattr(keras.initializers, name),
    "instance": lambda name: getattr(keras.initializers, name)(),
    "config": lambda name: serialized(getattr(keras.initializers, name)(seed=3)),
    "short config": lambda name: {"class_name": name, "config": {"seed": 3}},
}
# The highest absolute value of many draws, in standard deviations.
TAILS = {
    "uniform": (1.70, 1.74),
    "truncated_normal": (2.15, 2.35),
    "untruncated_normal": (3.50, 8.00),
}


def serialized(initializer):
    return keras.initializers.serialize(initializer)


def class_name(value):
    return type(value).__name__


def largest(weight):
    return np.abs(values_of(weight)).max()


def kernel_initializer_of(identifier):
    return layers.Dense(1, kernel_initializer=identifier).kernel_initializer


def is_retrofitted():
    """Whether the code that asks is inside a block, for layers and in `add_weight`."""
    by_layer = class_name(kernel_initializer_of("he_normal"))
    by_weight = class_name(recorded(layers.Layer().add_weight()))
    assert (by_layer, by_weight) in {
        ("FanwiseHeNormal", "FanwiseGlorotUniform"),
        ("HeNormal", "str"),
    }
    return by_layer == "FanwiseHeNormal"


def classes_in(config):
    """The names of all classes in a config: of initializers, of layers, of all that is nested."""
    if isinstance(config, dict):
        own = [config["class_name"]] if "class_name" in config else []
        return own + [name for value in config.values() for name in classes_in(value)]
    if isinstance(config, (list, tuple)):
        return [name for value in config for name in classes_in(value)]
    return []


def family(model):
    """Of the initializers in the config of a model: Keras's own, and ours."""
    names = classes_in(model.get_config())
    return (
        {name for name in names if name in RECIPES},
        {name for name in names if name.startswith("Fanwise")},
    )


class Bare(layers.Layer):
    """Somebody's layer, which leaves its initializer to `add_weight`."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.arguments = args, kwargs

    def build(self, shape):
        args, kwargs = self.arguments
        self.weight = self.add_weight(*args, **kwargs)


def built_weight(*args, **kwargs):
    layer = Bare(*args, **kwargs)
    layer.build((1,))
    return layer.weight


class TheirHeNormal(keras.initializers.HeNormal):
    pass


def ones(shape, dtype=None):
    return keras.ops.ones(shape, dtype)
