"""Right fans for code that hard-codes Keras's initializers."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import keras

from keras_fanwise.counterparts import counterpart
from keras_fanwise.initializers import FanwiseVarianceScaling
from keras_fanwise.private_keras import INITIALIZER_MODULES

# Of the thread, or the asynchronous task, that is inside the block.
_active: ContextVar[bool] = ContextVar("keras_fanwise_retrofit", default=False)

# The threads inside a block, and what `get` was before the first of them came.
_lock = threading.Lock()
_blocks = 0
_before: dict[ModuleType, Callable[[Any], Any]] = {}


@contextlib.contextmanager
def retrofit() -> Iterator[None]:
    """Inside the block, Keras's variance-scaling initializers count the right fans.

    `GlorotNormal`, `GlorotUniform`, `HeNormal`, `HeUniform`, `LecunNormal`,
    `LecunUniform` and `VarianceScaling` of Keras, under any of their names, as
    instances, or as the default of a layer, become the initializers of this package of
    equal scale, mode, distribution and seed. The layers keep those: a model that is
    built in the block saves with the initializers that it was made with. All other
    initializers are left alone, subclasses of the seven included.

    Only the thread that enters the block is concerned. The block can raise, and blocks
    can be nested. For its duration `keras.initializers.get` is replaced.

    Example: a layer of somebody else's.

    >>> import keras
    >>> with retrofit():
    ...     layer = keras.layers.DepthwiseConv2D(3, depthwise_initializer="he_normal")
    >>> type(layer.depthwise_initializer).__name__
    'FanwiseHeNormal'
    """
    token = _active.set(True)
    _count(1)
    try:
        yield
    finally:
        _count(-1)
        _active.reset(token)


def retrofitted(identifier: Any) -> Any:
    """What is used in place of an initializer: inside a block, ours, if there is one."""
    if not _active.get() or identifier is None:
        return identifier
    # Within the block, `get` itself looks for ours.
    found = keras.initializers.get(identifier)
    return found if isinstance(found, FanwiseVarianceScaling) else identifier


def _count(change: int) -> None:
    global _blocks
    with _lock:
        if not _blocks:
            _before.update({module: module.get for module in INITIALIZER_MODULES})
        _blocks += change
        for module, get in _before.items():
            setattr(module, "get", _replacing(get) if _blocks else get)  # noqa: B010 (mypy)


def _replacing(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(get)
    def replacement(identifier: Any) -> Any:
        found = get(identifier)
        return (counterpart(found) or found) if _active.get() else found

    return replacement
