"""What there is of residual branches in a model."""

import keras

from keras_fanwise.diagnostics.branches import Branch, additions
from keras_fanwise.diagnostics.opened_graph import OpenedGraph
from keras_fanwise.initializers.randomness import random_state_kept
from keras_fanwise.reports.residual_report import ResidualBranch, ResidualReport
from keras_fanwise.seam.owners import owned_weights


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
    graph = OpenedGraph(model)
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
