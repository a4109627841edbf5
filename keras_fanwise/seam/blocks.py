"""Blocks of code in which weights are filled differently: `retrofit` and `skip_init`."""

import contextlib
import functools
import gc
import inspect
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import ModuleType
from typing import Any, TypeVar

import keras
import numpy as np

from keras_fanwise.arguments import fail, flag
from keras_fanwise.backends.arrays import (
    distribute,
    layout_of,
    local_parts,
    placed,
    platform,
    sharding_of,
    snapshot,
    unfilled,
    unfilled_array,
)
from keras_fanwise.backends.private_keras import (
    drawn_as_built,
    initializer_modules,
    is_made,
    is_stateless,
)
from keras_fanwise.initializers.counterparts import (
    counterpart,
    is_random,
    orthogonal_counterpart,
)
from keras_fanwise.sampling.sampler import DTYPES

_AnyBlock = TypeVar("_AnyBlock", bound="_Block")


class _Block:
    """A `with` block of the thread, or of the asynchronous task, that enters it."""

    @property
    def is_open(self) -> bool:
        return self in _open

    def __enter__(self: _AnyBlock) -> _AnyBlock:
        _count(self, 1)
        _entered.set((*_open_blocks(_Block), self))
        return self

    def __exit__(self, *error: object) -> None:
        # Perhaps in another thread than the one that entered, which is then outside, too.
        _count(self, -1)
        entered = list(_entered.get())
        if self in entered:
            entered.remove(self)
        _entered.set(tuple(entered))


# The blocks that the thread, or the asynchronous task, has entered. Some may be closed by
# now: in another thread, or after a task began that has a copy of this.
_entered: ContextVar[tuple[_Block, ...]] = ContextVar("keras_fanwise_blocks", default=())
# In all threads, how often each open block was entered, and what `get` was before them.
_open: Counter[_Block] = Counter()
_before: dict[ModuleType, Callable[[Any], Any]] = {}
_lock = threading.Lock()


def _open_blocks(kind: type[_AnyBlock]) -> list[_AnyBlock]:
    entered = _entered.get()
    return [block for block in entered if isinstance(block, kind) and block.is_open]


def _count(block: _Block, entries: int) -> None:
    """Replaces `keras.initializers.get` as long as a block of `retrofit` is open."""
    with _lock:
        _open[block] += entries
        if not _open[block]:
            del _open[block]
        is_replaced = any(isinstance(each, Retrofit) for each in _open)
        if is_replaced and not _before:
            _before.update({module: module.get for module in initializer_modules()})
            for module, get in _before.items():
                setattr(module, "get", _replacing(get))  # noqa: B010
        elif _before and not is_replaced:
            for module, get in _before.items():
                setattr(module, "get", get)  # noqa: B010
            _before.clear()


class Retrofit(_Block):
    """A `with` block, or the calls of a function that it decorates."""

    def __init__(self, orthogonal: bool) -> None:
        self.orthogonal = orthogonal

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            allowed = "a function that runs when it is called, not a generator"
            raise fail(TypeError, "function", allowed, function)

        def inside(*args: Any, **kwargs: Any) -> Any:
            with Retrofit(self.orthogonal):
                return function(*args, **kwargs)

        async def inside_task(*args: Any, **kwargs: Any) -> Any:
            with Retrofit(self.orthogonal):
                return await function(*args, **kwargs)

        is_task = inspect.iscoroutinefunction(function)
        return functools.wraps(function)(inside_task if is_task else inside)


def retrofit(*, orthogonal: bool = False) -> Retrofit:
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
    return Retrofit(flag("orthogonal", orthogonal))


def retrofitted(identifier: Any) -> Any:
    """What is used in place of an initializer: inside a block, ours, if there is one."""
    if identifier is None or not _open_blocks(Retrofit):
        return identifier
    return keras.initializers.get(identifier)  # which is the replacement


