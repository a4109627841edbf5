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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_fanwise.fans.counting import Fans
from keras_fanwise.graph.branches import residual_branches
from keras_fanwise.graph.graph import NORMALIZATION, Call, Graph
from keras_fanwise.initializers.activations import second_moments
from keras_fanwise.reports.report import ERROR, LEVELS, WARNING
from keras_fanwise.seam.weights import is_of_keras

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
_PASSING = (
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
    ACTIVATION = enum.auto()
    PASS = enum.auto()


# Where paths begin and end.
_ENDS = (_Kind.SOURCE, _Kind.NORMALIZATION, _Kind.UNKNOWN)


class Total(NamedTuple):
    """What kernels one after the other make of a signal, or of its gradient."""

    level: str  # how much that weighs
    direction: str  # "forward" or "backward"
    total: float
    end: Call  # of the last kernel
    kernels: tuple[keras.Variable, ...] = ()  # from there on


class _Flow:
    """What a call makes of mean squares."""

    def __init__(self, kind: _Kind) -> None:
        self.kind = kind
        self.factors: list[tuple[float, float]] = []  # of its kernels, forward and back
        self.comes = self.raw = self.gives = 1.0  # before them, after, and activated
        self.slope = 1.0  # by what the activation multiplies that of a gradient
        self.is_cut = kind in _ENDS  # whether a new path begins after it
        self.raw_gradient = 1.0  # the mean square of the gradient that arrives before it
        self.is_own = False  # whether that is for a function that Keras does not have
        # The call that gives most of what comes, and the first kernel of the path.
        self.before: Call | None = None
        self.start: Call | None = None
        self.followers: list[Call] = []
        self.has_kernel_after = False
        # Of how large its result is: whether it stays so, or a normalization undoes it;
        # whether another kernel multiplies it; and whether it is known what it leads to.
        self.is_kept = self.is_multiplied = self.is_judged = False

    def back(self) -> float:
        """The mean square of the gradient with respect to what comes."""
        return self.raw_gradient * math.prod(back for _, back in self.factors)

    def steps(self, is_forward: bool) -> list[float]:
        """By what each of its kernels multiplies; the activation is counted to the last."""
        steps = [pair[not is_forward] for pair in self.factors]
        steps[-1] *= self.gives / self.raw if is_forward and not self.is_cut else self.slope
        return [math.sqrt(step) for step in steps]


class Paths:
    """The paths of a model: of each kernel, for its id, the variance and the fans."""

    def __init__(
        self, graph: Graph, variances: Mapping[int, float], fans: Mapping[int, Fans]
    ) -> None:
        self._graph, self._variances, self._fans = graph, variances, fans
        # After a layer alone may come anything.
        self._is_model = isinstance(graph.model, keras.Model)

    def level(self, kernel: keras.Variable, explodes: bool) -> str:
        """How much the worst total weighs that a kernel has a part in; "" if none does."""
        return self._levels.get((id(kernel), explodes), "")

    def worst(self, explodes: bool) -> Total | None:
        """The total that is furthest from 1 on one side, if it weighs anything."""
        ends = [end for end in self._far if (end.total > 1) == explodes]
        if not ends:
            return None
        end = (max if explodes else min)(ends, key=lambda end: end.total)
        kernels = [kernel for call in self._way(end) for kernel in call.kernels]
        return end._replace(kernels=tuple(kernels))

    def is_undone(self, kernel: keras.Variable) -> bool:
        """Whether normalizations undo how large its products are, on all ways."""
        flows = self._flows_of(kernel)
        return bool(flows) and not any(flow.is_kept for flow in flows)

    def largest_step(self, kernel: keras.Variable) -> float | None:
        """By what it multiplies a mean square at most; `None` if its use is not known."""
        flows = self._flows_of(kernel)
        judged = [flow for flow in flows if flow.is_judged]
        steps = [
            step for flow in judged for way in (True, False) for step in flow.steps(way)
        ]
        return max(steps, default=0.0) ** 2 if flows else None

    def is_in_branch(self, kernel: keras.Variable) -> bool:
        """Whether it is one of a residual branch, where small is a choice."""
        return id(kernel) in self._in_branches

    @functools.cached_property
    def _in_branches(self) -> set[int]:
        branches = residual_branches(self._graph)
        return {id(kernel) for branch in branches for kernel in branch.kernels}

    def _flows_of(self, kernel: keras.Variable) -> list[_Flow]:
        flows = (self._flows[call] for call in self._graph.calls_of(kernel))
        return [flow for flow in flows if flow.kind is _Kind.KERNEL]

    @functools.cached_property
    def _far(self) -> list[Total]:
        """Where signals, or gradients, are far from their size; errors first."""
        far = []
        for call, flow in self._flows.items():
            if flow.kind is not _Kind.KERNEL or not flow.is_multiplied:
                continue
            is_small = not any(map(self.is_in_branch, call.kernels))
            forward, backward = math.sqrt(flow.raw), math.sqrt(flow.raw_gradient)
            # Gates, say, make a signal small of which gradients come back.
            start = math.sqrt(self._flows[flow.start or call].raw_gradient)
            most = ERROR if level_of(start) == ERROR else WARNING
            for total, direction in ((forward, "forward"), (backward, "backward")):
                level = level_of(total)
                level = most if level and direction == "forward" else level
                if level and (total > 1 or is_small):
                    far.append(Total(level, direction, total, call))
        return sorted(far, key=lambda end: LEVELS.index(end.level))

    @functools.cached_property
    def _levels(self) -> dict[tuple[int, bool], str]:
        levels: dict[tuple[int, bool], str] = {}
        seen = set()
        for end in self._far:
            for call in self._way(end):
                place = call, end.direction, end.total > 1
                if place in seen:
                    break
                seen.add(place)
                for kernel in call.kernels:
                    levels.setdefault((id(kernel), end.total > 1), end.level)
        return levels

    def _way(self, end: Total) -> Iterator[Call]:
        """The kernels of the path by which most comes to an end, from there on."""
        call: Call | None = end.end
        if end.direction == "forward":
            while call is not None:
                if self._flows[call].kind is _Kind.KERNEL:
                    yield call
                call = self._flows[call].before
            return
        is_first = True
        while call is not None:
            followers = [
                one
                for one in self._flows[call].followers
                if self._is_counted(self._flows[one])
            ]
            call = max(followers, key=lambda one: self._flows[one].back(), default=None)
            if call is None and is_first:
                yield end.end
            elif call is not None and self._flows[call].kind is _Kind.KERNEL:
                yield call
                is_first = False

    @functools.cached_property
    def _flows(self) -> dict[Call, _Flow]:
        flows = {call: _Flow(self._kind(call)) for call in self._graph.calls}
        for call, flow in flows.items():
            if not call.is_signal:
                continue
            for one in call.signals:
                flows[one].followers.append(call)
            if flow.kind is _Kind.KERNEL:
                flow.factors = [self._factors(kernel) for kernel in call.kernels]
            if flow.kind not in _ENDS:
                _go_forward(call, flow, [flows[one].gives for one in call.signals])
                main = max(call.signals, key=lambda one: flows[one].gives)
                if not flows[main].is_cut:
                    flow.before, flow.start = main, flows[main].start
                if flow.start is None and flow.kind is _Kind.KERNEL:
                    flow.start = call
            flow.is_own = flow.is_cut and _is_somebodys(call)
        for flow in reversed(flows.values()):
            self._go_back(flow, [flows[one] for one in flow.followers])
        return flows

    def _factors(self, kernel: keras.Variable) -> tuple[float, float]:
        fans, variance = self._fans[id(kernel)], self._variances[id(kernel)]
        return fans.fan_in * variance, fans.fan_out * variance

    def _is_counted(self, flow: _Flow) -> bool:
        """Whether a gradient comes through it from further on: not from the last kernel."""
        is_last = flow.kind is _Kind.KERNEL and self._is_model and not flow.has_kernel_after
        return not is_last and flow.kind not in _ENDS

    def _go_back(self, flow: _Flow, after: Sequence[_Flow]) -> None:
        flow.has_kernel_after = any(
            one.kind is _Kind.KERNEL or one.has_kernel_after for one in after
        )
        if flow.is_cut or not after:
            flow.is_kept, flow.is_judged = True, not flow.is_own
            flow.is_multiplied = not flow.is_cut and not self._is_model
            flow.raw_gradient = 1.0 if flow.is_cut else flow.slope
            return
        counted = [one for one in after if self._is_counted(one)]
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
            is_known = all(self._variances.get(id(kernel)) for kernel in call.kernels)
            is_layer = isinstance(call.operation, keras.Layer)
            is_linear = name.startswith(_LINEAR) and is_of_keras(call.operation)
            is_linear = is_linear and "LSTM" not in name
            is_multiplied = bool(call.kernels) and (is_linear or not is_layer)
            return _Kind.KERNEL if is_known and is_multiplied else _Kind.UNKNOWN
        if call.activation:
            return _Kind.UNKNOWN if _function(call) is None else _Kind.ACTIVATION
        # A bias alone is added, or a number.
        is_bias = name in ("Add", "Subtract") and len(call.signals) == 1
        passes = is_bias or name.startswith(_PASSING) or name == "Activation"
        return _Kind.PASS if passes else _Kind.UNKNOWN


def _finite(square: float) -> float:
    """A mean square that can be multiplied and divided on."""
    return min(max(square, 1e-150), 1e150)


def _go_forward(call: Call, flow: _Flow, comes: Sequence[float]) -> None:
    is_mean = isinstance(call.operation, keras.layers.Average)
    if flow.kind is _Kind.SUM:
        flow.comes = sum(comes) / (len(comes) ** 2 if is_mean else 1)
    else:
        flow.comes = sum(comes) / len(comes)
    factor = math.prod(forward for forward, _ in flow.factors)
    flow.raw = flow.gives = _finite(flow.comes * factor)
    if call.activation:
        function = _function(call)
        moments = function and second_moments(function, flow.raw)
        if moments:
            flow.gives, flow.slope = moments
        else:
            flow.gives, flow.is_cut = 1.0, True


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
