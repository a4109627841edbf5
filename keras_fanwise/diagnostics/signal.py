"""Whether a signal survives the depth of a model, forward and backward."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_fanwise.arguments import fail
from keras_fanwise.backends.calls import current_call, replaced_call
from keras_fanwise.backends.gradients import Tap, Watch, forward_and_back
from keras_fanwise.backends.kept_state import kept_state
from keras_fanwise.backends.tensor_moments import (
    TensorMoments,
    dtype_name,
    pooled,
    tensor_moments,
)
from keras_fanwise.diagnostics.batches import Arguments, batch_for, normal_values
from keras_fanwise.diagnostics.verdicts import judge
from keras_fanwise.reports.signal_report import LayerSignal, SignalReport


def signal(model: keras.Layer, x: Any = None) -> SignalReport:
    """Sends a batch through a model and a random cotangent back, and measures each layer.

    Forward, of what each layer gives: mean, standard deviation, and the share of its units
    (along the channels) that are 0 for the whole batch. Backward: the standard deviation
    of the gradient that arrives there, where each value that the model gives gets an
    independent standard normal one. The model runs as in training: with Dropout, and with
    BatchNormalization by the statistics of the batch.

    A healthy model keeps both deviations of one order over its depth. The report finds
    signals that vanish or explode, with the rate per layer, layers whose units are dead,
    and values that are not finite; see `SignalReport` for the limits.

    The model, its moving statistics, its losses, its random state and its optimizer are
    as before, also after an error. Every call gives the same numbers. Other threads may
    call the model meanwhile, and are not measured.

    Args:
        model: a built model, or a built layer. Each layer of a model, and of the models
            inside it, is measured at each of its calls.
        x: a batch that the model takes; by default 32 samples (fewer if they are large,
            and as many as the model says if it does) of independent standard normal
            values, or of integers where the model takes integers. Dimensions that the
            model leaves open are 32, or what its position embeddings hold, if less.

    Returns:
        A `SignalReport`: print it, `plot()` it, or read its `rows` and `findings`.

    Raises:
        TypeError: `model` is not a Keras model or layer.
        ValueError: `model` is not built, or `x` is not given and the model does not say
            what it takes.

    References: Glorot and Bengio 2010, <https://proceedings.mlr.press/v9/glorot10a.html>,
    equations 5 and 6; He et al. 2015, <https://arxiv.org/abs/1502.01852>, equations 9
    and 13.

    Example: LeCun's scale halves the variance in each layer of ReLUs.

    >>> import keras
    >>> from keras_fanwise import FanwiseLecunNormal
    >>> lecun = [FanwiseLecunNormal(seed=seed) for seed in range(20)]
    >>> dense = [keras.layers.Dense(256, "relu", kernel_initializer=one) for one in lecun]
    >>> report = signal(keras.Sequential([keras.Input((256,)), *dense]))
    >>> [finding.verdict.label for finding in report.findings]
    ['vanishing', 'vanishing']
    >>> round(report.forward.rate ** 2, 1), round(report.backward.rate ** 2, 1)
    (0.5, 0.5)
    """
    if not isinstance(model, keras.Layer):
        raise fail(TypeError, "model", "a Keras model or layer", model)
    if not model.built:
        raise fail(ValueError, "model", "built", model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_state(model))
        if x is None:
            batch = stack.enter_context(batch_for(model))
        else:
            x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
            batch = Arguments((x,), {})
        calls = _sent(model, batch)
    return judge([call.row() for call in calls if call.forward], name=model.name)


class _Call:
    """A call of a layer, and what was measured of the tensors that it gave."""

    def __init__(self, layer: keras.Layer, number: int, depth: int) -> None:
        self.layer = layer
        self.number = number
        self.depth = depth
        self.shape: tuple[int, ...] = ()
        self.forward: list[TensorMoments] = []
        self.backward: list[TensorMoments] = []

    def watch(self) -> Watch:
        return Watch(self._forward, self._backward)

    def _forward(self, tensor: Any) -> None:
        self.shape = self.shape or tuple(tensor.shape)
        axis = _unit_axis(self.layer, len(tensor.shape))
        self.forward.append(tensor_moments(tensor, axis))

    def _backward(self, gradient: Any) -> None:
        self.backward.append(tensor_moments(gradient))

    def row(self) -> LayerSignal:
        values = pooled(self.forward)
        return LayerSignal(
            path=self.layer.path or self.layer.name,
            call=self.number,
            layer=type(self.layer).__name__,
            depth=self.depth,
            shape=self.shape,
            units=_units(self.shape, self.layer),
            mean=values.mean,
            std=values.std,
            dead=values.dead,
            gradient_std=pooled(self.backward).std if self.backward else None,
        )


def _sent(model: keras.Layer, batch: Arguments) -> list[_Call]:
    """The calls of the layers, in their order."""
    calls: list[_Call] = []

    def run(tap: Tap) -> list[Any]:
        # Whatever is assigned to a variable in the scope is forgotten with it.
        with keras.StatelessScope(), contextlib.ExitStack() as stack:
            for layer in dict.fromkeys(_measured(model)):
                called = _tapped(layer, tap, calls)
                stack.enter_context(replaced_call(layer, called))
            return _floats(model(*batch.positional, training=True, **batch.named))

    def cotangents(results: Any) -> list[Any]:
        return [
            normal_values(tuple(result.shape), dtype_name(result), f"cotangent {number}")
            for number, result in enumerate(results)
        ]

    forward_and_back(run, cotangents)
    return calls


def _measured(model: keras.Layer) -> Iterator[keras.Layer]:
    """The layers of a model, and in place of models inside it their layers."""
    inner = model.layers if isinstance(model, keras.Model) else []
    if not inner:
        yield model
    for layer in inner:
        yield from _measured(layer)


def _tapped(layer: keras.Layer, tap: Tap, calls: list[_Call]) -> Callable[..., Any]:
    """The layer's `call`, recorded, with taps on all that it gives."""
    original = current_call(layer)
    has_kernel = any(len(weight.shape) > 1 for weight in layer.weights)

    @functools.wraps(original)
    def called(*args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        number = 1 + sum(call.layer is layer for call in calls)
        depth = (calls[-1].depth if calls else 0) + has_kernel
        calls.append(call := _Call(layer, number, depth))
        return keras.tree.map_structure(
            lambda tensor: tap(tensor, call.watch()) if _is_float(tensor) else tensor,
            outputs,
        )

    return called


def _floats(outputs: Any) -> list[Any]:
    return [tensor for tensor in keras.tree.flatten(outputs) if _is_float(tensor)]


def _is_float(tensor: Any) -> bool:
    return (
        keras.ops.is_tensor(tensor)
        and "float" in dtype_name(tensor)
        and 0 not in tensor.shape
    )


def _unit_axis(layer: keras.Layer, rank: int) -> int:
    """Where the units of a tensor are: the channels."""
    images = keras.config.image_data_format() if rank > 3 else "channels_last"
    first = (getattr(layer, "data_format", None) or images) == "channels_first"
    return 1 if first and rank > 2 else -1


def _units(shape: Sequence[int], layer: keras.Layer) -> int:
    return shape[_unit_axis(layer, len(shape))] if len(shape) > 1 else 1
