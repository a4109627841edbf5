"""What happens in one call of a layer: inputs, raw output, output and gradient.

`tapped` lets a function see the calls of layers, and decide what they give, in the thread
that asks; other threads, which may serve the model meanwhile, notice nothing. A call tells
what the layer gives and what its own activation took. `forward_and_back`
sends a gradient back, and shows it at every tensor that was put through its tap. On JAX
nothing here is compiled again for a batch of the same shape as before, so that a callback
may measure during a training as often as it likes.
"""

import contextlib
import functools
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.backends.private_keras import (
    all_layers,
    kept_losses,
    random_numbers_from,
    seed_generator_state,
    unfilled_variables,
)


@contextlib.contextmanager
def kept_state(model: keras.Layer) -> Iterator[None]:
    """In the end what a model keeps outside its variables is as before.

    Its losses, all generators of random numbers that are no variables of its own, which
    begin at the same state each time, and on PyTorch modules of PyTorch's own, which stand
    in a `TorchModuleWrapper`: their buffers, such as the statistics of a batch
    normalization, are no variables of Keras, and calling them sets whether they are in
    training.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_losses(model))
        stack.enter_context(random_numbers_from(0))
        if keras.backend.backend() == "torch":
            import torch

            stack.enter_context(_kept_modules(model))
            stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
            torch.manual_seed(0)
        yield


def random_state(variables: Iterable[keras.Variable]) -> Callable[[], None]:
    """What makes a layer draw again what it will draw next, wherever it draws from.

    Of its variables those of its own generators; and those of Python, NumPy, Keras and
    PyTorch, from which Keras's Dropout draws there.
    """
    states = [(each, each.value) for each in (*variables, *seed_generator_state())]
    python, arrays = random.getstate(), np.random.get_state()
    torch: Any = sys.modules["torch"] if keras.backend.backend() == "torch" else None
    tensors = torch and (torch.random.get_rng_state(), torch.cuda.get_rng_state_all())

    def restore() -> None:
        for variable, value in states:
            variable.assign(value)
        random.setstate(python)
        np.random.set_state(arrays)
        if torch is not None:
            torch.random.set_rng_state(tensors[0])
            torch.cuda.set_rng_state_all(tensors[1])

    return restore


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


class LayerCall(NamedTuple):
    """One call of a layer, which is yet to run."""

    layer: keras.Layer
    function: Callable[..., Any]  # what it does
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def output(self) -> Any:
        """What the layer gives; it runs once."""
        return self.function(*self.args, **self.kwargs)

    def outputs(self) -> tuple[Any, list[tuple[Any, Any]]]:
        """What the layer gives, and what each call of its activation takes and gives.

        It runs once.
        """
        layer = self.layer
        is_property = isinstance(getattr(type(layer), "activation", None), property)
        if not callable(getattr(layer, "activation", None)) or is_property:
            return self.output(), []
        activated: list[tuple[Any, Any]] = []

        def watched(activation: Any, tensor: Any, /, *args: Any, **kwargs: Any) -> Any:
            activated.append((tensor, activation(tensor, *args, **kwargs)))
            return activated[-1][1]

        with _replaced(layer, "activation", watched):
            return self.output(), activated


@contextlib.contextmanager
def tapped(
    layers: Iterable[keras.Layer], tap: Callable[[LayerCall], Any]
) -> Iterator[None]:
    """Whenever this thread calls one of the layers, it gets what `tap` gives for the call.

    Of several taps on a layer by one thread the last sees the calls, until it ends; what
    it sees of the others is their work, as `function`.
    """

    def called(layer: keras.Layer, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        return tap(LayerCall(layer, function, args, kwargs))

    with contextlib.ExitStack() as stack:
        for layer in layers:
            is_quantized = getattr(layer, "quantization_mode", None) is not None
            name = "quantized_call" if is_quantized else "call"
            replacement = functools.partial(called, layer)
            stack.enter_context(_replaced(layer, name, replacement))
        yield


def intercepted_calls(
    called: Callable[[Callable[..., Any], keras.Layer, tuple[Any, ...], Any], Any],
) -> contextlib.AbstractContextManager[None]:
    """Layers that this thread calls are called through `called`, until the block ends.

    It takes what Keras does, the layer, and the arguments of the call.
    """

    def intercepted(original: Any, layer: Any, /, *args: Any, **kwargs: Any) -> Any:
        return called(original, layer, args, kwargs)

    return _replaced(keras.Layer, "__call__", intercepted)


@contextlib.contextmanager
def symbolic_operators() -> Iterator[None]:
    """`variable * x` is that of a `KerasTensor` x, as `x * variable` is, in this thread.

    Variables, and arrays of JAX, would ask it for its value.
    """

    def of_variable(original: Any, variable: Any, other: Any) -> Any:
        is_symbolic = isinstance(other, keras.KerasTensor)
        return NotImplemented if is_symbolic else original(variable, other)

    def as_array(_original: Any, tensor: Any) -> Any:
        return tensor  # which JAX does not know, and so leaves the operation to

    with contextlib.ExitStack() as stack:
        for name in ("add", "sub", "mul", "truediv", "pow", "matmul"):
            stack.enter_context(_replaced(keras.Variable, f"__{name}__", of_variable))
        stack.enter_context(_replaced(keras.KerasTensor, "__jax_array__", as_array))
        yield


_lock = threading.Lock()


class _ByThread:
    """A function that a layer, or the class of layers, has, replaced in some threads."""

    def __init__(self, owner: Any, name: str) -> None:
        self.original = getattr(owner, name)
        self.is_own = name in vars(owner)
        self.replacements: dict[int, list[Callable[..., Any]]] = {}
        functools.update_wrapper(self, self.original)

    def current(self) -> Callable[..., Any]:
        replacements = self.replacements.get(threading.get_ident())
        function: Callable[..., Any] = replacements[-1] if replacements else self.original
        return function

    def __get__(self, layer: Any, cls: Any = None) -> Any:
        return self if layer is None else functools.partial(self, layer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.current()(*args, **kwargs)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """This thread calls `function`, and all others what they did.

    It takes what this thread called before, and then the arguments.
    """
    thread = threading.get_ident()
    # Past Keras and PyTorch, which keep account of what is assigned to a layer.
    kind = type if isinstance(owner, type) else object
    assign, remove = kind.__setattr__, kind.__delattr__
    with _lock:
        by_thread = vars(owner).get(name)
        if not isinstance(by_thread, _ByThread):
            by_thread = _ByThread(owner, name)
            assign(owner, name, by_thread)
        mine = functools.partial(function, by_thread.current())
        by_thread.replacements.setdefault(thread, []).append(mine)
    try:
        yield
    finally:
        with _lock:
            by_thread.replacements[thread].remove(mine)
            if not by_thread.replacements[thread]:
                del by_thread.replacements[thread]
            if not by_thread.replacements:
                if by_thread.is_own:
                    assign(owner, name, by_thread.original)
                else:
                    remove(owner, name)


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
        cotangents: gives one for each result, of the same shape and type.
    """
    backends = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    backends[keras.backend.backend()](run, cotangents)


