"""What the kernels on one path do together to a signal and to gradients, by weights alone.

Mean squares are followed as in a wide network: a signal of variance q has mean square
E[φ(√q z)²] after an activation φ, for a standard normal z, and that of gradients is
multiplied by E[φ'(√q z)²] there; a kernel multiplies by fan_in · Var(w), and on the way
back by fan_out · Var(w). A new path begins, at 1, at normalizations, at the ends of a
model, and at functions whose gain nobody knows.

Reference: Poole et al. 2016, <https://arxiv.org/abs/1606.05340>; Schoenholz et al. 2017,
<https://arxiv.org/abs/1611.01232>.
"""

import enum
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_fanwise.arguments import is_of_keras
from keras_fanwise.graph.branches import residual_branches
from keras_fanwise.graph.graph import NORMALIZATION, Call, Graph
from keras_fanwise.initializers.activations import second_moments
from keras_fanwise.reports.report import ERROR, LEVELS, WARNING

# A signal that changes by more than this over the depth vanishes or explodes.
LIMIT = 100.0
# Of a signal, or its gradient, after the last kernel of a path by that after the first:
# beyond these 89 of 110 networks trained at none of three rates, between them 17 of 103.
_LOWEST, _HIGHEST = 1e-4, 300.0


def level_of(total: float) -> str:
    """How much it weighs that a signal becomes so much of itself; "" if nothing."""
    if not _LOWEST <= total <= _HIGHEST:
        return ERROR
    return "" if 1 / LIMIT <= total <= LIMIT else WARNING


# Of layers and operations, what leaves a signal as large as it is: by the beginnings of
# their names. Averages over positions do not count.
PASSING = (
    "ActivityRegularization", "AlphaDropout", "Average", "BroadcastTo", "Cast",
    "Concatenate", "Cropping", "DepthToSpace", "Dropout", "ExpandDims", "Flatten",
    "GaussianDropout", "GaussianNoise", "GetItem", "Global", "Identity", "Max", "Mean",
    "Moveaxis", "Pad", "Permute", "Repeat", "Reshape", "Resiz", "Roll", "SpaceToDepth",
    "SpatialDropout", "Split", "Squeeze", "Stack", "Swapaxes", "Take", "Tile", "Transpose",
    "UpSampling", "ZeroPadding",
)  # fmt: skip
# Layers of Keras that multiply by their kernels and apply their activation.
_LINEAR = ("Conv", "Dense", "DepthwiseConv", "EinsumDense", "SeparableConv")


class _Kind(enum.Enum):
    """What becomes of mean squares in a call."""

    SOURCE = enum.auto()  # signals begin
    NORMALIZATION = enum.auto()
    UNKNOWN = enum.auto()
    SUM = enum.auto()
    KERNEL = enum.auto()
    PASS = enum.auto()  # or an activation that is known


# Where paths begin and end.
_ENDS = (_Kind.SOURCE, _Kind.NORMALIZATION, _Kind.UNKNOWN)


class Total(NamedTuple):
    """What kernels one after the other make of a signal, or of its gradient."""

    level: str  # how much that weighs
    direction: str  # "forward" or "backward"
    total: float
    kernels: list[keras.Variable]  # the last one first


class _Flow:
    """What a call makes of mean squares."""

    def __init__(self, call: Call, kind: _Kind) -> None:
        self.call, self.kind = call, kind
        self.factors: list[tuple[float, float]] = []  # of its kernels, forward and back
        self.raw = self.gives = 1.0  # after them, and activated
        self.slope = 1.0  # by what the activation multiplies that of a gradient
        self.is_cut = kind in _ENDS  # whether a new path begins after it
        self.raw_gradient = 1.0  # the mean square of the gradient that arrives before it
        self.is_own = False  # whether that is for a function that Keras does not have
        # What gives most of what comes, and the first kernel of the path; and what gives
        # most of the gradient.
        self.before: _Flow | None = None
        self.start: _Flow | None = None
        self.after: _Flow | None = None
        self.followers: list[_Flow] = []
        self.has_kernel_after = False
        # Of how large its result is: whether it stays so, or a normalization undoes it;
        # whether another kernel multiplies it; and whether it is known what it leads to.
        self.is_kept = self.is_multiplied = self.is_judged = False

    def go_forward(self, before: Sequence["_Flow"]) -> None:
        main = max(before, key=lambda flow: flow.gives)
        if not main.is_cut:
            self.before, self.start = main, main.start
        if self.start is None and self.kind is _Kind.KERNEL:
            self.start = self
        comes = sum(flow.gives for flow in before)
        if self.kind is not _Kind.SUM:
            comes /= len(before)
        elif isinstance(self.call.operation, keras.layers.Average):
            comes /= len(before) ** 2
        factor = math.prod(forward for forward, _ in self.factors)
        self.raw = self.gives = _finite(comes * factor)
        if self.call.activation:
            function = _function(self.call)
            if moments := function and second_moments(function, self.raw):
                self.gives, self.slope = moments
            else:
                self.gives, self.is_cut = 1.0, True

    def back(self) -> float:
        """The mean square of the gradient with respect to what comes."""
        return self.raw_gradient * math.prod(back for _, back in self.factors)

    def steps(self) -> list[float]:
        """By what each of its kernels multiplies; the activation is counted to the last."""
        forward, backward = (list(each) for each in zip(*self.factors, strict=True))
        forward[-1] *= self.slope if self.is_cut else self.gives / self.raw
        backward[-1] *= self.slope
        return forward + backward


