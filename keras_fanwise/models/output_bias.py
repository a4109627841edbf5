"""Sets the biases of a model's outputs to what is best without inputs."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.arguments import fail
from keras_fanwise.backends.arrays import float64, in_float64
from keras_fanwise.backends.private_keras import has_compiled_loss, symbolic_calls
from keras_fanwise.diagnostics.loss import Array, Compared, Head, compared, head_of, root
from keras_fanwise.fans.layers import unit_axes
from keras_fanwise.graph.graph import Graph, arguments_of
from keras_fanwise.models.initialize import all_or_none, left_out, untouchable
from keras_fanwise.reports.weights import OutputBias, OutputBiasReport
from keras_fanwise.seam.weights import owned_weights

# How near a head must come to the best constant, as a part of the larger of that and 1.
_NEAR = 1e-6
# Beyond what size of a sum no activation is asked any more.
_FAR = 2.0**100


def output_bias(
    model: keras.Model,
    y: Any,
    *,
    sample_weight: Any = None,
    only: str | Sequence[str] | None = None,
    dry_run: bool = False,
) -> OutputBiasReport:
    """Sets the bias of each output to what a model without inputs would best predict.

    That is the constant c for which the compiled loss L of the targets y with the sample
    weights w is the least, Σ w L(y, c), and the bias is b with f(b) = c, where f is the
    activation of the head: for softmax the logarithm of the shares of the classes, for a
    sigmoid log p / (1 - p), for the mean squared error the mean, for the mean absolute
    error the median, each for every unit. If the output of the kernel, to which the bias is
    added, is small, training begins at the loss of the base rates and not of a guess.

    The best constants are known of all regression losses of Keras, of its cross-entropies
    (focal ones and smoothed labels too), the Kullback-Leibler divergence, Poisson and the
    hinge losses. A class that `y` does not hold is given half a sample. Positions that a
    mask of the model leaves out count too: give them a weight of 0.

    Nothing is written before all is known; the kernels and the state of an optimizer are
    left alone.

    Args:
        model: a built model that is compiled with a loss.
        y: the targets, in the structure that `fit` takes: all of them, or as many as tell
            the base rates.
        sample_weight: as `fit` takes it; by default all samples count the same.
        only: a glob on the paths of the biases to set, or a list of them; see `Rule`.
        dry_run: whether only to return the report.

    Returns:
        An `OutputBiasReport` of every output that has a loss: print it, or read its `rows`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `model` is not built or has no loss; an output has several, or one whose
            best constant is not known, or its head has no bias, or cannot give that
            constant; the targets are not those that the loss takes; or a glob meets no
            bias of an output. After any of these no weight is changed.

    References: Lin et al. 2017, "Focal loss for dense object detection",
    <https://arxiv.org/abs/1708.02002>, section 4.1, for the prior of a rare class; Karpathy
    2019, "A recipe for training neural networks", "init well".

    Example: one sample in ten is positive.

    >>> import keras, numpy as np
    >>> inputs = keras.Input((8,))
    >>> model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid", name="head")(inputs))
    >>> model.compile(loss="binary_crossentropy")
    >>> report = output_bias(model, np.arange(1000) % 10 == 0)
    >>> [round(row.loss_after, 4) for row in report.rows]
    [0.3251]
    >>> round(model.layers[-1].get_weights()[1].item(), 3)  # log 0.1 / 0.9
    -2.197
    """
    weights = owned_weights(model)
    if not (isinstance(model, keras.Model) and has_compiled_loss(model)):
        raise fail(ValueError, "model", "compiled with a loss", model)
    graph = Graph(model)
    found = list(map(_sized, compared(model, y, _outputs(model), sample_weight)))
    heads = [head_of(graph, one.place, weights) for one in found]
    paths = [
        head.biases[0].variable.path if head and head.biases else one.output
        for one, head in zip(found, heads, strict=True)
    ]
    times = Counter(one.place for one in found)
    plans = [
        _Plan(_row(one, path)._replace(reason=reason))
        if reason
        else _planned(one, head, times[one.place])
        for one, head, path, reason in zip(
            found, heads, paths, left_out(only, paths), strict=True
        )
    ]
    written = Counter(id(plan.variable) for plan in plans if plan.variable is not None)
    if max(written.values(), default=1) > 1:
        raise fail(ValueError, "model", "one whose outputs share no bias", model.name)
    if not dry_run:
        with all_or_none() as write:
            for plan in plans:
                if plan.variable is not None:
                    values = keras.ops.convert_to_tensor(plan.values.astype(np.float32))
                    write(plan.variable, keras.ops.cast(values, plan.variable.dtype))
    return OutputBiasReport([plan.row for plan in plans], name=model.name)


class _Plan(NamedTuple):
    """What is to be reported of an output, and what is written, if it is not kept."""

    row: OutputBias
    variable: keras.Variable | None = None
    values: Any = None


def _outputs(model: keras.Model) -> Any:
    """A `KerasTensor` for each output, in their structure."""
    arguments = arguments_of(model)
    with symbolic_calls(model):
        return model.compute_output_spec(*arguments.positional, **arguments.named)


def _sized(one: Compared) -> Compared:
    """With a prediction of as many samples, and of the sizes that the model leaves open."""
    samples, *others = one.targets.shape or (0,)
    known = [*others, *[1] * len(one.shape)]
    sizes = (size or other for size, other in zip(one.shape[1:], known, strict=False))
    nothing = np.broadcast_to(np.float32(0), (samples, *sizes))
    return dataclasses.replace(one, prediction=nothing)


def _planned(one: Compared, head: Head | None, losses: int) -> _Plan:
    """Whatever can go wrong goes wrong here, before a weight is written."""
    if head is None:
        raise _wrong(one, "comes from a layer that cannot be opened")
    bias = _Bias(one, head)
    layer, _, variable = bias.owned
    row = _row(one, variable.path)
    row = row._replace(layer=type(layer).__name__, shape=tuple(variable.shape))
    if reason := untouchable(layer):
        return _Plan(row._replace(reason=reason))
    if losses > 1:
        raise _wrong(one, f"has {losses} losses, which have no best constant together")
    if one.kind is None or one.kind.constant is None:
        raise _wrong(one, f"has a loss of which no best constant is known, {one.name!r}")
    if fault := one.target_fault():
        message = f"`y` is not what {one.name} of the output {one.output!r} takes: {fault}"
        raise ValueError(message)
    constant = one.constant(bias.shape, bias.axes)
    if constant is None:
        raise _wrong(
            one, f"has no best constant by its loss, {one.name!r}, that its bias can give"
        )
    before = float64(variable.value)
    values = bias.for_constant(constant)
    row = row._replace(
        smallest=float(values.min()),
        largest=float(values.max()),
        loss_before=one.of(bias.prediction(before.reshape(constant.shape))),
        loss_after=one.of(bias.prediction(values)),
        status="set",
    )
    return _Plan(row, variable, values.reshape(before.shape))


class _Bias:
    """The bias of an output, and what the output is with values of it and no inputs."""

    def __init__(self, one: Compared, head: Head) -> None:
        if len(head.biases) != 1:
            name = getattr(head.call.operation, "name", "its input")
            raise _wrong(one, f"has no bias at its end: {name}")
        self._one = one
        self._head = head
        (self.owned,) = head.biases
        shape = tuple(self.owned.variable.shape)
        rank = len(head.call.shape)
        # What follows may put the units in another shape, of no open sizes.
        same = rank == len(one.shape)
        inner = one.shape[1:] if same else [size or 0 for size in head.call.shape[1:]]
        self.shape = (one.shape[0], *inner)
        self.axes = self._axes(shape, rank)
        units = math.prod(self.shape[axis] for axis in self.axes)
        if math.prod(self.shape) != math.prod(one.shape) or units != math.prod(shape):
            raise _wrong(one, "has a bias whose effect on the output is not known")
        kept = self.axes if same else range(1, rank)
        # Of positions that are alike one is enough.
        self._small = tuple(
            size if axis in kept else 1 for axis, size in enumerate(self.shape)
        )

    def _axes(self, shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
        """Along which the bias has values of its own."""
        axis: Any = getattr(self.owned.layer, "axis", None)  # of a normalization
        if len(shape) == 1:
            is_one = isinstance(axis, int)
            found = (axis,) if is_one else unit_axes(self.owned.layer, None, rank)
            return tuple(one % rank for one in found)
        first = rank - len(shape)  # as it is broadcast to what it is added to
        return tuple(first + i for i, size in enumerate(shape) if size > 1) or (rank - 1,)

    def _output(self, values: Array) -> Array:
        """What the output is, with 1 in the place of positions that are alike."""
        own = [n if axis in self.axes else 1 for axis, n in enumerate(self._small)]
        full = np.ascontiguousarray(np.broadcast_to(values.reshape(own), self._small))
        for function in self._head.functions:
            full = in_float64(function, full)
        return full

    def prediction(self, values: Array) -> Array:
        """The output for all samples, with these values of the bias and without inputs."""
        found = self._output(values).astype(np.float32)
        return np.broadcast_to(found, self._one.shape)

    def _units(self, values: Array) -> Array:
        """The output by unit, of positions that are alike the first."""
        found = self._output(values).reshape(self._small)
        found = np.moveaxis(found, self.axes, range(len(self.axes)))
        return found.reshape(*values.shape, -1)[..., 0]

    def for_constant(self, constant: Array) -> Array:
        """The values with which the output is this constant."""
        try:
            values = self._inverse(constant)
            near = abs(self._units(values) - constant) <= 2 * _NEAR * _size(constant)
        except (TypeError, ValueError) as error:
            message = f"has a head whose output is not known ({error})"
            raise _wrong(self._one, message) from error
        if not near.all():
            text = np.array2string(constant.ravel(), precision=4, threshold=4, edgeitems=2)
            names = " and ".join(self._head.activations) or "what follows its bias"
            raise _wrong(
                self._one, f"has {text} for the best constant, which {names} cannot give"
            )
        return values

    def _inverse(self, constant: Array) -> Array:
        if not self._head.functions or "log_softmax" in self._head.activations:
            return constant
        if "softmax" in self._head.activations:
            return np.log(constant)
        near = _NEAR * _size(constant)
        low, high = -np.ones_like(constant), np.ones_like(constant)
        while (short := self._units(low) > constant + near).any() and low.min() > -_FAR:
            low[short] *= 2
        while (short := self._units(high) < constant - near).any() and high.max() < _FAR:
            high[short] *= 2
        # An activation may come near and never there.
        reachable = np.clip(constant, self._units(low), self._units(high))
        return root(lambda values: self._units(values) - reachable, low, high)


def _size(constant: Array) -> Array:
    return np.maximum(1.0, abs(constant))


def _wrong(one: Compared, what: str) -> Exception:
    allowed = "one whose outputs end in a bias that can be set to a best constant"
    return ValueError(
        f"`model` must be {allowed}. Received: the output {one.output!r} {what}"
    )


def _row(one: Compared, path: str) -> OutputBias:
    return OutputBias(path, output=one.output, loss=one.name)
