"""Which weights of a model get which initializer, those that end residual branches too."""

import fnmatch
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import keras

from keras_fanwise.arguments import (
    choice,
    fail,
    flag,
    glob_matches,
    nearest,
    printable,
    snake_case,
)
from keras_fanwise.graph.branches import Branch, additions, residual_branches
from keras_fanwise.graph.graph import END, Graph
from keras_fanwise.initializers.base import random_state_kept
from keras_fanwise.initializers.counterparts import CLASSES
from keras_fanwise.reports.weights import ResidualBranch, ResidualReport
from keras_fanwise.seam.weights import OwnedWeight, Role, owned_weights, role

# How the branches of residual networks can begin.
RESIDUAL = ("zero", "depth")
LayerTypes = type | tuple[type, ...]


class Subject:
    """A built model, and what rules may ask of it, which is found out once."""

    def __init__(self, model: keras.Layer) -> None:
        self.model = model
        self.weights = owned_weights(model)
        # What rules have to tell of the model, each once; of remarks nobody is warned.
        self.notes: dict[str, None] = {}
        self.remarks: list[str] = []

    @functools.cached_property
    def graph(self) -> Graph:
        return Graph(self.model)

    @functools.cached_property
    def branches(self) -> list[Branch]:
        return residual_branches(self.graph)

    @functools.cached_property
    def ends(self) -> set[int]:
        """The last weights of the branches, by their ids."""
        return {id(end.last) for branch in self.branches for end in branch.ends}

    @functools.cached_property
    def heads(self) -> set[int]:
        """The kernels that the output comes from, with nothing after them, by their ids."""
        inside = {id(kernel) for branch in self.branches for kernel in branch.kernels}
        return {
            id(owned.variable)
            for owned in self.weights
            if role(owned).is_matrix
            and id(owned.variable) not in inside
            and self.graph.after(owned.variable) == {END}
        }

    def known_branches(self) -> list[Branch]:
        """The residual branches, of which there must be some; notes what was not opened."""
        unopened = [
            f"{printable(layer.path or layer.name)}: {reason}"
            for layer, reason in self.graph.unopened
        ]
        if not self.branches:
            allowed = "one with residual branches for `residual`, 'fixup' and 'deepnorm'"
            received = "; ".join([self.model.name, *unopened])
            raise fail(ValueError, "model", allowed, received)
        self.note("layers that could not be opened, for branches", unopened)
        return self.branches

    def note(self, what: str, lines: Sequence[str]) -> None:
        """Tells of something that there is, if there is."""
        if lines:
            self.notes[f"there are {what}: " + "; ".join(lines)] = None


@dataclass(frozen=True, eq=False, repr=False)
class Rule:
    """An initializer, and the weights that it is for: those that meet all conditions.

    Args:
        initializer: a name, an instance or a class of an initializer, of Keras or of
            this package, or a function of `shape` and `dtype`; or `None`, which keeps the
            weights as they are.
        path: a glob on the weight's path, such as `"head/*"`; `*` stands for any
            characters, slashes too. It may leave out the first layers of the path:
            `"head/*"` is also met by `"model/head/kernel"`.
        layer: a layer class, or a tuple of them. Met by weights of a layer of that
            class, also of one that is inside it: the weights of an `LSTM` belong to its
            cell, the weights of a `MultiHeadAttention` to its `EinsumDense` layers.
        weight: the weight's name, or a glob, such as `"*kernel"`; or the weight itself, or
            a tuple of weights.
        optional: whether the rule may go without a weight; by default this is an error.
        residual_end: whether it is only for the last weights of residual branches; see
            `residual_ends`.
        head: whether it is only for the kernels that the output of the model comes from,
            with no other layer with weights after them.
        role: what the weight does: `"kernel"` (signals are multiplied by it, whatever its
            name), `"matrix"` (it has the shape of a kernel), `"lookup table"`, `"scale"`,
            `"bias"`, `"state"` (what is computed or counted, not learned), or
            `"something else"`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `initializer` is not the name of one, or `role` is not one of these.

    Example:

    >>> import keras
    >>> Rule("fanwise_he_normal", layer=keras.layers.Conv2D, weight="kernel")
    Rule('fanwise_he_normal', layer=Conv2D, weight='kernel')
    """

    initializer: Any
    path: str | None = None
    layer: LayerTypes | None = None
    weight: str | keras.Variable | tuple[keras.Variable, ...] | None = None
    optional: bool = False
    residual_end: bool = False
    head: bool = False
    role: str | None = None

    @random_state_kept()
    def __post_init__(self) -> None:
        if self.initializer is not None:
            resolved(self.initializer)
        if self.path is not None and not isinstance(self.path, str):
            raise fail(TypeError, "path", "a glob, such as '*kernel', or None", self.path)
        if not isinstance(self.weight, (str, type(None))) and not all(
            isinstance(weight, keras.Variable) for weight in _several(self.weight)
        ):
            allowed = "a glob, such as '*kernel', a weight, a tuple of them, or None"
            raise fail(TypeError, "weight", allowed, self.weight)
        if self.layer is not None and not all(
            isinstance(cls, type) and issubclass(cls, keras.Layer)
            for cls in _several(self.layer)
        ):
            allowed = "a subclass of keras.Layer, a tuple of them, or None"
            raise fail(TypeError, "layer", allowed, self.layer)
        for name in ("optional", "residual_end", "head"):
            flag(name, getattr(self, name))
        if self.role is not None:
            choice("role", self.role, [each.value for each in Role])

    def matches(self, owned: OwnedWeight, subject: Subject) -> bool:
        """Whether a weight of a model meets all conditions."""
        variable = owned.variable
        if isinstance(self.weight, str):
            is_named = fnmatch.fnmatchcase(variable.name, self.weight)
        else:
            is_named = any(one is None or one is variable for one in _several(self.weight))
        return (
            is_named
            and (self.path is None or glob_matches(self.path, variable.path))
            and (
                self.layer is None
                or any(isinstance(holder, self.layer) for holder in owned.holders)
            )
            and (self.role is None or role(owned).value == self.role.lower())
            and (not self.residual_end or id(variable) in subject.ends)
            and (not self.head or id(variable) in subject.heads)
        )

    def __repr__(self) -> str:
        parts = [_shown(self.initializer)]
        parts += [
            f"{field.name}={_shown(value)}"
            for field in fields(self)[1:]
            if (value := getattr(self, field.name)) is not None and value is not False
        ]
        return f"Rule({', '.join(parts)})"


