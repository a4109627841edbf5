"""What a model says of its layers that explains its signal."""

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

from keras_fanwise.arguments import snake_case
from keras_fanwise.backends.private_keras import (
    SymbolicCall,
    all_layers,
    own_variables,
    predecessors,
    symbolic_call,
    symbolic_calls,
)
from keras_fanwise.backends.tap import intercepted_calls
from keras_fanwise.graph.batches import shapes_for, sizes
from keras_fanwise.seam.weights import (
    OwnedWeight,
    Role,
    has_kernel,
    is_of_keras,
    role,
    weights_within,
)

# Of the kernels of a chain so many stand on its longest path: a residual network has a few
# more, at its shortcuts.
_CHAIN = 0.8
# Layers that are an activation, and have it in their name alone.
_ACTIVATIONS = {"ReLU": "relu", "LeakyReLU": "leaky_relu", "ELU": "elu"}


class Anatomy(NamedTuple):
    """What explains the signal of a model.

    Attributes:
        activations: that of each measured call; `None` where it is linear or unknown.
        zeros: whether all that a call gives is 0 because a kernel or a γ is 0.
        chain: whether the kernels stand one behind the other, and not side by side.
        sums: how many additions there are.
        branches: counts those that are residual, which takes a while.
    """

    activations: list[str | None]
    zeros: list[bool]
    chain: bool = True
    sums: int = 0
    branches: Callable[[], int] = lambda: 0


def measured_layers(model: keras.Layer) -> dict[keras.Layer, str]:
    """The layers of a model, and in place of models inside it their layers, with paths.

    Keras puts the name of a model before those of the layers that it builds, and not of
    those that have nothing to build; here it stands before all of them, or none.
    """
    inner = model.layers if isinstance(model, keras.Model) else []
    if not inner:
        return {model: model.path or model.name}
    scopes = [(layer.path or "").rpartition("/")[0] for layer in inner]
    scope = next((one for one in scopes if one.rpartition("/")[2] == model.name), "")
    paths: dict[keras.Layer, str] = {}
    for layer in inner:
        for measured, path in measured_layers(layer).items():
            whole = f"{scope}/{path}" if scope and "/" not in path else path
            paths.setdefault(measured, whole)
    return paths


def activation_of(layer: keras.Layer) -> str | None:
    """The name of a layer's activation, which need not be one of Keras's."""
    if isinstance(layer, keras.layers.RNN):  # whose gates are another matter
        return None
    function = getattr(layer, "activation", None)
    own = str(getattr(function, "__name__", "linear"))
    name = _ACTIVATIONS.get(type(layer).__name__, own)
    return None if name == "linear" else name


def own_gain(activation: str) -> str | None:
    """How the scale is written for an activation that is none of Keras's."""
    if hasattr(keras.activations, activation):
        return None
    known = activation if activation.isidentifier() else "activation"
    return f"gain({known}) ** 2"


def is_zero(layer: keras.Layer) -> bool:
    """Whether a kernel or a scale of the layer is 0, so that it gives nothing yet."""
    passed = (Role.KERNEL, Role.MATRIX, Role.LOOKUP, Role.SCALE)
    return any(
        role(owned) in passed and not keras.ops.convert_to_numpy(owned.variable.value).any()
        for owned in weights_within(layer)
    )


def is_chain(model: keras.Layer) -> bool:
    """Whether the kernels of a model stand one behind the other.

    Of models without a graph that can be read it is taken for granted.
    """
    longest, kernels = _longest_path(model)
    return longest >= _CHAIN * kernels


def _longest_path(model: keras.Layer) -> tuple[int, int]:
    """The most kernels that a signal passes, and how many there are."""
    edges = predecessors(model)
    if edges is None:
        kernels = sum(map(has_kernel, measured_layers(model)))
        return kernels, kernels
    ends: dict[int, int] = {}
    kernels = 0
    for operation, before in edges:  # from the inputs on
        longest, inside = 0, 0
        if isinstance(operation, keras.Layer):
            longest, inside = _longest_path(operation)
        kernels += inside
        ends[id(operation)] = longest + max((ends.get(id(o), 0) for o in before), default=0)
    return max(ends.values(), default=0), kernels