# Every tap has a second argument, on which nothing depends but the tap itself: the
# backends compute the gradients that lead to it, which are those of all tensors tapped
# and of nothing else.


def _tensorflow(run: Run, cotangents: Cotangents) -> None:
    import tensorflow as tf

    anchor = tf.zeros(())

    is_eager = tf.executing_eagerly()

    def tap(tensor: Any, watch: Watch) -> Any:
        if tf.executing_eagerly() is not is_eager:
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
        watch.forward(tensor)
        return tensor, None

    def back(watch: Watch, _kept: None, gradient: Any) -> Any:
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

    with torch.enable_grad():
        anchor = torch.zeros((), requires_grad=True)
        results = [result for result in run(tap) if result.requires_grad]
        if results:
            torch.autograd.grad(results, anchor, cotangents(results), allow_unused=True)


def compiled(
    function: Callable[..., Any], variables: Sequence[keras.Variable]
) -> Callable[..., Any] | None:
    """A function of tensors that reads variables, compiled when it is called first.

    The variables have the values of each call, and what is assigned to them is forgotten.
    `None` on PyTorch, which compiles for longer than it then saves.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        def with_variables(*tensors: Any) -> Any:
            with unfilled_variables():  # such as a new loss makes: none can be made here
                return function(*tensors)

        traced: Callable[..., Any] = tf.function(with_variables, autograph=False)
        return traced
    if keras.backend.backend() == "jax":
        import jax

        def with_values(values: Sequence[Any], *tensors: Any) -> Any:
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                return function(*tensors)

        jitted = jax.jit(with_values)
        return lambda *tensors: jitted([one.value for one in variables], *tensors)
    return None
