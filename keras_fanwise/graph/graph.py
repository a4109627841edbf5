"""How a model is wired: every call of a layer or an operation, and what it takes.

`keras.ops` and Python's operators are calls, as layers are. Models that are made
of calls are read as Keras has recorded them; layers and models with a `call` of their own,
and those layers of Keras that hold others, are opened on symbolic tensors.
"""

import functools
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_fanwise.arguments import is_of_keras, snake_case
from keras_fanwise.backends.private_keras import (
    SymbolicCall,
    all_layers,
    own_variables,
    recorded_model,
    symbolic_call,
    symbolic_calls,
)
from keras_fanwise.backends.tap import intercepted_calls, symbolic_operators
from keras_fanwise.seam.weights import (
    OwnedWeight,
    has_kernel,
    owned_weights,
    role,
    weights_within,
)

# What a signal can meet after a layer, before the next layer with a kernel.
NORMALIZATION, SUM, END, KERNEL = "normalization", "sum", "end", "kernel"

# Layers that are an activation, and have it in their name alone.
_ACTIVATIONS = {"ReLU": "relu", "LeakyReLU": "leaky_relu", "ELU": "elu"}
# Of `keras.ops` and layers, those that are not linear and no activation by name.
_NONLINEAR = ("Absolute", "Exp", "Maximum", "Minimum", "PReLU", "Power", "Square")
# Through these no gradient comes back from a value of 0.
_FLAT_AT_ZERO = (
    "hard_shrink",
    "p_re_lu",
    "relu",
    "relu6",
    "relu_squared",
    "soft_shrink",
    "square",
    "tanh_shrink",
)
_PRODUCTS = (
    "Conv",
    "ConvTranspose",
    "DepthwiseConv",
    "Dot",
    "Einsum",
    "Matmul",
    "SeparableConv",
    "Tensordot",
)
# Those of Keras's layers that hold others and can be opened.
_OPEN = tuple(
    getattr(keras.layers, name)
    for name in ("MultiHeadAttention", "GroupQueryAttention", "Lambda")
)
_SAMPLES = 2


def activation_of(layer: keras.Layer) -> str:
    """The name of a layer's activation, which need not be one of Keras's; "" of none."""
    function = getattr(layer, "activation", None)
    if function is None:
        return _ACTIVATIONS.get(type(layer).__name__, "")
    name = str(getattr(function, "__name__", type(function).__name__))
    return "" if name == "linear" else name


@dataclass(eq=False, repr=False)
class Call:
    """One call of an operation; several of one layer are several calls."""

    operation: Any  # a layer, or one of `keras.ops`; `None` for an input of the model
    inputs: tuple["Call", ...]  # in the order of its arguments
    holders: tuple[keras.Layer, ...]  # the layers that call it, from the model inwards
    weights: tuple[keras.Variable, ...]
    # Of what it gives first; `None` where the model's is open.
    shape: tuple[int | None, ...]
    dtype: str
    place: int  # in the order of the calls

    def __post_init__(self) -> None:
        # Whether it gives floats that come of floats: not a mask. Not by recursion, as
        # networks are deep.
        self.is_signal: bool = "float" in self.dtype and (
            not self.inputs
            or isinstance(self.operation, keras.Layer)
            or any(call.is_signal for call in self.inputs)
        )

    @property
    def signals(self) -> list["Call"]:
        return [call for call in self.inputs if call.is_signal]

    @property
    def kind(self) -> str:
        """The name of the operation's class."""
        return type(self.operation).__name__

    @property
    def path(self) -> str:
        """Of the layer, or of the layer that calls the operation, and the operation."""
        inner = self.holders[-1] if len(self.holders) > 1 else None
        if isinstance(self.operation, keras.Layer) or inner is None:
            return str(getattr(self.operation, "path", None) or self.operation.name)
        return f"{inner.path or inner.name}/{self.kind.lower()}"

    @functools.cached_property
    def kernels(self) -> list[keras.Variable]:
        """What the signal is multiplied by as by a matrix, the last one last."""
        if isinstance(self.operation, keras.Layer):
            within = weights_within(self.operation)
            return [owned.variable for owned in within if role(owned).is_matrix]
        is_product = self.kind in _PRODUCTS
        return [weight for weight in self.weights if is_product and len(weight.shape) > 1]

    @property
    def has_kernel(self) -> bool:
        """Whether it multiplies by a matrix, or looks signals up in a table."""
        layer = self.operation
        return bool(self.kernels) or (isinstance(layer, keras.Layer) and has_kernel(layer))

    @functools.cached_property
    def gamma(self) -> keras.Variable | None:
        """A scale that the signal is multiplied by, unit by unit."""
        own = [
            weight
            for weight in self.weights
            if self.kind == "Multiply" or weight.name in ("gamma", "scale")
        ]
        return own[0] if len(own) == 1 and not self.kernels else None

    @functools.cached_property
    def activation(self) -> str:
        """The name of a function that is not linear; of somebody's own, of its class."""
        if isinstance(self.operation, keras.Layer):
            name = activation_of(self.operation)
            if name or getattr(self.operation, "activation", None) is not None:
                return name
            if self.kernels and not is_of_keras(self.operation):
                return self.kind
        name = snake_case(self.kind)
        nonlinear = hasattr(keras.activations, name) or self.kind in _NONLINEAR
        return name if nonlinear and name != "linear" else ""

    @property
    def function(self) -> Any:
        """What it applies: its layer's activation, or the layer or operation itself."""
        return getattr(self.operation, "activation", None) or self.operation

    @property
    def is_flat_at_zero(self) -> bool:
        """Whether nothing that gives it 0 learns from there."""
        is_leaky = getattr(self.function, "negative_slope", 0)
        return self.activation in _FLAT_AT_ZERO and not is_leaky

    @property
    def is_sum(self) -> bool:
        """Whether it adds signals, not one and a constant, subtracts or averages them."""
        is_average = isinstance(self.operation, keras.layers.Average)
        adds = is_average or self.kind in ("Add", "Subtract")
        return adds and self.is_signal and len(self.inputs) > 1

    @property
    def grows(self) -> bool:
        """Whether it makes images larger."""
        if "Transpose" in self.kind:
            return self.kind.startswith("Conv")
        return self.kind.startswith(("UpSampling", "Resiz"))


