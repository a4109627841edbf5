"""What a model keeps outside its variables, kept as it is."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

from keras_fanwise.backends.private_keras import all_layers, kept_losses


@contextlib.contextmanager
def kept_state(model: keras.Layer) -> Iterator[None]:
    """In the end the model's losses are as before, and so are PyTorch's own modules.

    These stand in a `TorchModuleWrapper`: their buffers, such as the statistics of a
    batch normalization, are no variables of Keras, and calling them sets whether they
    are in training.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_losses(model))
        if keras.backend.backend() == "torch":
            stack.enter_context(_kept_modules(model))
        yield


@contextlib.contextmanager
def _kept_modules(model: keras.Layer) -> Iterator[None]:
    import torch

    modules = {
        id(module): module for layer in all_layers(model) for module in layer.modules()
    }.values()
    modes = [(module, module.training) for module in modules]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, values in buffers:
            if not torch.equal(buffer, values):
                with torch.no_grad():
                    buffer.copy_(values)
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)


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


class Watch(NamedTuple):
    """Who sees a tensor that passes, and later its gradient."""

    forward: Callable[[Any], None]
    backward: Callable[[Any], None]


# Takes a tensor and who watches it, and gives a tensor of the same values.
Tap = Callable[[Any, Watch], Any]
Run = Callable[[Tap], Sequence[Any]]
Cotangents = Callable[[Sequence[Any]], Sequence[Any]]


def forward_and_back(run: Run, cotangents: Cotangents) -> None:
    """Runs a computation and sends cotangents back from its results.

    Gradients of weights are not computed, and those of tensors are seen one after the
    other, so that none needs to be kept.

    Args:
        run: computes the results, and puts tensors through the tap that it is given.
            A watch sees nothing of a tensor that has no values yet, because code that
            calls the tap is being compiled.
        cotangents: gives one for each result, of the same shape and type.
    """
    backends = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    backends[keras.backend.backend()](run, cotangents)


def has_values(tensor: Any) -> bool:
    """Whether a tensor has values by now: not so where code is being compiled."""
    if keras.backend.backend() == "jax":
        import jax

        return not isinstance(tensor, jax.core.Tracer)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.executing_eagerly())
    return True


# Every tap has a second argument, on which nothing depends but the tap itself: the
# backends compute the gradients that lead to it, which are those of all tensors tapped
# and of nothing else.


def _tensorflow(run: Run, cotangents: Cotangents) -> None:
    import tensorflow as tf

    anchor = tf.zeros(())

    def tap(tensor: Any, watch: Watch) -> Any:
        if not has_values(tensor):
            return tensor

        def passed(tensor: Any, anchor: Any) -> Any:
            def back(gradient: Any) -> Any:
                watch.backward(tf.convert_to_tensor(gradient))  # of slices, a tensor
                return gradient, tf.zeros_like(anchor)

            return tf.identity(tensor), back

        watch.forward(tf.stop_gradient(tensor))  # or the tape would keep what is measured
        return tf.custom_gradient(passed)(tensor, anchor)

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(anchor)
        results = list(run(tap))
    tape.gradient(results, anchor, output_gradients=list(cotangents(results)))


def _jax(run: Run, cotangents: Cotangents) -> None:
    import jax

    results, pull_back = jax.vjp(
        lambda anchor: list(run(lambda tensor, watch: _jax_tap()(watch, tensor, anchor))),
        jax.numpy.zeros(()),
    )
    pull_back(list(cotangents(results)))


@functools.cache
def _jax_tap() -> Any:
    import jax

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def passed(_watch: Watch, tensor: Any, _anchor: Any) -> Any:
        return tensor

    def forward(watch: Watch, tensor: Any, _anchor: Any) -> Any:
        if has_values(tensor):
            watch.forward(tensor)
        return tensor, None

    def back(watch: Watch, _kept: None, gradient: Any) -> Any:
        if has_values(gradient):
            watch.backward(gradient)
        return gradient, jax.numpy.zeros(())

    passed.defvjp(forward, back)
    return passed


def _torch(run: Run, cotangents: Cotangents) -> None:
    import torch

    class Passed(torch.autograd.Function):
        """The identity of a tensor, whose gradient is watched."""

        @staticmethod
        def forward(context: Any, tensor: Any, _anchor: Any, watch: Watch) -> Any:
            context.watch = watch
            return tensor.view_as(tensor)

        @staticmethod
        def backward(context: Any, gradient: Any) -> Any:
            context.watch.backward(gradient)
            return gradient, torch.zeros_like(anchor), None

    def tap(tensor: Any, watch: Watch) -> Any:
        watch.forward(tensor.detach())
        apply: Any = Passed.apply  # which has no types
        return apply(tensor, anchor, watch)

    # Keras's Dropout draws from the generators of PyTorch, whose states must stay.
    devices = range(torch.cuda.device_count())
    with torch.enable_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        anchor = torch.zeros((), requires_grad=True)
        results = [result for result in run(tap) if result.requires_grad]
        if results:
            torch.autograd.grad(results, anchor, cotangents(results), allow_unused=True)
