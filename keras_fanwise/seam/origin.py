"""How a layer came by its name: from a user, from a config, or from Keras."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras

_MARK = "_keras_fanwise_origin"
_FROM_USER = "_keras_fanwise_named_by_user"


def install() -> None:
    """Wraps `keras.Layer.__init__`, once, to note whether a user named the layer.

    Keras keeps no account of it, and a name such as `dense_1` does not tell.
    """
    original = keras.Layer.__init__
    if not hasattr(original, _MARK):
        wrapper = _wrapped(original)
        setattr(wrapper, _MARK, True)
        keras.Layer.__init__ = wrapper
        # On the class, so that all layers have the same attributes, whoever made them.
        setattr(keras.Layer, _FROM_USER, False)


def _wrapped(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: keras.Layer, *args: Any, **kwargs: Any) -> None:
        # A config says all three of any layer, and may hold a name that Keras made. Of a
        # Sequential it says no more than a user does.
        of_config = ("trainable" in kwargs and "dtype" in kwargs) or isinstance(
            self, keras.Sequential
        )
        if kwargs.get("name") is not None and not of_config:
            # Past Keras and PyTorch, which are not ready for attributes yet.
            object.__setattr__(self, _FROM_USER, True)
        original(self, *args, **kwargs)

    # Keras reads the arguments of constructors without following wrappers.
    init.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return init


def is_named_by_user(layer: keras.Layer) -> bool:
    """Whether a user gave the layer its name, as far as is known.

    Not of a layer that was made from a config: the name in it may be any.
    """
    return bool(getattr(layer, _FROM_USER))
