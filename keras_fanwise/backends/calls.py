"""Replaces what layers do when they are called, for a while and for one thread."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

_lock = threading.Lock()
_intercepting = threading.RLock()


@contextlib.contextmanager
def replaced_call(layer: keras.Layer, called: Callable[..., Any]) -> Iterator[None]:
    """Keras calls `called` in place of the layer's `call`, in the thread that entered.

    Other threads, which may serve the model meanwhile, get the layer's own. The last of
    several replacements by one thread counts, until it ends.
    """
    thread = threading.get_ident()
    with _lock:
        own = vars(layer).get("call")
        if not isinstance(own, _CallByThread):
            own = _CallByThread(layer.call, own)
            # Past Keras and PyTorch, which keep account of what is assigned to a layer.
            object.__setattr__(layer, "call", own)
        own.replacements.setdefault(thread, []).append(called)
    try:
        yield
    finally:
        with _lock:
            own.replacements[thread].remove(called)
            if not own.replacements[thread]:
                del own.replacements[thread]
            if not own.replacements and own.attribute is None:
                object.__delattr__(layer, "call")
            elif not own.replacements:
                object.__setattr__(layer, "call", own.attribute)


def current_call(layer: keras.Layer) -> Callable[..., Any]:
    """What the layer does when this thread calls it."""
    call = layer.call
    return call.current() if isinstance(call, _CallByThread) else call


@contextlib.contextmanager
def intercepted_calls(
    called: Callable[[Callable[..., Any], keras.Layer, tuple[Any, ...], Any], Any],
) -> Iterator[None]:
    """Layers that this thread calls are called through `called`, until the block ends.

    Args:
        called: takes what Keras does, the layer, and the arguments of the call.
    """
    thread = threading.get_ident()
    # One thread at a time: what a class had before is given back in the right order.
    with _intercepting:
        original = keras.Layer.__call__

        @functools.wraps(original)
        def intercepted(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(layer, *args, **kwargs)
            return called(original, layer, args, kwargs)

        keras.Layer.__call__ = intercepted
        try:
            yield
        finally:
            keras.Layer.__call__ = original


class _CallByThread:
    """A layer's `call`, replaced in some threads.

    Args:
        original: what the layer does in all the others.
        attribute: what stood in the layer's own attributes, if something did.
    """

    def __init__(self, original: Callable[..., Any], attribute: Any) -> None:
        functools.update_wrapper(self, original)
        self.original = original
        self.attribute = attribute
        self.replacements: dict[int, list[Callable[..., Any]]] = {}

    def current(self) -> Callable[..., Any]:
        replacements = self.replacements.get(threading.get_ident())
        return replacements[-1] if replacements else self.original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.current()(*args, **kwargs)
