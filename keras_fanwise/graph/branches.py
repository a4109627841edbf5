"""The residual branches of a model, and the weights at their ends."""

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras

from keras_fanwise.graph.graph import OpenedGraph, Step

_NOT_RESIDUAL = "none of its inputs leads to another by a branch"
# Activations by which a branch that ends in one does not begin to learn from a weight of 0:
# the gradient there is 0; and those that give something else than 0.
_DEAD = ("re_lu", "relu", "relu6", "relu_squared", "prelu")
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
    """The last weights of a branch on one of its ways.

    Attributes:
        kernel: the last one that the signal is multiplied by as by a matrix.
        gamma: a scale behind it, of a normalization or on its own.
        reason: why the branch would not begin well if the last of the two were 0.
    """

    kernel: keras.Variable
    gamma: keras.Variable | None
    reason: str

    @property
    def last(self) -> keras.Variable:
        """The weight that nothing but activations and the like stand behind."""
        return self.kernel if self.gamma is None else self.gamma


class Branch(NamedTuple):
    """What is added to a signal that also passes it by.

    Attributes:
        addition: where they meet.
        kernels: of the branch, in the order of the calls.
        length: the most kernels that a signal passes in it.
        ends: all that a branch ends in: it gives 0 if the last weight of each is 0.
        reason: why the addition is none of a residual branch, or its ends are not known.
    """

    addition: Step
    kernels: tuple[keras.Variable, ...] = ()
    length: int = 0
    ends: tuple[End, ...] = ()
    reason: str = ""

    @property
    def is_residual(self) -> bool:
        """Not of an addition that joins no branch."""
        return bool(self.kernels)


class _Way(NamedTuple):
    """From a split to an addition, past a branch.

    Attributes:
        split: the step that gives the signal to both.
        kernels: how many the signal is multiplied by on the short way.
        grows: whether the short way enlarges images.
        inside: the steps of the branch, in the order of the calls.
    """

    split: Step
    kernels: int
    grows: bool
    inside: list[Step]


def residual_branches(graph: OpenedGraph) -> list[Branch]:
    """The residual branches of a graph, in the order of the calls."""
    return [branch for branch in additions(graph) if branch.is_residual]


def additions(graph: OpenedGraph) -> list[Branch]:
    """The branches of each addition of a graph; or one that is not residual, and why.

    An addition is residual if one of its inputs, x or what x becomes by at most one kernel
    and no activation, leads to another by a branch with a kernel. With a kernel on the
    short way the branch must have an activation too, and another kernel must come behind
    the addition. A branch that makes images smaller and then larger again, past a short
    way that does not, is one of a U-Net, and not residual.
    """
    shortcuts: dict[Step, Step] = {}
    followed = _followed(graph.steps)
    branches: list[Branch] = []
    for step in graph.steps:
        if step.kind != "Add" or len(step.before) < 2 or not step.is_signal:
            continue
        found = _best(step, shortcuts, followed)
        branches += found or [Branch(step, reason=_NOT_RESIDUAL)]
    return branches


def _best(addition: Step, shortcuts: dict[Step, Step], followed: set[Step]) -> list[Branch]:
    """The branches past that input which is the shortest way."""
    candidates: list[tuple[int, int, Step, list[Branch]]] = []
    for i, short in enumerate(addition.before):
        ways = [
            (long, _way(short, long, shortcuts))
            for j, long in enumerate(addition.before)
            if j != i
        ]
        found = [
            (long, way)
            for long, way in ways
            if way is not None and _is_residual(way, addition in followed)
        ]
        if found:
            kernels = max(way.kernels for _, way in found)
            branches = [_branch(addition, long, way) for long, way in found]
            candidates.append((kernels, i, short, branches))
    if not candidates:
        return []
    _, _, shortcuts[addition], branches = min(candidates, key=lambda one: one[:2])
    return branches


