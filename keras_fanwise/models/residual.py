"""What there is of residual branches in a model."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_fanwise.arguments import fail, printable
from keras_fanwise.graph.branches import Branch, additions
from keras_fanwise.graph.graph import Graph
from keras_fanwise.initializers.base import random_state_kept
from keras_fanwise.initializers.counterparts import scaled
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling
from keras_fanwise.models.rules import Rule, Subject
from keras_fanwise.reports.weights import ResidualBranch, ResidualReport
from keras_fanwise.seam.weights import owned_weights


@random_state_kept()
def residual_ends(model: keras.Layer) -> ResidualReport:
    """The residual branches of a model, and the last weight of each.

    A branch is what is added to a signal that also passes it by: f in x + f(x), also where
    x is brought into the shape of f(x) by one kernel without an activation. Its last weight
    is the γ or scale behind its last kernel, or that kernel: with zeros there, the branch
    gives zeros. These are the weights that `initialize(..., residual=...)` and
    `Rule(..., residual_end=True)` are about.

    The model is called on symbolic tensors, and its layers are opened down to those of
    Keras; nothing in it changes. Layers that cannot be opened, as they call a backend
    directly or look at values, are listed. Additions that join embeddings, towers, masks
    or the paths of a U-Net are no residual ones.

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


RESIDUAL = ("zero", "depth")


def fixup_rules(subject: Subject) -> list[Rule]:
    """The rules by which branches start after Fixup; see `recipes`.

    For the last weight and the kernels of each branch, and for the heads.

    Raises:
        ValueError: the model has no residual branches.
    """
    rules = [zero_rule(subject)]
    branches = subject.branches
    for branch in branches:
        last = {id(end.kernel) for end in branch.ends if end.gamma is None}
        inner = tuple(kernel for kernel in branch.kernels if id(kernel) not in last)
        # Of a branch of one kernel, which is 0, there is nothing to scale.
        if inner and branch.length > 1:
            scale = 2.0 * len(branches) ** (-1 / (branch.length - 1))
            rules.append(Rule(FanwiseVarianceScaling(scale), weight=inner))
    return [*rules, Rule("zeros", head=True, optional=True)]


def zero_rule(subject: Subject) -> Rule:
    """Zeros for the last weight of each branch that can begin there.

    Of the others a note is made.

    Raises:
        ValueError: there are no residual branches.
    """
    branches = _branches(subject)
    ends = [end for branch in branches for end in branch.ends]
    last = tuple(end.last for end in ends if not end.reason)
    reasons = [
        f"{printable(branch.addition.path)}: {reason}"
        for branch in branches
        for reason in (branch.reason, *(end.reason for end in branch.ends))
        if reason
    ]
    if reasons:
        _note(subject, "branches that do not start at zero", reasons)
    return Rule("zeros", weight=last, optional=True)


def with_depth(subject: Subject, initializers: Sequence[Any]) -> list[Any]:
    """The initializers of all weights after `residual="depth"`.

    Args:
        subject: the model.
        initializers: that of each weight, `None` for those that are kept.

    Raises:
        ValueError: there are no residual branches, or an initializer cannot be scaled.
    """
    factor = 1 / math.sqrt(len(_branches(subject)))
    return [
        scaled(initializer, factor, "residual")
        if initializer is not None and id(owned.variable) in subject.ends
        else initializer
        for owned, initializer in zip(subject.weights, initializers, strict=True)
    ]


def _branches(subject: Subject) -> list[Branch]:
    """The residual branches of a model; what was not looked into is noted."""
    unopened = [
        f"{printable(layer.path or layer.name)}: {reason}"
        for layer, reason in subject.graph.unopened
    ]
    if not subject.branches:
        allowed = "one with residual branches for `residual` and the recipe 'fixup'"
        raise fail(ValueError, "model", allowed, "; ".join([subject.model.name, *unopened]))
    if unopened:
        _note(subject, "layers that could not be opened, for branches", unopened)
    return subject.branches


def _note(subject: Subject, what: str, lines: Sequence[str]) -> None:
    subject.notes[f"there are {what}: " + "; ".join(lines)] = None
