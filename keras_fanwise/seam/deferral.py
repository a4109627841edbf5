"""Weights that are drawn only once it is known that nothing else fills them."""

import contextlib
import gc
import weakref
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np

from keras_fanwise.backends.arrays import snapshot, unfilled, unfilled_array
from keras_fanwise.backends.private_keras import (
    drawn_as_built,
    has_value,
    is_stateless,
)
from keras_fanwise.backends.sharding import distribute, local_parts, placed, sharding_of
from keras_fanwise.initializers.counterparts import is_random
from keras_fanwise.sampling.memory import DTYPES


class Block:
    """A `with` block in which random weights are not drawn.

    Attributes:
        drawn: after the block, the paths of the weights that nothing filled in it, in the
            order in which they were made.
    """

    def __init__(self) -> None:
        self.drawn: list[str] = []
        self.is_open = True
        # Weak: a model that is dropped within the block is not drawn.
        self._deferrals: list[weakref.ref[Deferral]] = []

    def add(self, deferral: "Deferral") -> None:
        """Another weight that is not drawn now."""
        self._deferrals.append(weakref.ref(deferral))

    def close(self) -> None:
        """Draws what nothing has filled, as far as it can be drawn.

        Raises:
            Exception: the first that an initializer raised; the others have drawn.
        """
        self.is_open = False
        if any(reference() for reference in self._deferrals):
            gc.collect()  # models hold themselves until then
        alive = [reference() for reference in self._deferrals]
        pending = [each for each in alive if each is not None and each.is_pending()]
        errors: list[Exception] = []
        for deferral in pending:
            try:
                self.drawn += deferral.draw()
            except Exception as error:
                errors.append(error)
        self._deferrals.clear()
        if errors:
            raise errors[0]


# The blocks that the thread, or the asynchronous task, has entered. Some may be closed by
# now: in another thread, or after a task began that has a copy of this.
_entered: ContextVar[tuple[Block, ...]] = ContextVar("keras_fanwise_deferral", default=())


@contextlib.contextmanager
def deferring() -> Iterator[Block]:
    """In the block `deferral` stands in for random initializers; in the end it draws."""
    block = Block()
    _entered.set((*_open_blocks(), block))
    try:
        yield block
    finally:
        try:
            block.close()
        finally:
            _entered.set(_open_blocks())


def _open_blocks() -> tuple[Block, ...]:
    return tuple(block for block in _entered.get() if block.is_open)


def deferral(filler: Any, initializer: Any) -> Any:
    """What Keras is handed in place of what fills a weight.

    Outside a block, and for initializers that are neither ours nor a random one of
    Keras's, that is `filler`.

    Args:
        filler: fills this weight.
        initializer: of which the filler was made, or the filler itself if that is not ours.
    """
    blocks = _open_blocks() if _entered.get() else ()  # the latter is faster
    if not blocks:
        return filler
    if filler is initializer:
        # Of a name Keras makes an initializer here, which takes a seed, and not again.
        filler = initializer = keras.initializers.get(initializer)
        if not is_random(initializer):
            return initializer
    return Deferral(blocks[-1], filler, getattr(initializer, "seed", None))


class Deferral(keras.initializers.Initializer):
    """Fills one weight with nothing, as long as its block is open, and later for good.

    Args:
        block: in which the weight is made.
        initializer: that fills the weight.
        seed: of the initializer.
    """

    def __init__(self, block: Block, initializer: Any, seed: Any) -> None:
        self._block = block
        self._initializer = initializer
        self._generator = seed if isinstance(seed, keras.random.SeedGenerator) else None
        self._state: Any = None
        self._is_unfilled = False
        # Weak: the variable holds this, until it is filled or the block ends.
        self._reference: weakref.ref[keras.Variable] | None = None

    def __call__(self, shape: Sequence[int], dtype: Any = None, layout: Any = None) -> Any:
        """Zeros that take no memory before they are written, or read on some devices."""
        dtype = keras.backend.standardize_dtype(dtype)
        if not self._block.is_open or dtype not in DTYPES:
            return self._draw_now(shape, dtype, layout)
        if is_stateless():
            return keras.ops.zeros(shape, dtype=dtype)
        if layout is None:
            self._advance()
            values = unfilled(shape, dtype)
        else:
            with sharding_of(layout) as sharding:
                self._advance()
                values = _unfilled_shards(shape, dtype, sharding)
        self._is_unfilled = True
        return values

    def get_config(self) -> dict[str, Any]:
        """That of the initializer."""
        return dict(self._initializer.get_config())

    def watch(self, variable: keras.Variable) -> None:
        """Learns when a value is assigned to the weight, which must now be made."""
        self._reference = weakref.ref(variable)
        # On the instance, past what backends do about attributes; gone after the block.
        object.__setattr__(variable, "assign", self._assign)
        self._block.add(self)

    def is_pending(self) -> bool:
        """Whether the weight is to be drawn, for all that is known; ends the watch."""
        variable = self._variable()
        if variable is None:
            return False
        vars(variable).pop("assign", None)
        return self._is_unfilled and has_value(variable)

    def draw(self) -> list[str]:
        """Draws the weight, and gives its path; neither if it is gone, or filled."""
        variable = self._variable()
        if variable is None or _has_values(variable):
            return []
        with self._state_of_old():
            values = drawn_as_built(variable, self._initializer)
        variable.assign(values)
        return [variable.path]

    def _variable(self) -> keras.Variable | None:
        return None if self._reference is None else self._reference()

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

    def _draw_now(self, shape: Sequence[int], dtype: str, layout: Any) -> Any:
        if layout is None:
            return self._initializer(shape, dtype=dtype)
        with sharding_of(layout) as sharding:
            return distribute(self._initializer(shape, dtype=dtype), sharding)

    def _advance(self) -> None:
        """What a draw does to a generator, so that the next weight has its own values."""
        if self._generator is not None:
            self._state = snapshot(self._generator.state)
            self._generator.next()

    @contextlib.contextmanager
    def _state_of_old(self) -> Iterator[None]:
        """The generator as it was when the weight was made."""
        if self._generator is None:
            yield
            return
        state = self._generator.state
        now = snapshot(state)
        state.assign(self._state)
        try:
            yield
        finally:
            state.assign(now)


def _unfilled_shards(shape: Sequence[int], dtype: str, sharding: Any) -> Any:
    def part(index: Sequence[slice] | None) -> np.ndarray:
        return unfilled_array([each.stop - each.start for each in index or ()], dtype)

    return placed(shape, sharding, part)


def _has_values(variable: keras.Variable) -> bool:
    """Whether it was filled past `assign`, for instance by a state dict of PyTorch."""
    return any(np.count_nonzero(part) for part in local_parts(variable.value))