def sums(model: keras.Layer) -> int:
    """How many additions the graph of a model has."""
    edges = predecessors(model) or []
    return sum(
        sums(operation)
        if isinstance(operation, keras.Model)
        else type(operation).__name__ == "Add"
        for operation, _ in edges
    )


# What a signal can meet behind a layer, before the next layer with a kernel.
NORMALIZATION, SUM, END, KERNEL = "normalization", "sum", "end", "kernel"
# Of the last layer with a kernel inside a layer of somebody: a branch may end there.
LAST = "last"

_SUMS = ("Add", "Average", "Subtract")


class Surroundings:
    """Where the layers of a model stand in it, from the weights and the graph.

    Of functional and sequential models the graph is known. Of others the order of the
    weights has to do: what is made next is taken for what comes next.

    Args:
        model: that has the weights.
        weights: all of them.
    """

    def __init__(self, model: keras.Layer, weights: Sequence[OwnedWeight]) -> None:
        self._model = model
        self._owners = list(dict.fromkeys(owned.layer for owned in weights))
        # The layers with kernels inside each layer, in their order.
        self._inside: dict[int, list[keras.Layer]] = {}
        for owned in weights:
            for holder in owned.holders:
                inside = self._inside.setdefault(id(holder), [])
                if role(owned).is_matrix and owned.layer not in inside[-1:]:
                    inside.append(owned.layer)
        self._behind: dict[int, list[Any]] = {}
        self._entries: dict[int, list[Any]] = {}
        self._parents: dict[int, keras.Layer] = {}
        holders = dict.fromkeys(holder for owned in weights for holder in owned.holders)
        for graph in holders:
            edges = predecessors(graph)
            if edges is not None:
                self._add(graph, edges)
        self._memory: dict[int, frozenset[str]] = {}

    def _add(self, graph: keras.Layer, edges: list[tuple[Any, list[Any]]]) -> None:
        for operation, before in edges:
            self._parents[id(operation)] = graph
            if not before:
                self._entries.setdefault(id(graph), []).append(operation)
            for one in before:
                self._behind.setdefault(id(one), []).append(operation)

    def behind(self, owned: OwnedWeight) -> frozenset[str]:
        """What a signal meets behind the layer of a weight, on all of its ways.

        Layers without kernels, such as activations and pooling, are passed through.
        `LAST` comes on top of that.
        """
        behind = self._met(owned)
        return behind | {LAST} if self._is_last(owned) else behind

    def _is_last(self, owned: OwnedWeight) -> bool:
        *outer, layer = owned.holders
        if not outer or isinstance(outer[-1], keras.Model) or is_of_keras(outer[-1]):
            return False
        inside = self._inside[id(outer[-1])]
        return len(inside) > 1 and inside[-1] is layer

    def _met(self, owned: OwnedWeight) -> frozenset[str]:
        inner = [one for one in owned.holders if not isinstance(one, keras.Model)]
        if any(_is_normalization(sub) for one in inner for sub in all_layers(one)):
            return frozenset([NORMALIZATION])
        nodes = [one for one in owned.holders if id(one) in self._parents]
        if not nodes or isinstance(nodes[-1], keras.Model):
            return self._by_order(owned.layer)
        node = nodes[-1]
        if id(node) not in self._memory:
            self._memory[id(node)] = frozenset(self._ahead(node, set()))
        return self._memory[id(node)]

    def _ahead(self, node: Any, seen: set[int]) -> Iterator[str]:
        if id(node) in seen:
            return
        seen.add(id(node))
        following = self._behind.get(id(node), [])
        for operation in following:
            yield from self._at(operation, seen)
        if not following:
            parent = self._parents[id(node)]
            if id(parent) in self._parents:
                yield from self._ahead(parent, seen)
            else:
                yield END if parent is self._model else KERNEL

    def _at(self, operation: Any, seen: set[int]) -> Iterator[str]:
        if id(operation) in self._entries:
            for entry in self._entries[id(operation)]:
                yield from self._at(entry, seen)
        elif _is_normalization(operation):
            yield NORMALIZATION
        elif type(operation).__name__ in _SUMS:
            yield SUM
        elif isinstance(operation, keras.Layer) and has_kernel(operation):
            yield KERNEL
        else:
            yield from self._ahead(operation, seen)

    def _by_order(self, layer: keras.Layer) -> frozenset[str]:
        place = self._owners.index(layer) + 1
        if place == len(self._owners):
            # A layer alone may have anything behind it.
            return frozenset([END if isinstance(self._model, keras.Model) else KERNEL])
        following = self._owners[place]
        return frozenset([NORMALIZATION if _is_normalization(following) else KERNEL])