class Graph:
    """The calls of a model, and what follows from how they take each other's outputs.

    Nothing is looked at before the first question, and nothing twice. The model, or layer,
    is built, and is not changed; it is not to be changed while the graph is in use.
    """

    def __init__(self, model: keras.Layer) -> None:
        self.model = model

    @functools.cached_property
    def _reader(self) -> "_Reader":
        return _read(self.model)

    @property
    def calls(self) -> list[Call]:
        """In an order in which each comes after those that it needs."""
        return self._reader.calls

    @property
    def unopened(self) -> list[tuple[keras.Layer, str]]:
        """Layers that may hide calls, with what was in the way."""
        return self._reader.unopened

    @property
    def outputs(self) -> list[Call]:
        """What gives each output of the model; none of a model that cannot be opened."""
        return self._reader.outputs

    def results_of(self, layer: keras.Layer) -> list[list[Call]]:
        """For each call of a layer what gives its outputs: itself, or the last inside."""
        return self._reader.results.get(id(layer), [])

    @functools.cached_property
    def sums(self) -> list[Call]:
        """Where signals are added, whoever adds them and however it is written."""
        return [call for call in self.calls if call.is_sum]

    @functools.cached_property
    def _following(self) -> dict[Call, list[Call]]:
        """Of each call those that take what it gives as a signal."""
        following: dict[Call, list[Call]] = {call: [] for call in self.calls}
        for call in self.calls:
            for one in dict.fromkeys(call.inputs if call.is_signal else ()):
                following[one].append(call)
        return following

    @functools.cached_property
    def _needed(self) -> list[int]:
        """Of each call a bit for each that it comes of, itself among them, by its place."""
        needed: list[int] = []
        for call in self.calls:
            bits = 1 << call.place
            for one in call.inputs:
                bits |= needed[one.place]
            needed.append(bits)
        return needed

    def leads_to(self, one: Call, other: Call) -> bool:
        """Whether one is the other, or leads to it; of parallel ones neither does."""
        return bool(self._needed[other.place] >> one.place & 1)

    def between(self, one: Call, other: Call) -> list[Call]:
        """All calls on the ways from one, which is left out, to another."""
        calls = self.calls[one.place + 1 : other.place + 1]
        return [c for c in calls if self.leads_to(one, c) and self.leads_to(c, other)]

    def longest_paths(self, marks: Mapping[Call, int]) -> list[list[int]]:
        """For each mark that leads to no other the most that one path to it passes.

        In their order, the longest path first. Several calls may have one mark.
        """
        before: dict[int, int | None] = {}
        lengths: dict[int | None, int] = {None: 0}
        last: dict[Call, int | None] = {}
        for call in self.calls:
            arriving = [last[one] for one in call.inputs]
            came = max(arriving, key=lengths.__getitem__, default=None)
            mark = last[call] = marks.get(call, came)
            if mark is not None and mark not in before:
                before[mark], lengths[mark] = came, lengths[came] + 1
        passed: set[Call] = set()  # with a mark after them
        for call in reversed(self.calls):
            if call in marks or call in passed:
                passed.update(call.inputs)
        is_end = {marks[call]: call not in passed for call in self.calls if call in marks}
        paths = []
        for end in filter(is_end.__getitem__, is_end):
            path, mark = [end], before[end]
            while mark is not None:
                path.append(mark)
                mark = before[mark]
            paths.append(path[::-1])
        return sorted(paths, key=len, reverse=True)

    def calls_of(self, weight: keras.Variable) -> list[Call]:
        """Those that apply a weight."""
        return self._calls_of.get(id(weight), [])

    @functools.cached_property
    def _calls_of(self) -> dict[int, list[Call]]:
        calls: dict[int, list[Call]] = {}
        for call in self.calls:
            for weight in call.weights:
                calls.setdefault(id(weight), []).append(call)
        return calls

    def after(self, weight: keras.Variable) -> frozenset[str]:
        """What a signal meets after a weight on all ways, beyond calls without kernels.

        Nothing where nothing is known, in what could not be opened of a model.
        """
        # After a layer alone may come anything.
        end = END if isinstance(self.model, keras.Model) else KERNEL
        stack = list(self.calls_of(weight))
        if not stack:
            return frozenset({end} - {END})
        met, seen = set(), set(stack)
        while stack:
            following = self._following[stack.pop()]
            met |= {self.at(call) for call in following} or {end}
            new = {call for call in following if not self.at(call)} - seen
            seen |= new
            stack += new
        return frozenset(met - {""})

    def alone_after(self, weight: keras.Variable) -> list[Call]:
        """What a weight has to itself: the calls that apply it, and those up to where other
        signals join, or the model ends; none if a kernel comes before, or after a layer
        alone, where anything may come.
        """
        alone = list(self.calls_of(weight))
        for call in alone:  # which grows
            following = self._following[call]
            if not following and not isinstance(self.model, keras.Model):
                return []
            for one in following:
                if len(one.signals) < 2 or one.kind == "Multiply":
                    if one.has_kernel:
                        return []
                    alone += [one] if one not in alone else []
        return alone

    def at(self, call: Call) -> str:
        """What a call is for `after`, and nothing if it is passed through."""
        if any(map(_is_normalization, (call.operation, *call.holders))):
            return NORMALIZATION
        if call.is_sum:
            return SUM
        return KERNEL if call.has_kernel else ""

    def activation_for(self, kernel: keras.Variable) -> str:
        """The activation that its products go through; "" where none is known.

        In what is not opened that of the layer which has the kernel, if it has one.
        """
        layer = self.owned[id(kernel)].layer
        calls = self.calls_of(kernel)
        is_known = any(
            not isinstance(call.operation, keras.Layer)
            or (call.operation is layer and is_of_keras(layer))
            for call in calls
        )
        if not is_known and (own := activation_of(layer)):
            return own
        # Of several kernels of a layer it is after the last.
        lasts = (call for call in calls if call.kernels and call.kernels[-1] is kernel)
        found = next(filter(None, map(self.activation_after, lasts)), None)
        return found.activation if found else ""

    @functools.cached_property
    def owned(self) -> dict[int, OwnedWeight]:
        """The weights of the model, by their ids."""
        return {id(one.variable): one for one in owned_weights(self.model)}

    def activation_after(self, call: Call) -> Call | None:
        """The call that applies an activation, itself or later, to what a call alone gives.

        `None` where it meets a kernel, a sum or another signal before, ends or parts.
        """
        while not call.activation:
            if len(self._following[call]) != 1:
                return None
            (call,) = self._following[call]
            if call.kernels or len(call.signals) > 1:
                return None
        return call