def _replacing(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(get)
    def replacement(identifier: Any) -> Any:
        initializer, blocks = get(identifier), _open_blocks(Retrofit)
        ours = counterpart(initializer) if blocks else None
        if ours is None and any(block.orthogonal for block in blocks):
            ours = orthogonal_counterpart(initializer)
        return initializer if ours is None else ours

    return replacement


class SkipInit(_Block):
    """A `with` block in which random weights are not drawn."""

    def __init__(self) -> None:
        # The paths of the weights that nothing filled in the block, in order.
        self.drawn: list[str] = []
        self.deferrals: list[weakref.ref[Deferral]] = []

    def __exit__(self, *error: object) -> None:
        """Draws what nothing has filled; raises the first error when the rest has drawn."""
        super().__exit__(*error)
        if any(reference() for reference in self.deferrals):
            gc.collect()  # models hold themselves until then
        alive = [reference() for reference in self.deferrals]
        pending = [each for each in alive if each is not None and each.is_pending()]
        errors: list[Exception] = []
        for deferral in pending:
            try:
                self.drawn += deferral.draw()
            except Exception as error:
                errors.append(error)
        self.deferrals.clear()
        if errors:
            raise errors[0]


def deferral(filler: Any, initializer: Any) -> Any:
    """What Keras is handed in place of a filler, which was made of this initializer."""
    blocks = _open_blocks(SkipInit)
    if not blocks:
        return filler
    if filler is initializer:
        # Of a name Keras makes an initializer here, which takes a seed, and not again.
        filler = initializer = keras.initializers.get(initializer)
        if not is_random(initializer):
            return initializer
    return Deferral(blocks[-1], filler, getattr(initializer, "seed", None))


class Deferral(keras.initializers.Initializer):
    """Leaves a weight unfilled while the block is open, then draws it."""

    def __init__(self, block: SkipInit, initializer: Any, seed: Any) -> None:
        self._block = block
        self._initializer = initializer
        self._generator = seed if isinstance(seed, keras.random.SeedGenerator) else None
        self._state: Any = None
        self._is_unfilled = False
        # Weak: the variable holds this, until it is filled or the block ends.
        self._variable: Callable[[], keras.Variable | None] = lambda: None

    def __call__(self, shape: Sequence[int], dtype: Any = None, layout: Any = None) -> Any:
        """Zeros that take no memory before they are written, or read on some devices."""
        dtype = keras.backend.standardize_dtype(dtype)
        is_drawn = not self._block.is_open or dtype not in DTYPES
        if not is_drawn and is_stateless():
            return keras.ops.zeros(shape, dtype=dtype)
        with sharding_of(layout) as sharding:
            if is_drawn:
                return distribute(self._initializer(shape, dtype=dtype), sharding)
            if self._generator is not None:  # the next weight has its own values
                self._state = snapshot(self._generator.state)
                self._generator.next()
            self._is_unfilled = True
            if sharding is None:
                return unfilled(shape, dtype)
            return placed(
                shape,
                sharding,
                lambda index: unfilled_array([i.stop - i.start for i in index], dtype),
            )

    def get_config(self) -> dict[str, Any]:
        return dict(self._initializer.get_config())

    def watch(self, variable: keras.Variable) -> None:
        """Learns when a value is assigned to the weight, which must now be made."""
        self._variable = weakref.ref(variable)
        # On the instance, past what backends do about attributes; gone after the block.
        object.__setattr__(variable, "assign", self._assign)
        # Weak: a model that is dropped within the block is not drawn.
        self._block.deferrals.append(weakref.ref(self))

    def is_pending(self) -> bool:
        """Whether the weight is to be drawn, for all that is known; ends the watch."""
        variable = self._variable()
        if variable is None:
            return False
        vars(variable).pop("assign", None)
        return self._is_unfilled and is_made(variable)

    def draw(self) -> list[str]:
        """Draws the weight, and gives its path; neither if it is gone, or filled."""
        variable = self._variable()
        if variable is None or _is_filled(variable):
            return []
        with contextlib.ExitStack() as stack:
            if self._generator is not None:  # as it was when the weight was made
                state = self._generator.state
                stack.callback(state.assign, snapshot(state))
                state.assign(self._state)
            values = drawn_as_built(variable, self._initializer)
        variable.assign(values)
        return [variable.path]

    def _assign(self, value: Any) -> Any:
        variable = self._variable()
        if variable is None:
            raise ReferenceError("The weight is gone.")
        result = type(variable).assign(variable, value)
        # Only now: what failed to be assigned is still to be drawn.
        if not is_stateless():
            self._is_unfilled = False
            vars(variable).pop("assign", None)
        return result


def _is_filled(variable: keras.Variable) -> bool:
    """Whether it was filled past `assign`, for instance by a state dict of PyTorch."""
    if platform() != "cpu" and layout_of(variable.value) is None:
        return bool(keras.ops.any(variable.value))  # where it is
    return any(np.count_nonzero(part) for part in local_parts(variable.value))


def skip_init() -> SkipInit:
    """Inside the block, random weights are not drawn; what is not loaded is drawn after.

    Around `keras.models.load_model`, `load_weights` on a model that is built in the
    block, `from_preset` of KerasHub, or `clone_model` with `set_weights`. The random
    initializers of Keras (not their subclasses) and of this package wait; all others fill
    their weights as usual. At the end of the block, also if it raises,
    each weight to which nothing was assigned successfully is drawn by its own
    initializer, with the values that it would have had, and its path is listed in the
    `drawn` of what `with` gives. Every other random number of the program is as without
    the block.

    **Inside the block a weight that nothing has filled yet reads as zeros**, so a model is
    not to be called, measured, copied or saved before the block ends: that holds for
    layers, too, that compute one weight from another when they are built. Only
    `keras.Variable.assign` is seen when it happens, which is what Keras and KerasHub
    load by. A weight that something else has filled, such as `load_state_dict` of PyTorch
    or `tf.train.Checkpoint`, is kept unless all of it is 0.

    Only the thread that enters the block is concerned. Blocks can be nested: a weight
    belongs to the innermost in which it is made. A model that is dropped in the block is
    not drawn.

    Raises:
        ValueError: at the end, what an initializer raises that cannot draw its weight;
            the other weights are drawn all the same.

    Example: a new layer on old ones.

    >>> import keras
    >>> old = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, name="body")])
    >>> with skip_init() as skipped:
    ...     model = keras.models.clone_model(old)
    ...     model.set_weights(old.get_weights())
    ...     model.add(keras.layers.Dense(3, kernel_initializer="he_normal", name="head"))
    >>> [path.split("/", 1)[1] for path in skipped.drawn]
    ['head/kernel']
    """
    return SkipInit()
