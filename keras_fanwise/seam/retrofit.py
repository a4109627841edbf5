"""Right fans for code that hard-codes Keras's initializers."""

import functools
import inspect
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import keras

from keras_fanwise.arguments import fail
from keras_fanwise.backends.private_keras import initializer_modules
from keras_fanwise.initializers.base import FanwiseInitializer
from keras_fanwise.initializers.counterparts import counterpart, orthogonal_counterpart

# How many blocks there are in all threads, and what `get` was before the first of them.
_lock = threading.Lock()
_blocks = 0
_before: dict[ModuleType, Callable[[Any], Any]] = {}


class _Block:
    """A `with` block, or the calls of a function that it decorates."""

    def __init__(self, orthogonal: bool) -> None:
        self.orthogonal = orthogonal
        self._entries = 0

    @property
    def is_open(self) -> bool:
        return self._entries > 0

    def __enter__(self) -> None:
        self._change(1)
        _entered.set((*_open_blocks(), self))

    def __exit__(self, *error: object) -> None:
        # Perhaps in another thread than the one that entered, which is then outside, too.
        self._change(-1)
        entered = list(_entered.get())
        if self in entered:
            entered.remove(self)
        _entered.set(tuple(entered))

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            allowed = "a function that is no generator, whose body runs when it is called"
            raise fail(TypeError, "function", allowed, function)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def inside(*args: Any, **kwargs: Any) -> Any:
                with _Block(self.orthogonal):
                    return await function(*args, **kwargs)

        else:

            @functools.wraps(function)
            def inside(*args: Any, **kwargs: Any) -> Any:
                with _Block(self.orthogonal):
                    return function(*args, **kwargs)

        return inside

    def _change(self, entries: int) -> None:
        global _blocks
        with _lock:
            self._entries += entries
            if not _blocks:
                _before.update({module: module.get for module in initializer_modules()})
            _blocks += entries
            for module, get in _before.items():
                setattr(module, "get", _replacing(get) if _blocks else get)  # noqa: B010
            if not _blocks:
                _before.clear()


# The blocks that the thread, or the asynchronous task, has entered. Some may be closed by
# now: in another thread, or after a task began that has a copy of this.
_entered: ContextVar[tuple[_Block, ...]] = ContextVar("keras_fanwise_retrofit", default=())


def _open_blocks() -> tuple[_Block, ...]:
    return tuple(block for block in _entered.get() if block.is_open)


def retrofit(*, orthogonal: bool = False) -> _Block:
    """Inside the block, Keras's variance-scaling initializers count the right fans.

    `GlorotNormal`, `GlorotUniform`, `HeNormal`, `HeUniform`, `LecunNormal`,
    `LecunUniform` and `VarianceScaling` of Keras, under any of their names, as
    instances, or as the default of a layer, become the initializers of this package of
    equal scale, mode, distribution and seed. The layers keep those: a model that is
    built in the block saves with the initializers that it was made with. All other
    initializers are left alone, subclasses of the seven included.

    Only the thread that enters the block is concerned. The block can raise, and blocks
    can be nested. For its duration `keras.initializers.get` is replaced. It is a decorator
    too, for functions and coroutine functions that build a model.

    Args:
        orthogonal: whether Keras's `Orthogonal`, the default of recurrent kernels, becomes
            a `FanwiseOrthogonal` of equal gain and seed, which is orthogonal in every gate
            and can be drawn in 16 bits. Blocks inside one that says so do it, too.

    Raises:
        TypeError: `orthogonal` is neither true nor false, or the block decorates a
            generator function, whose body would run outside.

    Example: a layer of somebody else's.

    >>> import keras
    >>> with retrofit():
    ...     layer = keras.layers.DepthwiseConv2D(3, depthwise_initializer="he_normal")
    >>> type(layer.depthwise_initializer).__name__
    'FanwiseHeNormal'
    """
    if not isinstance(orthogonal, bool):
        raise fail(TypeError, "orthogonal", "True or False", orthogonal)
    return _Block(orthogonal)


def retrofitted(identifier: Any) -> Any:
    """What is used in place of an initializer: inside a block, ours, if there is one."""
    if not _open_blocks() or identifier is None:
        return identifier
    return _counterpart_here(keras.initializers.get(identifier))


def _counterpart_here(initializer: Any) -> Any:
    """What the open blocks put in place of an initializer; itself if there are none."""
    blocks = _open_blocks()
    if not blocks:
        return initializer
    ours: FanwiseInitializer | None = counterpart(initializer)
    if ours is None and any(block.orthogonal for block in blocks):
        ours = orthogonal_counterpart(initializer)
    return initializer if ours is None else ours


def _replacing(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(get)
    def replacement(identifier: Any) -> Any:
        return _counterpart_here(get(identifier))

    return replacement