# A function of a model that gives rules.
ModelRules = Callable[[Subject], Sequence[Rule]]


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        more = f" and {len(value) - 3} more" if len(value) > 3 else ""
        return f"({', '.join(map(_shown, value[:3]))}{more})"
    if isinstance(value, keras.Variable):
        return repr(value.path)
    return getattr(value, "__name__", None) or repr(value)


def resolved(
    identifier: Any, argument: str = "initializer", also: Sequence[str] = ()
) -> Any:
    """The initializer that an identifier stands for, which could also be another name."""
    try:
        initializer = keras.initializers.get(identifier)
    except (TypeError, ValueError):
        initializer = None
    if initializer is not None:
        return initializer
    allowed = "a name, an instance or a class of an initializer"
    if also:
        allowed = f"{allowed}, a list of rules, or one of {', '.join(map(repr, also))}"
    if not isinstance(identifier, str):
        raise fail(TypeError, argument, allowed, identifier)
    ours = [snake_case(cls.__name__) for cls in CLASSES]
    names = [*also, *ours, *filter(str.islower, dir(keras.initializers))]
    # As PyTorch calls Glorot's and He's, after the same authors.
    meant = identifier.lower().replace("xavier", "glorot").replace("kaiming_", "he_")
    raise fail(ValueError, argument, allowed + nearest(meant, names), identifier)


@random_state_kept()
def residual_ends(model: keras.Layer) -> ResidualReport:
    """The residual branches of a model, and the last weight of each.

    A residual branch is f in x + f(x): its result is added to its own input, perhaps after
    one kernel without an activation has brought x into the shape of f(x). Its last weight
    is its last kernel, or the γ or scale after that kernel: with zeros there, the branch
    gives zeros. These are the weights that `initialize(..., residual=...)` and
    `Rule(..., residual_end=True)` are about.

    The model is called on symbolic tensors, and its layers are opened down to those of
    Keras; nothing in it changes. Layers that cannot be opened, as they call a backend
    directly or look at values, are listed. Additions that join embeddings, towers, masks
    or the paths of a U-Net do not count.

    Args:
        model: a built model, or a built layer.

    Returns:
        A `ResidualReport`: print it, or read its `rows`.

    Raises:
        TypeError: `model` is not a Keras model or layer.
        ValueError: `model` has no weights yet.

    Example:

    >>> import keras
    >>> x = inputs = keras.Input((8,))
    >>> for name in "ab":
    ...     hidden = keras.layers.Dense(16, "relu")(x)
    ...     x = x + keras.layers.Dense(8, name=name)(hidden)
    >>> report = residual_ends(keras.Model(inputs, x))
    >>> [row.last for row in report.rows]
    [('a/kernel',), ('b/kernel',)]
    """
    owners = {id(o.variable): type(o.layer).__name__ for o in owned_weights(model)}
    graph = Graph(model)
    rows = [_row(branch, owners) for branch in additions(graph)]
    rows += [
        ResidualBranch(layer.path or layer.name, status="unopened", reason=reason)
        for layer, reason in graph.unopened
    ]
    return ResidualReport(rows, name=model.name)


def _row(branch: Branch, owners: dict[int, str]) -> ResidualBranch:
    path = branch.addition.path
    if not branch.is_residual:
        return ResidualBranch(path, status="other", reason=branch.reason)
    last = list({id(end.last): end.last for end in branch.ends}.values())
    reasons = (end.reason for end in branch.ends if end.reason)
    return ResidualBranch(
        path,
        owners.get(id(last[-1]), "") if last else "",
        tuple(weight.path for weight in last),
        tuple(kernel.path for kernel in branch.kernels),
        branch.length,
        reason=branch.reason or next(reasons, ""),
    )


def zero_rule(subject: Subject) -> Rule:
    """Zeros for the last weight of each branch that can begin there; notes the others."""
    branches = subject.known_branches()
    ends = [end for branch in branches for end in branch.ends]
    reasons = [
        f"{printable(branch.addition.path)}: {reason}"
        for branch in branches
        for reason in (branch.reason, *(end.reason for end in branch.ends))
        if reason
    ]
    subject.note("branches that do not start at zero", reasons)
    last = tuple(end.last for end in ends if not end.reason)
    return Rule("zeros", weight=last, optional=True)
