"""Makes Keras know the initializers by name."""

import keras

from keras_fanwise.arguments import snake_case
from keras_fanwise.initializers.base import FanwiseInitializer
from keras_fanwise.initializers.normal import FanwiseGammaNoise, FanwiseNormal
from keras_fanwise.initializers.orthogonal import (
    FanwiseDeltaOrthogonal,
    FanwiseOrthogonal,
)
from keras_fanwise.initializers.variance_scaling import (
    FanwiseGlorotNormal,
    FanwiseGlorotUniform,
    FanwiseHeNormal,
    FanwiseHeUniform,
    FanwiseLecunNormal,
    FanwiseLecunUniform,
    FanwiseVarianceScaling,
)

# Stands in every saved model that uses an initializer: never change it.
PACKAGE = "keras_fanwise"

CLASSES: tuple[type[FanwiseInitializer], ...] = (
    FanwiseDeltaOrthogonal,
    FanwiseGammaNoise,
    FanwiseGlorotNormal,
    FanwiseGlorotUniform,
    FanwiseHeNormal,
    FanwiseHeUniform,
    FanwiseLecunNormal,
    FanwiseLecunUniform,
    FanwiseNormal,
    FanwiseOrthogonal,
    FanwiseVarianceScaling,
)


def register() -> None:
    """Registers the initializers with Keras, under both their names.

    `import keras_fanwise` does this. Call it again after
    `keras.saving.get_custom_objects().clear()`; calling it twice changes nothing.

    Example:

    >>> import keras
    >>> keras.saving.get_custom_objects().clear()
    >>> register()
    >>> keras.initializers.get("fanwise_he_normal").scale
    2.0
    """
    for cls in CLASSES:
        # The registration serves saving and loading; `keras.initializers.get` looks
        # for plain names among the custom objects.
        keras.saving.register_keras_serializable(PACKAGE)(cls)
        keras.saving.get_custom_objects()[cls.__name__] = cls
        keras.saving.get_custom_objects()[snake_case(cls.__name__)] = cls