def _trunk(step: Step, shortcuts: dict[Step, Step]) -> Iterator[tuple[Step, int, bool]]:
    """The steps before one, as long as the signal is only mapped linearly, or passed by."""
    kernels, grows = 0, False
    while step.is_signal:
        yield step, kernels, grows
        before = list(dict.fromkeys(step.before))
        if step in shortcuts:
            before = [shortcuts[step]]
        elif len(before) != 1 or step.activation:
            return
        else:
            kernels += bool(step.kernels)
            grows = grows or step.grows
        if kernels > 1:
            return
        step = before[0]


def _way(short: Step, long: Step, shortcuts: dict[Step, Step]) -> _Way | None:
    """From the last step that leads to both inputs, if it leads to one by a short way."""
    queue, seen = [-long.place], {long.place: long}
    popped: list[Step] = []
    for split, kernels, grows in _trunk(short, shortcuts):
        # Back from the other input, the last steps first, to where the trunk is.
        while queue and -queue[0] >= split.place:
            step = seen[-heapq.heappop(queue)]
            if step is split:
                return _Way(split, kernels, grows, _between(split, popped))
            popped.append(step)
            for before in step.before:
                if before.place not in seen:
                    seen[before.place] = before
                    heapq.heappush(queue, -before.place)
        if not queue:
            return None
    return None


def _between(split: Step, steps: Sequence[Step]) -> list[Step]:
    """Those of the steps that the split leads to."""
    reached = {split}
    inside = []
    for step in reversed(steps):  # which are the last first
        if any(before in reached for before in step.before):
            reached.add(step)
            inside.append(step)
    return inside


def _is_residual(way: _Way, is_followed: bool) -> bool:
    if not any(step.kernels for step in way.inside):
        return False
    if not way.grows and any(step.grows for step in way.inside):
        return False
    return way.kernels == 0 or (is_followed and any(step.activation for step in way.inside))


def _followed(steps: Sequence[Step]) -> set[Step]:
    """Those that a step with a kernel comes behind."""
    followed: set[Step] = set()
    for step in reversed(steps):
        if step.kernels or step in followed:
            followed.update(step.before)
    return followed


class _Back(NamedTuple):
    """Where the search for the end of a branch is, and what it has met."""

    step: Step
    gamma: keras.Variable | None = None
    reason: str = ""


def _branch(addition: Step, last: Step, way: _Way) -> Branch:
    kernels = [kernel for step in way.inside for kernel in step.kernels]
    branch = Branch(addition, tuple(kernels), _length(way.inside))
    inside, seen = set(way.inside), set()
    ends: list[End] = []
    stack = [_Back(last)]
    while stack:
        back = stack.pop()
        step = back.step
        if step in seen:
            continue
        seen.add(step)
        if step not in inside:
            return branch._replace(reason="a part of it ends without a weight")
        if isinstance(step.operation, keras.layers.RNN):
            return branch._replace(reason="it ends in a recurrent layer")
        if back.gamma is None:
            back = back._replace(reason=back.reason or _reason(step), gamma=step.gamma)
        if step.kernels:
            ends.append(End(step.kernels[-1], back.gamma, back.reason))
        else:
            stack += [back._replace(step=before) for before in _factors(step, inside)]
    return branch._replace(ends=tuple(ends[::-1]))


def _length(inside: Sequence[Step]) -> int:
    passed: dict[Step, int] = {}
    for step in inside:
        before = max((passed.get(one, 0) for one in step.before), default=0)
        passed[step] = before + len(step.kernels)
    return max(passed.values())


def _reason(step: Step) -> str:
    if step.activation in _DEAD:
        return "it ends in a ReLU, which learns nothing from 0"
    if step.activation in _NOT_ZERO:
        return f"it ends in {step.activation}, which is not 0 at 0"
    return ""


def _factors(step: Step, inside: set[Step]) -> list[Step]:
    """The steps before one that it takes signals of; of a product, one is enough."""
    before = [one for one in step.before if one.is_signal]
    if step.kind != "Multiply":
        return before
    whole = [one for one in before if one in inside and one.shape == step.shape]
    return (whole or [one for one in before if one in inside])[:1]