def _is_normalization(operation: Any) -> bool:
    # By name: other packages have their own, and Keras some as operations. What has a
    # kernel may normalize that, or somewhere inside.
    is_named = "norm" in type(operation).__name__.lower()
    return is_named and not (isinstance(operation, keras.Layer) and has_kernel(operation))


def _read(model: keras.Layer) -> "_Reader":
    """Reads the calls of a model: as Keras has recorded them, or by opening the model."""
    recorded = recorded_model(model)
    error: Exception | None = None
    if recorded is None or any(map(_can_be_opened, all_layers(model))):
        with symbolic_calls(model), symbolic_operators(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of masks, which are not followed
            for size in (SIZE, LARGE_SIZE):
                reader = _Reader()
                try:
                    with intercepted_calls(reader.called):
                        reader.open_model(model, size)
                    return reader
                except Exception as caught:
                    error = error or caught
    reader = _Reader()
    if error is not None:
        reader.unopened.append((model, _line(error)))
    if recorded is not None:
        inputs = [reader.add_input(tensor) for tensor in recorded.inputs]
        reader.outputs = reader.add_recorded(recorded, inputs, (model,))
    return reader


class _Reader:
    """The calls that were read, and while they are read, what is known of them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.unopened: list[tuple[keras.Layer, str]] = []
        self.outputs: list[Call] = []
        self.results: dict[int, list[list[Call]]] = {}
        # By the id of the tensor that they give.
        self._known: dict[int, Call] = {}
        # Those that are being opened, from the model inwards; and for each call inside.
        self._holders: tuple[keras.Layer, ...] = ()
        self._holders_of: dict[int, tuple[keras.Layer, ...]] = {}
        self._hidden: dict[int, list[keras.Variable]] = {}
        # What the layers that were opened gave.
        self._opened: list[tuple[keras.Layer, list[keras.KerasTensor]]] = []

    def open_model(self, model: keras.Layer, size: int) -> None:
        size = largest_size(model, size)
        args, kwargs = keras.tree.map_structure(
            lambda tensor: keras.KerasTensor(filled(tensor, _SAMPLES, size), tensor.dtype),
            tuple(arguments_of(model)),
        )
        outputs = _tensors(self._open(model, args, kwargs))
        inputs = _tensors((args, kwargs))
        for tensor in inputs:
            self.add_input(tensor)
        for call in _in_order(outputs, inputs):
            self._add(call)
        self.outputs = [self._known[id(tensor)] for tensor in outputs]
        for layer, given in self._opened:
            self._add_results(layer, given)

    def called(
        self, original: Callable[..., Any], layer: keras.Layer, args: Any, kwargs: Any
    ) -> Any:
        """Opens a layer where it can be, in place of calling it."""
        if (
            not (_can_be_opened(layer) or recorded_model(layer))
            or layer in self._holders
            or not _tensors((args, kwargs))
        ):
            return original(layer, *args, **kwargs)
        failed = len(self.unopened)
        try:
            return self._open(layer, args, kwargs)
        except Exception as error:
            del self.unopened[failed:]
            if not isinstance(layer, _OPEN) and has_kernel(layer):
                self.unopened.append((layer, _line(error)))
        return original(layer, *args, **kwargs)

    def _open(self, layer: keras.Layer, args: Any, kwargs: Any) -> Any:
        """What the layer gives; notes what is known of the calls that lead to it."""
        outside = self._holders
        self._holders = (*outside, layer)
        try:
            outputs = layer.call(*args, **kwargs)
        finally:
            holders, self._holders = self._holders, outside
        calls = _in_order(_tensors(outputs), _tensors((args, kwargs)))
        own = [call for call in calls if call.number not in self._holders_of]
        self._holders_of |= dict.fromkeys([call.number for call in own], holders)
        self._find_hidden(layer, own)
        self._opened.append((layer, _tensors(outputs)))
        return outputs

    def _find_hidden(self, layer: keras.Layer, calls: Sequence[SymbolicCall]) -> None:
        """Kernels that a layer turns into tensors before it multiplies by them."""
        seen = {id(weight) for call in calls for weight in _weights(call)}
        products = {
            call.number: {
                math.prod(one.shape) for one in call.arguments if ops.is_tensor(one)
            }
            for call in calls
            if type(call.operation).__name__ in _PRODUCTS
        }
        for weight in own_variables(layer):
            if len(weight.shape) > 1 and id(weight) not in seen:
                size = math.prod(weight.shape)
                numbers = (number for number, sizes in products.items() if size in sizes)
                self._hidden.setdefault(next(numbers, 0), []).append(weight)

    def add_input(self, tensor: keras.KerasTensor) -> Call:
        return self._add_call(None, (), (), (), [tensor])

    def _add_call(
        self,
        operation: Any,
        inputs: Sequence[Call],
        holders: tuple[keras.Layer, ...],
        weights: Sequence[keras.Variable],
        outputs: Sequence[keras.KerasTensor],
    ) -> Call:
        shape = tuple(outputs[0].shape)
        dtype = keras.backend.standardize_dtype(outputs[0].dtype)
        before, place = tuple(inputs), len(self.calls)
        call = Call(operation, before, holders, tuple(weights), shape, dtype, place)
        self.calls.append(call)
        self._known |= dict.fromkeys(map(id, outputs), call)
        return call

    def _add(self, call: SymbolicCall, holders: tuple[keras.Layer, ...] = ()) -> None:
        tensors = _tensors(call.arguments)
        inputs = [self._known[id(one)] for one in tensors if id(one) in self._known]
        holders = self._holders_of.get(call.number, holders)
        recorded = recorded_model(call.operation)
        if recorded is not None and len(recorded.inputs) <= len(inputs):
            inner = self.add_recorded(recorded, inputs, (*holders, call.operation))
            self._known |= zip(map(id, call.outputs), inner, strict=True)
        else:
            weights = [*_weights(call), *self._hidden.get(call.number, ())]
            self._add_call(call.operation, inputs, holders, weights, call.outputs)
        self._add_results(call.operation, call.outputs)

    def add_recorded(
        self, model: keras.Model, inputs: Sequence[Call], holders: tuple[keras.Layer, ...]
    ) -> list[Call]:
        """What gives the outputs of a model, of which Keras has recorded the calls."""
        self._known |= zip(map(id, model.inputs), inputs, strict=False)
        for call in _in_order(model.outputs, model.inputs):
            self._add(call, holders)
        return [self._known[id(tensor)] for tensor in model.outputs]

    def _add_results(self, layer: Any, outputs: Sequence[keras.KerasTensor]) -> None:
        calls = {self._known[id(one)] for one in outputs if id(one) in self._known}
        results = sorted(calls, key=lambda call: call.place)
        self.results.setdefault(id(layer), []).append(results)


def _can_be_opened(layer: keras.Layer) -> bool:
    is_own = not is_of_keras(layer) and recorded_model(layer) is None
    return is_own or isinstance(layer, _OPEN)


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
            stack += [(one, False) for one in reversed(_tensors(call.arguments))]
    return calls


def _tensors(structure: Any) -> list[keras.KerasTensor]:
    flat = keras.tree.flatten(structure)
    return [value for value in flat if isinstance(value, keras.KerasTensor)]


def _weights(call: SymbolicCall) -> list[keras.Variable]:
    if isinstance(call.operation, keras.Layer):
        return list(call.operation.weights)
    return [value for value in call.arguments if isinstance(value, keras.Variable)]


def _line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


# Where a model leaves a dimension open; and where that is too short for it, as for sound.
SIZE, LARGE_SIZE = 32, 1024


class Arguments(NamedTuple):
    """Of a call of a model."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


def filled(tensor: keras.KerasTensor, samples: int, size: int) -> tuple[int, ...]:
    """The shape of a tensor, with nothing left open."""
    return (samples, *(length or size for length in tensor.shape[1:]))


def arguments_of(model: keras.Layer) -> Arguments:
    """A `KerasTensor` for each tensor, in the structure that the model takes."""

    def tensors(shapes: Any) -> Any:
        return keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor(shape, model.compute_dtype), shapes
        )

    if getattr(model, "inputs", None):
        is_sequential = isinstance(model, keras.Sequential)
        return Arguments((model.inputs[0] if is_sequential else model.input,), {})
    config = model.get_build_config() or {}
    if config.get("input_shape") is not None:
        return Arguments((tensors(config["input_shape"]),), {})
    if not config.get("shapes_dict"):
        raise ValueError(
            f"`x` must be given for {model.name!r}, which does not say what it takes. "
            "Received: x=None"
        )
    # Keras names the shapes of several arguments after them.
    named = {
        name.removesuffix("_shape"): tensors(shapes)
        for name, shapes in config["shapes_dict"].items()
    }
    return Arguments((), named)


def largest_size(model: keras.Layer, size: int) -> int:
    """A size, or how long sequences may be, for all that the layers say of it."""
    for layer in all_layers(model):
        # Such as `max_decoder_sequence_length`.
        names = [
            name
            for name in (*dir(type(layer)), *vars(layer))
            if re.fullmatch(r"(max_.*)?sequence_length", name)
        ]
        if "position" in f"{layer.name} {type(layer).__name__}".lower():
            names.append("input_dim")
        for length in (getattr(layer, name, None) for name in names):
            if isinstance(length, int) and length > 0:
                size = min(size, length)
    return size