def _is_normalization(operation: Any) -> bool:
    # By name: other packages have their own, and Keras some as operations.
    return "norm" in type(operation).__name__.lower()


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
# Of `keras.ops` and layers, those that are not linear and no activation by name.
_NONLINEAR = ("Abs", "Exp", "Maximum", "Minimum", "PReLU", "Power", "ReLU", "Square")


class Step:
    """One call of an operation; several of one layer are several steps.

    Attributes:
        operation: a layer, or one of `keras.ops`; `None` for an input of the model.
        before: the steps whose outputs it takes, in the order of its arguments.
        holders: the layers that call it, from the model inwards.
        weights: that it applies.
        shape: of what it gives first.
        dtype: likewise.
        is_signal: whether it gives floats that come of floats: not a mask.
        place: in the order of the calls.
    """

    def __init__(
        self,
        operation: Any,
        before: Sequence["Step"],
        holders: tuple[keras.Layer, ...],
        weights: Sequence[keras.Variable],
        output: keras.KerasTensor,
        place: int,
    ) -> None:
        self.operation = operation
        self.before = tuple(before)
        self.holders = holders
        self.weights = tuple(weights)
        self.shape = tuple(output.shape)
        self.dtype = keras.backend.standardize_dtype(output.dtype)
        self.place = place
        # Not by recursion: networks are deep.
        self.is_signal: bool = "float" in self.dtype and (
            not self.before
            or isinstance(operation, keras.Layer)
            or any(step.is_signal for step in self.before)
        )

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
        layer = self.operation
        if not isinstance(layer, keras.Layer):
            return [w for w in self.weights if is_product(layer) and is_factor(w)]
        within = list(weights_within(layer))
        return [owned.variable for owned in within if role(owned).is_matrix]

    @functools.cached_property
    def gamma(self) -> keras.Variable | None:
        """A scale that the signal is multiplied by, unit by unit."""
        if self.kind == "Multiply":
            own = self.weights
        elif self.kind == "RMSNormalization" and is_of_keras(self.operation):
            own = tuple(weight for weight in self.weights if weight.name == "scale")
        else:
            own = tuple(weight for weight in self.weights if weight.name == "gamma")
        return own[0] if len(own) == 1 and not self.kernels else None

    @functools.cached_property
    def activation(self) -> str:
        """The name of a function that is not linear; of somebody's own, of its class."""
        if isinstance(self.operation, keras.Layer):
            function = getattr(self.operation, "activation", None)
            if function is keras.activations.linear:
                return ""
            if function is not None:
                return str(getattr(function, "__name__", type(function).__name__))
            if self.kernels and not is_of_keras(self.operation):
                return self.kind
        name = snake_case(self.kind)
        nonlinear = hasattr(keras.activations, name) or self.kind in _NONLINEAR
        return name if nonlinear and name != "linear" else ""

    @property
    def grows(self) -> bool:
        """Whether it makes images larger."""
        if "Transpose" in self.kind:
            return self.kind.startswith("Conv")
        return self.kind.startswith(("UpSampling", "Resiz"))


def is_product(operation: Any) -> bool:
    """Whether an operation of `keras.ops` multiplies by a matrix or convolves."""
    return type(operation).__name__ in _PRODUCTS


def is_factor(weight: keras.Variable) -> bool:
    """Whether a weight can be a matrix in a product of `keras.ops`."""
    return len(weight.shape) > 1 and "float" in str(weight.dtype)


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
            if not isinstance(layer, _OPEN) and has_kernel(layer):
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
            if not is_factor(weight) or id(weight) in seen:
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
