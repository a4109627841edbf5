"""The start of deep plain networks: at criticality, by activation and depth."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from keras_fanwise.arguments import fail
from keras_fanwise.backends.private_keras import predecessors
from keras_fanwise.fans.lookup import layer_matrices
from keras_fanwise.fans.maps import Matrices
from keras_fanwise.initializers.activations import float64_function
from keras_fanwise.initializers.criticality import Criticality, criticality
from keras_fanwise.initializers.expectations import second_moment
from keras_fanwise.initializers.normal import FanwiseNormal
from keras_fanwise.initializers.orthogonal import (
    FanwiseDeltaOrthogonal,
    FanwiseOrthogonal,
)
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling
from keras_fanwise.models.rules import OfVariables, Rule, StandIn, Subject

_CONVOLUTIONS = tuple(
    getattr(keras.layers, f"Conv{rank}D{kind}")
    for rank in (1, 2, 3)
    for kind in ("", "Transpose")
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_WITH_KERNEL = (keras.layers.Dense, *_CONVOLUTIONS, *_DEPTHWISE)
# Activations with an argument or a weight of their own.
_ACTIVATIONS = tuple(
    getattr(keras.layers, name)
    for name in ("Activation", "ReLU", "LeakyReLU", "ELU")
    if hasattr(keras.layers, name)
)


class CriticalRule(StandIn):
    """Stands for the rules by which a plain network starts critical; see `recipes`."""

    def __init__(self) -> None:
        super().__init__("fanwise_variance_scaling")

    def for_subject(self, subject: Subject) -> list[Rule]:
        """A rule for each kernel and each bias of a model.

        Raises:
            ValueError: the network is not plain, or an activation has no critical point.
        """
        stages = _stages(subject.model)
        depth = sum(stage.activation is not None for stage in stages)
        points: dict[Any, _Point] = {}
        for stage in stages:
            if stage.activation is not None and stage.activation not in points:
                points[stage.activation] = _point(stage, depth)
        rules: list[Rule] = []
        before: Any = None
        for stage in stages:
            rules += _rules(stage, points.get(before), points.get(stage.activation))
            before = stage.activation
        return rules

    def __repr__(self) -> str:
        return "CriticalRule()"


class _Stage(NamedTuple):
    layer: keras.Layer
    # That its output goes through before the next kernel; `None` for the last layer, whose
    # output is that of the network, and where there is none.
    activation: Callable[..., Any] | keras.Layer | None


class _Point(NamedTuple):
    critical: Criticality
    # What the activation makes of the signal.
    moment: float


def _stages(model: keras.Layer) -> list[_Stage]:
    kernels: list[keras.Layer] = []
    activations: list[list[Any]] = []
    for layer in _in_line(model):
        if isinstance(layer, _WITH_KERNEL):
            kernels.append(layer)
            own = layer.activation
            activations.append([] if own is keras.activations.linear else [own])
        elif isinstance(layer, _ACTIVATIONS):
            if activations:
                own = getattr(layer, "activation", layer)
                activations[-1].append(own)
        elif layer.weights:
            allowed = (
                "a plain network for the recipe 'critical': of layers with weights only "
                "dense layers and convolutions, plain, transposed or depthwise"
            )
            raise fail(ValueError, "model", allowed, _named(layer))
    if not kernels:
        allowed = "one with dense layers or convolutions for the recipe 'critical'"
        raise fail(ValueError, "model", allowed, model.name)
    for layer, several in zip(kernels, activations, strict=True):
        if len(several) > 1:
            allowed = "one with at most one activation after each layer"
            raise fail(ValueError, "model", allowed, _named(layer))
    activations[-1] = []
    return [
        _Stage(layer, several[0] if several else None)
        for layer, several in zip(kernels, activations, strict=True)
    ]


def _in_line(model: keras.Layer) -> list[keras.Layer]:
    """The layers of a model in which each takes the output of the one before."""
    pairs = predecessors(model)
    if pairs is None:
        allowed = "a sequential or functional model for the recipe 'critical'"
        raise fail(ValueError, "model", allowed, _named(model))
    line: list[keras.Layer] = []
    last: Any = None
    for operation, before in pairs:
        if (before and (len(before) > 1 or before[0] is not last)) or (
            last is not None and not before
        ):
            allowed = (
                "a plain network for the recipe 'critical', without branches, in which "
                "each layer takes the output of the one before"
            )
            raise fail(ValueError, "model", allowed, _named(operation))
        last = operation
        if isinstance(operation, (keras.Sequential, keras.Model)):
            line += _in_line(operation)
        elif isinstance(operation, keras.Layer):
            line.append(operation)
    return line


def _named(operation: Any) -> str:
    return f"{operation.name} ({type(operation).__name__})"


def _point(stage: _Stage, depth: int) -> _Point:
    activation = stage.activation
    try:
        try:
            critical = criticality(activation)
        except ValueError:  # it is critical along a line
            critical = criticality(activation, q=1 / depth)
    except ValueError as error:
        allowed = (
            "of activations with a critical point for the recipe 'critical', such as relu, "
            "tanh, gelu and selu"
        )
        name = getattr(activation, "__name__", type(activation).__name__)
        where = f"{_named(stage.layer)} with {name}"
        raise fail(ValueError, "model", allowed, where) from error
    return _Point(critical, second_moment(float64_function(activation), critical.q))


def _rules(stage: _Stage, before: _Point | None, after: _Point | None) -> list[Rule]:
    biases = 0.0
    if before is not None and before is after:
        scale, biases, _ = before.critical
    else:
        # From the variance of what comes to that which the next activation wants.
        wanted = 1.0 if after is None else after.critical.q
        scale = wanted / (1.0 if before is None else before.moment)
    layer = stage.layer
    kernel = _of(layer.kernel, _kernel(layer, scale))
    if layer.bias is None:
        return [kernel]
    bias = FanwiseNormal(stddev=math.sqrt(biases)) if biases else "zeros"
    return [kernel, _of(layer.bias, bias)]


def _of(variable: keras.Variable, initializer: Any) -> Rule:
    return OfVariables.of(Rule(initializer), [variable])


def _kernel(layer: keras.Layer, scale: float) -> Any:
    """Orthogonal where that is an isometry, but for a factor, or else Gaussian."""
    matrices = layer_matrices(layer, "kernel", tuple(layer.kernel.shape))
    dense = isinstance(layer, keras.layers.Dense)
    stride_1 = matrices is not None and all(stride == 1 for stride in matrices.strides)
    if matrices is None or not (dense or (isinstance(layer, _CONVOLUTIONS) and stride_1)):
        return FanwiseVarianceScaling(scale=scale, distribution="untruncated_normal")
    part: Matrices = matrices if dense else matrices.central()[0]
    _, inputs, outputs = part.stack_shape
    # With fewer inputs than outputs the length of the signal is spread over more units.
    gain = math.sqrt(scale * max(1.0, outputs / max(1, inputs)))
    return FanwiseOrthogonal(gain) if dense else FanwiseDeltaOrthogonal(gain)
