"""Right fans for code that hard-codes Keras's initializers."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import keras

from keras_fanwise.backends.private_keras import initializer_modules
from keras_fanwise.initializers.counterparts import counterpart

# How many blocks the thread, or the asynchronous task, is inside.
_depth: ContextVar[int] = ContextVar("keras_fanwise_retrofit", default=0)

# How many blocks there are in all threads, and what `get` was before the first of them.
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
    can be nested. For its duration `keras.initializers.get` is replaced. It is a decorator
    too, for functions that build a model, but not for generators.

    Example: a layer of somebody else's.

    >>> import keras
    >>> with retrofit():
    ...     layer = keras.layers.DepthwiseConv2D(3, depthwise_initializer="he_normal")
    >>> type(layer.depthwise_initializer).__name__
    'FanwiseHeNormal'
    """
    _enter(1)
    try:
        yield
    finally:
        _enter(-1)


def retrofitted(identifier: Any) -> Any:
    """What is used in place of an initializer: inside a block, ours, if there is one."""
    if not _depth.get() or identifier is None:
        return identifier
    found = keras.initializers.get(identifier)
    return counterpart(found) or found


def _enter(change: int) -> None:
    global _blocks
    _depth.set(_depth.get() + change)
    with _lock:
        if not _blocks:
            _before.update({module: module.get for module in initializer_modules()})
        _blocks += change
        for module, get in _before.items():
            setattr(module, "get", _replacing(get) if _blocks else get)  # noqa: B010
        if not _blocks:
            _before.clear()


def _replacing(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(get)
    def replacement(identifier: Any) -> Any:
        found = get(identifier)
        return (counterpart(found) or found) if _depth.get() else found

    return replacement
