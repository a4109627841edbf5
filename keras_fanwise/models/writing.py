"""Writes weights: all of them, or none."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_fanwise.backends.arrays import snapshot


@contextlib.contextmanager
def all_or_none() -> Iterator[Callable[[keras.Variable, Any], None]]:
    """Gives what writes a value; after any exception in the block the old ones stand again.

    The old values are kept until the block ends: on JAX where they are, elsewhere in the
    memory of the host.
    """
    before: list[tuple[keras.Variable, Any]] = []

    def write(variable: keras.Variable, values: Any) -> None:
        before.append((variable, snapshot(variable)))
        variable.assign(values)

    try:
        yield write
    except BaseException:
        for variable, old in before:
            variable.assign(old)
        raise
