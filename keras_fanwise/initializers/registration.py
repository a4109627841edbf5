"""Makes Keras know the initializers by name."""

import types
import warnings
from typing import Any

import keras

from keras_fanwise.arguments import snake_case
from keras_fanwise.backends.private_keras import TRIED, initializer_table
from keras_fanwise.initializers import structured, variance_scaling
from keras_fanwise.initializers.base import FanwiseInitializer, random_state_kept

# Stands in every saved model that uses an initializer: never change it.
PACKAGE = "keras_fanwise"

# Those that these modules have, in the order of their names.
_FOUND: dict[str, type[FanwiseInitializer]] = {
    name: value
    for module in (structured, variance_scaling)
    for name, value in vars(module).items()
    if name.startswith("Fanwise") and value is not FanwiseInitializer
}
CLASSES = tuple(_FOUND[name] for name in sorted(_FOUND))


def _named(inherited: Any, cls: type) -> Any:
    """A constructor that a class inherits, by its name: Python's errors tell it."""
    code, scope = inherited.__code__, inherited.__globals__
    defaults, closure = inherited.__defaults__, inherited.__closure__
    own = types.FunctionType(code, scope, "__init__", defaults, closure)
    own.__kwdefaults__ = inherited.__kwdefaults__
    own.__annotations__ = inherited.__annotations__
    own.__qualname__ = f"{cls.__name__}.__init__"
    return own


for _cls in CLASSES:
    if "__init__" not in vars(_cls):
        _cls.__init__ = _named(_cls.__init__, _cls)  # type: ignore[method-assign]


def register() -> None:
    """Registers the initializers with Keras, under both their names.

    `import keras_fanwise` does this. Call it again after
    `keras.saving.get_custom_objects().clear()`; calling it twice changes nothing.

    Warns if Keras does not find them by name afterwards, which none of the versions does
    that were tried.

    Example:

    >>> import keras
    >>> keras.saving.get_custom_objects().clear()
    >>> register()
    >>> keras.initializers.get("fanwise_he_normal").scale
    2.0
    """
    names = {name: cls for cls in CLASSES for name in _names(cls)}
    # The registration serves saving and loading; up to Keras 3.15 `keras.initializers.get`
    # looks for plain names among the custom objects, from 3.16 on in its own table alone.
    for cls in CLASSES:
        keras.saving.register_keras_serializable(PACKAGE)(cls)
    keras.saving.get_custom_objects().update(names)
    if not _is_found(variance_scaling.FanwiseHeNormal):
        initializer_table().update(names)
        if not _is_found(variance_scaling.FanwiseHeNormal):
            warnings.warn(
                f"Keras {keras.__version__} does not find the initializers of "
                "keras_fanwise by name. Their classes and instances still work, as in "
                "kernel_initializer=keras_fanwise.FanwiseHeNormal(). The versions of Keras "
                f"known to be good: {TRIED}.",
                stacklevel=2,
            )


def _names(cls: type[FanwiseInitializer]) -> tuple[str, str]:
    return cls.__name__, snake_case(cls.__name__)


@random_state_kept()
def _is_found(cls: type[FanwiseInitializer]) -> bool:
    """Whether Keras makes one of this class, and not of its older import, of each name."""
    try:
        return all(type(keras.initializers.get(name)) is cls for name in _names(cls))
    except Exception:  # of an unknown name, and whatever a later Keras has changed
        return False