class Paths:
    """The paths of a model.

    `factors` are of each kernel whose variance is known and not 0, for its id, that by
    which it multiplies mean squares forward, and back.
    """

    def __init__(self, graph: Graph, factors: Mapping[int, tuple[float, float]]) -> None:
        self._graph, self._factors = graph, factors
        # After a layer alone may come anything.
        self._is_model = isinstance(graph.model, keras.Model)

    def level(self, kernel: keras.Variable, explodes: bool) -> str:
        """How much the worst total weighs that a kernel has a part in; "" if none does."""
        return self._levels.get((id(kernel), explodes), "")

    def worst(self, explodes: bool) -> Total | None:
        """The total that is furthest from 1 on one side, if it weighs anything."""
        ends = [end for end in self._far if (end.total > 1) == explodes]
        worst = max if explodes else min
        return worst(ends, key=lambda end: end.total, default=None)

    def is_undone(self, kernel: keras.Variable) -> bool:
        """Whether normalizations undo how large its products are, on all ways."""
        flows = self._flows_of(kernel)
        return bool(flows) and not any(flow.is_kept for flow in flows)

    def largest_step(self, kernel: keras.Variable) -> float:
        """By what it multiplies a mean square at most; infinity if its use is not known."""
        flows = self._flows_of(kernel)
        steps = [step for flow in flows if flow.is_judged for step in flow.steps()]
        return max(steps, default=0.0) if flows else math.inf

    def _flows_of(self, kernel: keras.Variable) -> list[_Flow]:
        flows = (self._flows[call] for call in self._graph.calls_of(kernel))
        return [flow for flow in flows if flow.kind is _Kind.KERNEL]

    @functools.cached_property
    def _inside(self) -> set[int]:
        """Kernels of residual branches, in which small is a choice."""
        branches = residual_branches(self._graph)
        return {id(kernel) for branch in branches for kernel in branch.kernels}

    def _is_inside(self, call: Call) -> bool:
        return any(id(kernel) in self._inside for kernel in call.kernels)

    @functools.cached_property
    def _far(self) -> list[Total]:
        """Where signals, or gradients, are far from their size; errors first."""
        far = []
        for flow in self._flows.values():
            if flow.kind is not _Kind.KERNEL or not flow.is_multiplied:
                continue
            # Gates, say, make a signal small of which gradients come back.
            start = math.sqrt((flow.start or flow).raw_gradient)
            most = ERROR if level_of(start) == ERROR else WARNING
            for square, direction in (
                (flow.raw, "forward"),
                (flow.raw_gradient, "backward"),
            ):
                total = math.sqrt(square)
                level = level_of(total)
                if level and (total > 1 or not self._is_inside(flow.call)):
                    level = most if direction == "forward" else level
                    far.append(Total(level, direction, total, _way(flow, direction)))
        return sorted(far, key=lambda end: LEVELS.index(end.level))

    @functools.cached_property
    def _levels(self) -> dict[tuple[int, bool], str]:
        return {
            (id(kernel), end.total > 1): end.level
            for end in reversed(self._far)  # of several the worst one stays
            for kernel in end.kernels
        }

    @functools.cached_property
    def _flows(self) -> dict[Call, _Flow]:
        flows: dict[Call, _Flow] = {}
        for call in self._graph.calls:
            flow = flows[call] = _Flow(call, self._kind(call))
            if not call.is_signal:
                continue
            before = [flows[one] for one in call.signals]
            for one in before:
                one.followers.append(flow)
            if flow.kind is _Kind.KERNEL:
                flow.factors = [self._factors[id(kernel)] for kernel in call.kernels]
            if flow.kind not in _ENDS:
                flow.go_forward(before)
            flow.is_own = flow.is_cut and _is_somebodys(call)
        for flow in reversed(flows.values()):
            self._go_back(flow)
        return flows

    def _is_counted(self, flow: _Flow) -> bool:
        """Whether a gradient comes through it from further on: not from the last kernel."""
        is_last = flow.kind is _Kind.KERNEL and self._is_model and not flow.has_kernel_after
        return not is_last and flow.kind not in _ENDS

    def _go_back(self, flow: _Flow) -> None:
        after = flow.followers
        counted = [one for one in after if self._is_counted(one)]
        flow.after = max(counted, key=_Flow.back, default=None)
        flow.has_kernel_after = any(
            one.kind is _Kind.KERNEL or one.has_kernel_after for one in after
        )
        if flow.is_cut or not after:
            flow.is_kept, flow.is_judged = True, not flow.is_own
            flow.is_multiplied = not flow.is_cut and not self._is_model
            flow.raw_gradient = 1.0 if flow.is_cut else flow.slope
            return
        gradient = sum(one.back() for one in counted) + (len(counted) < len(after))
        flow.raw_gradient = _finite(gradient * flow.slope)
        for one in after:
            is_kernel = one.kind is _Kind.KERNEL
            if one.kind is _Kind.UNKNOWN:
                flow.is_kept, flow.is_judged = True, flow.is_judged or not one.is_own
            elif one.kind is not _Kind.NORMALIZATION:
                flow.is_kept |= one.is_kept
                flow.is_multiplied |= one.is_kept if is_kernel else one.is_multiplied
                flow.is_judged |= one.is_kept if is_kernel else one.is_judged

    def _kind(self, call: Call) -> _Kind:
        if not call.is_signal or not call.signals:
            return _Kind.SOURCE
        if self._graph.at(call) == NORMALIZATION:
            return _Kind.NORMALIZATION
        if call.is_sum:
            return _Kind.SUM
        name = call.kind
        if call.has_kernel:
            is_known = all(id(kernel) in self._factors for kernel in call.kernels)
            is_layer = isinstance(call.operation, keras.Layer)
            is_linear = name.startswith(_LINEAR) and "LSTM" not in name
            is_multiplied = not is_layer or (is_linear and is_of_keras(call.operation))
            is_known = is_known and bool(call.kernels) and is_multiplied
            return _Kind.KERNEL if is_known else _Kind.UNKNOWN
        # What is added to a single signal is a bias, or a number.
        passes = name in ("Activation", "Add", "Subtract") or name.startswith(PASSING)
        if call.activation:
            passes = _function(call) is not None
        return _Kind.PASS if passes else _Kind.UNKNOWN


