"""An initializer whose values are those of another, times a factor."""

from typing import Any

import keras

from keras_fanwise.arguments import fail
from keras_fanwise.initializers.base import FanwiseInitializer
from keras_fanwise.initializers.counterparts import portable
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling

# Arguments, of Keras's initializers and ours, that the values are proportional to.
_PROPORTIONAL = ("gain", "maxval", "mean", "minval", "stddev", "value")


def scaled(initializer: Any, factor: float, argument: str) -> Any:
    """An initializer of Keras or of this package, times a factor.

    Args:
        initializer: an instance.
        factor: that the values are multiplied by.
        argument: what to call it in an error.

    Raises:
        ValueError: it is of somebody else.

    Example:

    >>> scaled(FanwiseVarianceScaling(2.0), 0.5, "recipe")
    FanwiseVarianceScaling(scale=0.5)
    """
    if isinstance(initializer, keras.initializers.Zeros):
        return initializer
    if isinstance(initializer, keras.initializers.Ones):
        return keras.initializers.Constant(factor)
    ours = portable(initializer) or initializer
    if isinstance(ours, FanwiseVarianceScaling):
        # The named ones of the family have no scale among their arguments.
        config = FanwiseVarianceScaling.get_config(ours)
        return FanwiseVarianceScaling.from_config(
            {**config, "scale": ours.scale * factor**2}
        )
    is_known = isinstance(initializer, FanwiseInitializer) or (
        getattr(keras.initializers, type(initializer).__name__, None) is type(initializer)
    )
    config = initializer.get_config() if is_known else {}
    changed = {name: config[name] * factor for name in _PROPORTIONAL if name in config}
    if not changed:
        allowed = "None with an initializer that is neither Keras's nor this package's"
        raise fail(ValueError, argument, allowed, initializer)
    return type(initializer).from_config({**config, **changed})
