"""What is wrong with a training that no weight tells: inputs, targets, head, loss, ends.

One batch is sent through the model, and nothing in it changes. The rules are those that
told sound set-ups from faulty ones (`benchmarks/start_loss.py` measures how often).
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.backends.arrays import dtype_name, float64, is_concrete
from keras_fanwise.backends.private_keras import all_layers
from keras_fanwise.backends.tap import LayerCall, kept_state, tapped
from keras_fanwise.diagnostics.loss import (
    DISTRIBUTION,
    LOGITS,
    POSITIVE,
    PROBABILITY,
    Array,
    Compared,
    Head,
    compared,
    head_of,
)
from keras_fanwise.graph.graph import NORMALIZATION, Call, Graph, activation_of
from keras_fanwise.reports.diagnosis import DiagnosisFinding, Fault
from keras_fanwise.reports.report import ERROR, NOTE, WARNING
from keras_fanwise.seam.weights import owned_weights, role, weights_within

# A cross-entropy at the start, by the larger of those of the base rates and of a guess,
# and by that of the base rates alone: so far from 1 it is told, and so far it matters.
_HIGH, _LOW, _VERY_HIGH = 1.6, 0.8, 50.0
# Of a regression: by how many deviations of the targets the outputs are off, so that it is
# told, and so that it matters, and how much wider or narrower than these they may be.
_OFF, _FAR_OFF, _WIDE, _NARROW = 1.0, 3.0, 10.0, 1 / 30
# Root mean squares of what enters the first kernels, and of a column by the median one.
_LARGE, _SMALL, _UNEVEN = 10.0, 0.01, 30.0
# What is left of the slope of an activation on average, below which it is saturated, and
# below which a single value is at an end.
SLOPE, _END = 0.1, 0.05
# The share of targets that a head may be unable to give.
_BEYOND = 0.05

# What an activation can give.
_RANGES = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "softplus": (0.0, math.inf),
    "exponential": (0.0, math.inf),
}
# The slope at a value that an activation gives, as a part of its largest slope.
_SLOPES: dict[str, Callable[[Array], Array]] = {
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: 4 * y * (1 - y),
    "softsign": lambda y: (1 - abs(y)) ** 2,
    "hard_tanh": lambda y: abs(y) < 1,
    "hard_sigmoid": lambda y: (y > 0) & (y < 1),
    "softmax": lambda y: _softmax_slopes(y),
}
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


def _softmax_slopes(y: Array) -> Array:
    """By position; where a mask leaves a single value there is nothing to be measured."""
    if y.shape[-1] == 1:
        return np.ones(y.shape[:-1])
    counts = (y > 0).sum(-1)
    open_ = counts > 1
    if open_.mean() < SLOPE:  # the others are too near 0 for a float
        return open_
    counts = counts[open_]
    return (1 - (y[open_] ** 2).sum(-1)) / (1 - 1 / counts)


class _Seen(NamedTuple):
    """What was measured of a batch on its way."""

    outputs: Any
    entries: dict[keras.Layer, Array]  # what comes to the first layers with kernels
    slopes: dict[keras.Layer, Array]


def training_findings(
    model: keras.Model, x: Any, y: Any = None, graph: Graph | None = None
) -> list[DiagnosisFinding]:
    """What is wrong with inputs, targets, head and loss of a training, and saturated."""
    values = [keras.ops.convert_to_numpy(one) for one in keras.tree.flatten(x)]
    wrong = sum(int((~np.isfinite(one)).sum()) for one in values if one.dtype.kind == "f")
    if wrong:
        numbers = f"{wrong} values are not finite"
        remedy = "remove or replace them: np.nan_to_num(x), or drop the rows that have them"
        return [DiagnosisFinding("x", Fault.INPUTS, ERROR, numbers, remedy)]
    graph = graph or Graph(model)
    with kept_state(model):
        seen = _seen(model, x, graph)
    findings: list[DiagnosisFinding] = []
    if y is not None:
        weights = owned_weights(model)
        outputs = keras.tree.map_structure(keras.ops.convert_to_numpy, seen.outputs)
        for one in compared(model, y, outputs):
            head = head_of(graph, one.place, weights)
            found = [*_head(one, head), *_targets(one)]
            if all(finding.severity != ERROR for finding in found):
                found += _start(one)
            findings += found
            if head and one.takes in (DISTRIBUTION, PROBABILITY):
                # The logarithm in the loss makes up for the slope.
                for layer in head.layers:
                    seen.slopes.pop(layer, None)
    findings = [*_saturation(seen), *findings]
    return [*_inputs(seen, graph, bool(findings)), *findings]


def _seen(model: keras.Model, x: Any, graph: Graph) -> _Seen:
    kernels = [call for call in graph.calls if call.has_kernel]
    firsts = {
        _taker(call)
        for call in kernels
        if not any(one is not call and graph.leads_to(one, call) for one in kernels)
    } - {None}
    entries: dict[keras.Layer, Array] = {}
    slopes: dict[keras.Layer, Array] = {}

    attention = [layer for layer in all_layers(model) if isinstance(layer, _ATTENTION)]
    inside = {one for layer in attention for one in all_layers(layer)[1:]}

    def called(call: LayerCall) -> Any:
        layer = call.layer
        if layer in firsts and layer not in entries and call.args:
            tensors = keras.tree.flatten(call.args[0])
            if keras.ops.is_tensor(tensors[0]) and "float" in dtype_name(tensors[0]):
                entries[layer] = float64(tensors[0])
        if isinstance(layer, _ATTENTION):
            kwargs = {**call.kwargs, "return_attention_scores": True}
            output, values = call._replace(kwargs=kwargs).output()
            if call.kwargs.get("return_attention_scores"):
                output = output, values
        else:
            output = values = call.output()
        if keras.ops.is_tensor(values) and is_concrete(values):
            left = activation_slopes(_activation(layer), values)
            if left is not None:
                slopes[layer] = left
        return output

    layers = [
        layer
        for layer in all_layers(model)
        if layer in firsts or (_activation(layer) in _SLOPES and layer not in inside)
    ]
    with keras.StatelessScope(), tapped(layers, called):
        outputs = model(x, training=True)
    return _Seen(outputs, entries, slopes)


def _taker(call: Call) -> keras.Layer | None:
    """The layer that takes what comes to a kernel: the one that has it, if it is opened."""
    if isinstance(call.operation, keras.Layer):
        return call.operation
    holder = call.holders[-1] if call.holders else None
    # Inside something may come before the kernel.
    is_first = all(holder not in one.holders for one in call.signals)
    return holder if is_first and not isinstance(holder, keras.Model) else None


def activation_slopes(name: str, values: Any) -> Any:
    """What is left of the slope of an activation that gives these; `None` if unknown.

    An array, or a tensor if there are no values yet: in code that is being compiled.
    """
    slope = _SLOPES.get(name)
    if slope and not is_concrete(values):
        return slope(keras.ops.cast(values, "float32"))
    return slope and np.asarray(slope(float64(values)), np.float64)


def _activation(layer: keras.Layer) -> str:
    """The name of the one whose values can be seen."""
    if isinstance(layer, (keras.layers.Softmax, *_ATTENTION)):
        return "softmax"
    return activation_of(layer)


def _finding(layer: keras.Layer, *rest: Any) -> DiagnosisFinding:
    return DiagnosisFinding(layer.path or layer.name, *rest)


def _saturation(seen: _Seen) -> Iterator[DiagnosisFinding]:
    for layer, slopes in seen.slopes.items():
        left = float(slopes.mean())
        if left < SLOPE:
            share = (slopes < _END).mean()
            numbers = (
                f"{share:.0%} of the outputs of {_activation(layer)} are at its limits, "
                f"which leaves {left:.2g} of the gradient"
            )
            remedy = Fault.SATURATION.remedy
            yield _finding(layer, Fault.SATURATION, WARNING, numbers, remedy)


def _inputs(seen: _Seen, graph: Graph, matters: bool) -> Iterator[DiagnosisFinding]:
    """Of what enters the first kernels, after whatever the model does with its inputs."""
    for layer, values in seen.entries.items():
        kernels = [one.variable for one in weights_within(layer) if role(one).is_matrix]
        if not kernels:
            continue  # but a table, whose rows are picked
        columns = np.sqrt((values**2).mean(tuple(range(values.ndim - 1))))
        size = math.sqrt(float((columns**2).mean()))
        if values.size > 1 and values.min() == values.max():
            numbers = f"all of its inputs are {values.flat[0]:g}"
            remedy = "look at how x is read"
            yield _finding(layer, Fault.INPUTS, ERROR, numbers, remedy)
            continue
        if all(graph.after(kernel) == {NORMALIZATION} for kernel in kernels):
            continue  # which takes the size out
        level = WARNING if matters or size < _SMALL else NOTE
        typical = float(np.median(columns[columns > 0]))
        if values.ndim == 2 and columns.max() > max(_LARGE, _UNEVEN * typical):
            numbers = (
                "columns of its inputs are of very different scale: the largest root mean "
                f"square is {columns.max():.3g}, the median {typical:.3g}"
            )
            yield _finding(layer, Fault.INPUTS, level, numbers, _NORMALIZE)
        elif size > _LARGE or size < _SMALL:
            numbers = (
                f"its inputs are {values.min():.3g} to {values.max():.3g}, their root mean "
                f"square is {size:.3g}"
            )
            yield _finding(layer, Fault.INPUTS, level, numbers, _scaled(values))


_NORMALIZE = (
    "write normalization = keras.layers.Normalization(), normalization.adapt(x), and call "
    "it before the first layer"
)


def _scaled(values: Array) -> str:
    """How pixels, or other inputs, are brought to a common size."""
    largest = values.max()
    if values.min() >= 0 and largest <= 255 and (values == np.floor(values)).all():
        known = next(one for one in (16, 255) if largest <= one)
        return f"write keras.layers.Rescaling(1 / {known}) before the first layer"
    return _NORMALIZE


def _targets(one: Compared) -> Iterator[DiagnosisFinding]:
    if one.kind is None:
        return
    targets, shape, axis = one.targets.shape, one.shape, one.class_axis
    remedy = Fault.TARGETS.remedy
    if one.is_sparse:
        allowed = [(*shape[:axis], *rest, *shape[axis + 1 :]) for rest in ((), (1,))]
        if targets == shape:
            remedy = f'write loss="{one.name.removeprefix("sparse_")}"'
    else:
        allowed = [shape, shape[:-1]] if shape[-1:] == (1,) else [shape]
        if one.has_classes and targets in (shape[:-1], (*shape[:-1], 1)):
            remedy = f'write loss="sparse_{one.name}", or keras.utils.to_categorical(y)'
    if targets not in allowed:
        numbers = f"targets of shape {targets} for an output of shape {shape}"
    elif numbers := one.target_fault():
        remedy = _for_targets(one)
    elif one.targets.size > 1 and one.targets.min() == one.targets.max():
        numbers = f"all targets are {one.targets.flat[0]:g}"
        remedy = "look at how y is read, and at whether it is shuffled before it is cut"
    else:
        return
    yield DiagnosisFinding(one.output, Fault.TARGETS, ERROR, numbers, remedy)


def _for_targets(one: Compared) -> str:
    """How targets and loss that do not fit are brought together."""
    if not np.isfinite(one.targets).all():
        return "remove the samples whose target is not finite"
    low, high = one.targets.min(), one.targets.max()
    if one.is_sparse and low >= 0:
        return f"let the head have {high + 1:.0f} units, or count classes from 0 on"
    if one.takes in (PROBABILITY, LOGITS) and low >= 0 and one.shape[-1] == 1:
        if (one.targets == np.floor(one.targets)).all():
            classes = f"{high + 1:.0f}"
            return (
                f'write keras.layers.Dense({classes}, activation="softmax") and '
                'loss="sparse_categorical_crossentropy"'
            )
        return 'write loss="mse" for numbers, or divide y by its largest possible value'
    if (low, high) == (-1, 1):
        return "write (y + 1) / 2 for y, which is -1 and 1"
    return Fault.TARGETS.remedy


def _head(one: Compared, head: Head | None) -> Iterator[DiagnosisFinding]:
    """What the activations of a head say against the loss."""
    if head is None or one.kind is None:
        return
    last = head.activations[-1] if head.activations else ""
    finding = functools.partial(DiagnosisFinding, one.output, Fault.HEAD)
    gives = f"the head ends in {last}" if last else "the head is linear"
    kind = "sigmoid" if one.kind.takes == PROBABILITY else "softmax"
    with_logits = f"loss=keras.losses.{_class_name(one.name)}(from_logits=True)"
    if one.shape[one.class_axis] == 1 and (
        last in ("softmax", "log_softmax") or one.kind.takes == DISTRIBUTION
    ):
        numbers = "softmax over one unit is 1, whatever the weights"
        remedy = 'write activation="sigmoid" and loss="binary_crossentropy"'
        yield finding(ERROR, numbers, remedy)
    elif one.takes == LOGITS:
        numbers = f"{one.name} has from_logits=True, and {gives}"
        if last in ("softmax", "sigmoid", "hard_sigmoid"):
            yield finding(ERROR, numbers, "leave out the activation, or from_logits=True")
        elif last in _RANGES:
            yield finding(ERROR, numbers, "leave out the activation of the last layer")
    elif one.takes in (DISTRIBUTION, PROBABILITY):
        numbers = f"{one.name} takes {one.takes}, and {gives}"
        if not last and one.name != "kl_divergence":
            yield finding(ERROR, numbers, f'write activation="{kind}", or {with_logits}')
        elif not last or last in _RANGES.keys() - {"sigmoid", "hard_sigmoid", "softmax"}:
            yield finding(ERROR, numbers, f'write activation="{kind}"')
        elif last == "softmax" and kind == "sigmoid":
            several = not np.allclose(one.targets.sum(-1), 1)
            remedy = 'write activation="sigmoid", or loss="categorical_crossentropy"'
            yield finding(ERROR if several else NOTE, numbers, remedy)
        elif last != kind and kind == "softmax":
            yield finding(NOTE, numbers, f'write activation="{kind}"')
    elif one.name == "poisson" and not last:
        remedy = 'write activation="exponential" or "softplus"'
        yield finding(ERROR, f"poisson takes {POSITIVE}, and {gives}", remedy)
    elif last in _RANGES and one.name not in ("hinge", "squared_hinge"):
        low, high = _RANGES[last]
        beyond = ((one.targets < low) | (one.targets > high)).mean()
        if beyond > _BEYOND:
            numbers = (
                f"{beyond:.0%} of the targets are not within {low:g} to {high:g}, which is "
                f"all that {last} gives"
            )
            remedy = "leave out the activation of the last layer, or scale y"
            yield finding(ERROR, numbers, remedy)


def _class_name(function: str) -> str:
    return "".join(part.title() for part in function.split("_"))


_STANDARD = "write (y - y.mean()) / y.std() for y"
_OUTPUTS = "bring the outputs to size: scale the inputs, or calibrate(model, x)"


def _start(one: Compared) -> Iterator[DiagnosisFinding]:
    """The loss at the start, against the loss of the base rates."""
    constant = one.constant()
    if constant is None:
        return
    base = np.broadcast_to(constant, one.shape).astype(np.float32)
    finding = functools.partial(DiagnosisFinding, one.output, Fault.LOSS)
    bias = "output_bias(model, y) brings it there"
    if one.takes in (DISTRIBUTION, PROBABILITY, LOGITS):
        if one.name == "kl_divergence":
            return  # of which the least is not 0, and can be anything
        guess = 1 / one.shape[one.class_axis] if one.has_classes else 0.5
        even = np.full(one.shape, 0.0 if one.from_logits else guess, np.float32)
        start, least, guessed = one.of(one.prediction), one.of(base), one.of(even)
        numbers = f"the loss is {start:.3g}, and {least:.3g} for the base rates"
        if not math.isfinite(start):
            yield finding(ERROR, numbers, Fault.LOSS.remedy)
        elif start > _HIGH * max(least, guessed):
            level = WARNING if start > _VERY_HIGH * least else NOTE
            yield finding(level, numbers, _OUTPUTS)
        elif start > _HIGH * least:
            yield finding(NOTE, numbers, bias)
        elif start < _LOW * least:
            yield finding(NOTE, numbers, "none if the model is trained")
        return
    outputs, targets = (
        float64(values).reshape(len(one.targets), -1)
        for values in (one.prediction, one.targets)
    )
    width = float(targets.std())
    off = abs(float(outputs.mean() - targets.mean())) / width
    ratio = math.sqrt(float(outputs.var(0).mean() / targets.var(0).mean()))
    if not math.isfinite(off * ratio):
        yield finding(ERROR, "the outputs are not finite", Fault.LOSS.remedy)
    elif off > _OFF:
        level = WARNING if off > _FAR_OFF else NOTE
        numbers = f"the outputs are off the targets by {off:.3g} of the targets' deviations"
        yield finding(level, numbers, f"{bias}; or {_STANDARD}")
    if not _NARROW < ratio < _WIDE:
        numbers = f"the outputs vary {ratio:.3g} times as much as the targets"
        is_common = 1 / _WIDE < width < _WIDE
        yield finding(WARNING, numbers, _OUTPUTS if is_common else _STANDARD)
