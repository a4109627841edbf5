"""The residual branches of a model, and the weights at their ends."""

from typing import NamedTuple

import keras

from keras_fanwise.graph.graph import Call, Graph

_NOT_RESIDUAL = "none of its inputs leads to another by a branch"
# Activations that give something else than 0 at 0.
_NOT_ZERO = (
    "exp",
    "exponential",
    "hard_sigmoid",
    "log_sigmoid",
    "log_softmax",
    "sigmoid",
    "softmax",
    "softplus",
    "sparse_sigmoid",
    "sparsemax",
)


class End(NamedTuple):
    """The last weights of a branch on one of its ways."""

    kernel: keras.Variable
    gamma: keras.Variable | None  # a scale after it, of a normalization or on its own
    reason: str  # why the branch would not begin well if the last of the two were 0

    @property
    def last(self) -> keras.Variable:
        return self.kernel if self.gamma is None else self.gamma


class Branch(NamedTuple):
    """What is added to a signal that also passes it by."""

    addition: Call  # where they meet
    kernels: tuple[keras.Variable, ...] = ()  # in the order of the calls
    length: int = 0  # the most kernels that a signal passes in it
    ends: tuple[End, ...] = ()  # it gives 0 if the last weight of each is 0
    # Why the addition is none of a residual branch, or its ends are not known.
    reason: str = ""

    @property
    def is_residual(self) -> bool:
        return bool(self.kernels)


class _Way(NamedTuple):
    """From a split to an addition, past a branch."""

    kernels: int  # that the signal is multiplied by on the short way
    grows: bool  # whether the short way enlarges images
    inside: list[Call]  # the branch, in the order of the calls


def residual_branches(graph: Graph) -> list[Branch]:
    """The residual branches of a graph, in the order of the calls."""
    return [branch for branch in additions(graph) if branch.is_residual]


def additions(graph: Graph) -> list[Branch]:
    """The branches of each addition of a graph; or one that is not residual, and why.

    An addition is residual if one of its inputs, x or what x becomes by at most one kernel
    and no activation, leads to another by a branch with a kernel. With a kernel on the
    short way the branch must have an activation too, and another kernel must come after
    the addition. A branch that makes images smaller and then larger again, past a short
    way that does not, is one of a U-Net, and not residual.
    """
    shortcuts: dict[Call, Call] = {}
    branches: list[Branch] = []
    for call in graph.sums:
        found = _best(graph, call, shortcuts)
        if not found and call.kind != "Subtract":  # or it may centre, or compare
            found = [Branch(call, reason=_NOT_RESIDUAL)]
        branches += found
    return branches


def _best(graph: Graph, addition: Call, shortcuts: dict[Call, Call]) -> list[Branch]:
    """The branches past that input which is the shortest way."""
    options: list[tuple[int, int, list[tuple[Call, _Way]]]] = []
    for i, short in enumerate(addition.inputs):
        others = addition.inputs[:i] + addition.inputs[i + 1 :]
        ways = [(long, _way(graph, short, long, shortcuts)) for long in others]
        found = [(o, w) for o, w in ways if w and _is_residual(graph, addition, w)]
        if found:
            options.append((max(way.kernels for _, way in found), i, found))
    if not options:
        return []
    _, i, found = min(options, key=lambda option: option[:2])
    shortcuts[addition] = addition.inputs[i]
    return [_branch(addition, long, way) for long, way in found]


def _way(graph: Graph, short: Call, long: Call, shortcuts: dict[Call, Call]) -> _Way | None:
    """From the last call that leads to both, to one linearly and by at most one kernel."""
    call, kernels, grows = short, 0, False
    while call.is_signal and kernels < 2:
        if graph.leads_to(call, long):
            return _Way(kernels, grows, graph.between(call, long))
        before = list(dict.fromkeys(call.inputs))
        if call in shortcuts:
            before = [shortcuts[call]]
        elif len(before) != 1 or call.activation:
            return None
        else:
            kernels += bool(call.kernels)
            grows = grows or call.grows
        call = before[0]
    return None


def _is_residual(graph: Graph, addition: Call, way: _Way) -> bool:
    if not any(call.kernels for call in way.inside):
        return False
    if not way.grows and any(call.grows for call in way.inside):
        return False
    if way.kernels == 0:
        return True
    followed = (
        call.kernels and graph.leads_to(addition, call)
        for call in graph.calls[addition.place + 1 :]
    )
    return any(call.activation for call in way.inside) and any(followed)


def _branch(addition: Call, last: Call, way: _Way) -> Branch:
    kernels = [kernel for call in way.inside for kernel in call.kernels]
    lengths: dict[Call, int] = {}
    for call in way.inside:
        before = max((lengths.get(one, 0) for one in call.inputs), default=0)
        lengths[call] = before + len(call.kernels)
    branch = Branch(addition, tuple(kernels), max(lengths.values()))
    inside, seen = set(way.inside), set()
    ends: list[End] = []
    # Where the search is, and what it has met.
    stack: list[tuple[Call, keras.Variable | None, str]] = [(last, None, "")]
    while stack:
        call, gamma, reason = stack.pop()
        if call in seen:
            continue
        seen.add(call)
        if call not in inside:
            return branch._replace(reason="a part of it ends without a weight")
        if isinstance(call.operation, keras.layers.RNN):
            return branch._replace(reason="it ends in a recurrent layer")
        if gamma is None:
            gamma, reason = call.gamma, reason or _reason(call)
        if call.kernels:
            ends.append(End(call.kernels[-1], gamma, reason))
        else:
            stack += [(one, gamma, reason) for one in _factors(call, inside)]
    return branch._replace(ends=tuple(ends[::-1]))


def _reason(call: Call) -> str:
    if call.is_flat_at_zero:
        return f"it ends in {call.activation}, which learns nothing from 0"
    if call.activation in _NOT_ZERO:
        return f"it ends in {call.activation}, which is not 0 at 0"
    return ""


def _factors(call: Call, inside: set[Call]) -> list[Call]:
    """The calls before one that it takes signals of; of a product, the value is enough."""
    if call.kind != "Multiply":
        return call.signals
    before = [one for one in call.signals if one in inside]
    whole = [one for one in before if one.shape == call.shape]
    return sorted(whole or before, key=lambda one: _gate(one, inside))[:1]


def _gate(call: Call, inside: set[Call]) -> tuple[int, int]:
    """How much of a gate one factor is; of equal ones that with fewer kernels is more."""
    # 2 if a function after the last kernel is not 0 at 0, as of one that adds a constant, 1
    # if it is, and 0 of a value, that comes of no function.
    gate, kernels = 0, 0
    while True:
        before = [one for one in call.signals if one in inside]
        adds = call.kind in ("Add", "Subtract")
        if not kernels and adds and len(call.inputs) == 1 and not call.weights:
            gate = 2
        elif not kernels and (
            call.activation or (call.kind == "Multiply" and len(before) > 1)
        ):
            gate = max(gate, 1 + (call.activation in _NOT_ZERO))
        kernels += bool(call.kernels)
        if not before:
            return gate, -kernels
        call = before[0]
