"""Python's random numbers, from which everything without a seed takes one."""

import contextlib
import random
from collections.abc import Iterator

import keras

from keras_fanwise.backends.arrays import on_host


@on_host
def fresh_seed() -> int:
    """The integer that an unseeded initializer of Keras would take, from its source."""
    return int(keras.initializers.RandomNormal().seed)


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """After the block, or the function, Python's `random` goes on as if it had not been.

    An initializer without a seed takes a number when it is made, also where it is made
    only to be looked at.
    """
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
