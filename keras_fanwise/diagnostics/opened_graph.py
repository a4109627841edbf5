"""A model as one graph of operations, its layers opened down to those that compute."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_fanwise.backends.calls import intercepted_calls
from keras_fanwise.backends.private_keras import (
    SymbolicCall,
    own_variables,
    symbolic_call,
    symbolic_calls,
)
from keras_fanwise.diagnostics.batches import shapes_for, sizes
from keras_fanwise.diagnostics.steps import Step, is_kernel, is_product
from keras_fanwise.seam.owners import is_of_keras

# Those of Keras's layers that hold others and can be opened.
_OPEN = tuple(
    getattr(keras.layers, name)
    for name in ("MultiHeadAttention", "GroupQueryAttention", "Lambda")
)
_SAMPLES = 2


class OpenedGraph:
    """The steps of a model.

    Attributes:
        steps: in an order in which each comes after those that it needs.
        unopened: layers that may hide operations, with what was in the way.

    Args:
        model: a built model or layer.
    """

    def __init__(self, model: keras.Layer) -> None:
        self.steps: list[Step] = []
        self.unopened: list[tuple[keras.Layer, str]] = []
        # Those that are being opened, from the model inwards; and for each call inside.
        self._holders: tuple[keras.Layer, ...] = ()
        self._holders_of: dict[int, tuple[keras.Layer, ...]] = {}
        self._hidden: dict[int, list[keras.Variable]] = {}
        error: Exception | None = None
        with (
            symbolic_calls(model),
            intercepted_calls(self._called),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of masks, which are not followed
            try:
                for size in sizes(model):
                    args, kwargs = shapes_for(model, _SAMPLES, size)
                    self.unopened.clear()
                    try:
                        calls = self._open(model, args, kwargs)[1]
                    except Exception as caught:
                        error = caught
                        continue
                    self._add_steps(_tensors((args, kwargs)), calls)
                    return
            except ValueError as caught:  # the model does not say what it takes
                error = caught
        self.unopened = [(model, _line(error))]

    def _called(
        self, original: Callable[..., Any], layer: keras.Layer, args: Any, kwargs: Any
    ) -> Any:
        """Opens a layer where it can be, in place of calling it."""
        if (
            not _can_be_opened(layer)
            or layer in self._holders
            or not _tensors((args, kwargs))
        ):
            return original(layer, *args, **kwargs)
        failed = len(self.unopened)
        try:
            return self._open(layer, args, kwargs)[0]
        except Exception as error:
            del self.unopened[failed:]
            if not isinstance(layer, _OPEN) and any(map(is_kernel, layer.weights)):
                self.unopened.append((layer, _line(error)))
        return original(layer, *args, **kwargs)

    def _open(
        self, layer: keras.Layer, args: Any, kwargs: Any
    ) -> tuple[Any, list[SymbolicCall]]:
        """What the layer gives, and the calls that lead to it."""
        outside = self._holders
        self._holders = (*outside, layer)
        try:
            outputs = layer.call(*args, **kwargs)
        finally:
            holders, self._holders = self._holders, outside
        calls = _in_order(_tensors(outputs), _tensors((args, kwargs)))
        for call in calls:
            self._holders_of.setdefault(call.number, holders)
        self._find_hidden(
            layer, [c for c in calls if self._holders_of[c.number] == holders]
        )
        return outputs, calls

    def _find_hidden(self, layer: keras.Layer, calls: Sequence[SymbolicCall]) -> None:
        """Kernels that a layer turns into tensors before it multiplies by them."""
        seen = {id(weight) for call in calls for weight in _weights(call)}
        products = [call for call in calls if is_product(call.operation) and _values(call)]
        for weight in own_variables(layer):
            if not is_kernel(weight) or id(weight) in seen:
                continue
            size = math.prod(weight.shape)
            for call in products:
                if any(math.prod(value.shape) == size for value in _values(call)):
                    self._hidden.setdefault(call.number, []).append(weight)
                    break

    def _add_steps(
        self, inputs: Sequence[keras.KerasTensor], calls: Sequence[SymbolicCall]
    ) -> None:
        known: dict[int, Step] = {}
        for tensor in inputs:
            known[id(tensor)] = Step(None, (), (), (), tensor, len(self.steps))
            self.steps.append(known[id(tensor)])
        for call in calls:
            tensors = _tensors((call.args, call.kwargs))
            before = [known[id(tensor)] for tensor in tensors if id(tensor) in known]
            holders = self._holders_of[call.number]
            first = call.outputs[0]
            weights = [*_weights(call), *self._hidden.get(call.number, ())]
            step = Step(call.operation, before, holders, weights, first, len(self.steps))
            self.steps.append(step)
            known |= dict.fromkeys(map(id, call.outputs), step)


def _can_be_opened(layer: keras.Layer) -> bool:
    return not is_of_keras(layer) or isinstance(layer, _OPEN)


def _in_order(
    outputs: Sequence[keras.KerasTensor], inputs: Sequence[keras.KerasTensor]
) -> list[SymbolicCall]:
    """The calls that lead from inputs to outputs, each after those that it needs."""
    calls: list[SymbolicCall] = []
    done = set(map(id, inputs))
    # Not by recursion: networks are deep.
    stack = [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, is_ready = stack.pop()
        if id(tensor) in done:
            continue
        call = symbolic_call(tensor)
        if call is None:
            done.add(id(tensor))
        elif is_ready:
            done.update(map(id, call.outputs))
            calls.append(call)
        else:
            stack.append((tensor, True))
            needed = _tensors((call.args, call.kwargs))
            stack += [(one, False) for one in reversed(needed)]
    return calls


def _tensors(structure: Any) -> list[keras.KerasTensor]:
    flat = keras.tree.flatten(structure)
    return [value for value in flat if isinstance(value, keras.KerasTensor)]


def _weights(call: SymbolicCall) -> list[keras.Variable]:
    if isinstance(call.operation, keras.Layer):
        return list(call.operation.weights)
    return [
        value
        for value in keras.tree.flatten((call.args, call.kwargs))
        if isinstance(value, keras.Variable)
    ]


def _values(call: SymbolicCall) -> list[Any]:
    """The arguments of a call that are tensors with values."""
    arguments = keras.tree.flatten((call.args, call.kwargs))
    return [value for value in arguments if keras.ops.is_tensor(value)]


def _line(error: Exception | None) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
