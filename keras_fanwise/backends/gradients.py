"""A tensor seen on its way forward, and its gradient on the way back, on each backend."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras


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