def _finite(square: float) -> float:
    """A mean square that can be multiplied and divided on."""
    return min(max(square, 1e-150), 1e150)


def _way(end: _Flow, direction: str) -> list[keras.Variable]:
    """The kernels of the path by which most comes to an end, from there on."""
    kernels: list[keras.Variable] = []
    flow = end if direction == "forward" else end.after
    while flow is not None:
        kernels += flow.call.kernels if flow.kind is _Kind.KERNEL else []
        flow = flow.before if direction == "forward" else flow.after
    return kernels or list(end.call.kernels)


def _function(call: Call) -> Any:
    """The activation of a call, if it is one of Keras's; or else `None`."""
    function = call.function
    if isinstance(function, keras.layers.PReLU):
        slope = float(keras.ops.convert_to_numpy(function.alpha).mean())
        return functools.partial(keras.activations.leaky_relu, negative_slope=slope)
    known = getattr(keras.activations, call.activation, None)
    is_keras = isinstance(function, keras.Operation) or function is known
    return function if known and is_keras else None


def _is_somebodys(call: Call) -> bool:
    """Whether nobody knows what it makes of a size: it is no function of Keras's."""
    if hasattr(keras.activations, call.activation or "-"):
        return False
    own = keras.Model, keras.layers.Lambda, keras.layers.Activation
    around = (*call.holders, call.operation)
    return not any(is_of_keras(one) and not isinstance(one, own) for one in around)
