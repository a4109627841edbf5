"""Replaces what a layer does when it is called, for a while."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras


@contextlib.contextmanager
def replaced_call(layer: keras.Layer, called: Callable[..., Any]) -> Iterator[None]:
    """Keras calls `called` in place of the layer's `call`.

    It stands in the layer's own attributes, past Keras and PyTorch, which keep account of
    what is assigned to a layer.
    """
    before = vars(layer).get("call")
    object.__setattr__(layer, "call", called)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(layer, "call")
        else:
            object.__setattr__(layer, "call", before)
