"""What the loss of a model compares, and what a model without inputs would best predict.

The loss of that prediction, the loss of the base rates, is what any training must come
below, and what a start should come near. For each loss of Keras it is known of which kind
a prediction must be, and for most which constant prediction is the best; a loss that
somebody wrote is not judged.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.backends import private_keras
from keras_fanwise.backends.arrays import float64
from keras_fanwise.backends.private_keras import loss_arguments
from keras_fanwise.graph.graph import Call, Graph, activation_of
from keras_fanwise.seam.weights import OwnedWeight, Role, role, weights_within

# What a loss takes for a prediction.
DISTRIBUTION = "probabilities of classes, which add up to 1"
PROBABILITY = "a probability"
LOGITS = "logits"
POSITIVE = "numbers above 0"
VALUE = "numbers"

# Of float64; more of their types would have to be said again at every sum.
Array = Any
# Of targets and weights, by unit in the columns, and the arguments of the loss.
_Constant = Callable[[Array, Array, dict[str, Any]], Array]


class LossKind(NamedTuple):
    """What is known of a loss of Keras."""

    takes: str  # for a prediction, unless it is told to take logits
    low: float  # what targets must not be below,
    high: float  # nor above
    constant: _Constant | None  # the best constant prediction of each unit


def root(
    function: Callable[[Array], Array], low: Array, high: Array, steps: int = 80
) -> Array:
    """Where an increasing function of each number is 0, between two numbers, by halving."""
    low, high = np.array(low, np.float64), np.array(high, np.float64)
    for _ in range(steps):
        middle = (low + high) / 2
        is_below = function(middle) < 0
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return (low + high) / 2


def _mean(targets: Array, weights: Array, _: dict[str, Any]) -> Array:
    return (weights * targets).sum(0) / weights.sum(0)


def _median(targets: Array, weights: Array, _: dict[str, Any]) -> Array:
    order = targets.argsort(0)
    values = np.take_along_axis(targets, order, 0)
    shares = np.take_along_axis(weights, order, 0).cumsum(0) / weights.sum(0)
    # Where half of the weight ends between two values, any number between them will do.
    ends = [(shares >= half).argmax(0) for half in (0.5 - 1e-12, 0.5 + 1e-12)]
    return sum(np.take_along_axis(values, end[None], 0)[0] for end in ends) / 2


def _median_by_size(targets: Array, weights: Array, more: dict[str, Any]) -> Array:
    return _median(targets, weights / np.maximum(abs(targets), _epsilon()), more)


def _mean_of_logarithms(targets: Array, weights: Array, more: dict[str, Any]) -> Array:
    return np.expm1(_mean(np.log1p(np.maximum(targets, _epsilon())), weights, more))


def _where_slopes_cancel(slope: Callable[[Array, dict[str, Any]], Array]) -> _Constant:
    """Of a loss with this slope, which grows with the error, prediction less target."""

    def constant(targets: Array, weights: Array, more: dict[str, Any]) -> Array:
        def total(value: Array) -> Array:
            return (weights * slope(value - targets, more)).sum(0)

        return root(total, targets.min(0), targets.max(0))

    return constant


def _share(targets: Array, weights: Array, more: dict[str, Any]) -> Array:
    """Of positive targets; one that never or always comes is given half a sample."""
    smoothing = more["label_smoothing"]
    share = _mean(targets * (1 - smoothing) + smoothing / 2, weights, more)
    half = 0.5 / more["samples"]
    return np.clip(share, half, 1 - half)


def _shares(targets: Array, weights: Array, more: dict[str, Any]) -> Array:
    """Of classes; one that never comes is given half a sample."""
    smoothing = more.get("label_smoothing", 0.0)
    shares = _mean(targets, weights, more)
    shares = shares / shares.sum() * (1 - smoothing) + smoothing / len(shares)
    shares = np.maximum(shares, 0.5 / more["samples"])
    return shares / shares.sum()


def _signed_mean(targets: Array, weights: Array, more: dict[str, Any]) -> Array:
    """Of -1 and 1, also of 0 and 1, as Keras's hinge losses take them."""
    is_signed = not np.isin(targets, (0, 1)).all()
    return _mean(targets if is_signed else 2 * targets - 1, weights, more)


def _side(targets: Array, weights: Array, more: dict[str, Any]) -> Array:
    return np.sign(_signed_mean(targets, weights, more))


def _majority(targets: Array, weights: Array, more: dict[str, Any]) -> Array:
    """For the categorical hinge 1 for a class that comes more than half of the time."""
    return (_mean(targets, weights, more) > 0.5).astype(np.float64)


def _focal_share(targets: Array, weights: Array, more: dict[str, Any]) -> Array:
    """Where the slope of the binary focal loss is 0."""
    gamma, share = more["gamma"], _share(targets, weights, more)
    alpha = more["alpha"] if more["apply_class_balancing"] else 0.5

    def slope(q: Array) -> Array:
        return _focal(1 - q, gamma) * (1 - share) * (1 - alpha) - (
            _focal(q, gamma) * share * alpha
        )

    return root(slope, np.zeros_like(share), np.ones_like(share))


def _focal_shares(targets: Array, weights: Array, more: dict[str, Any]) -> Array:
    """Where the slopes of the focal loss are the same for all classes, by their shares."""
    shares = _shares(targets, weights, more) * more["alpha"]

    def probabilities(logarithm: Array) -> Array:
        slope = np.exp(logarithm) / shares
        low, high = np.zeros_like(shares), np.ones_like(shares)
        return root(lambda q: slope - _focal(q, more["gamma"]), low, high)

    # A larger slope makes smaller probabilities, which are to add up to 1.
    level = root(lambda one: 1 - probabilities(one).sum(), np.array(-60.0), np.array(60.0))
    found = probabilities(level)
    return found / found.sum()


def _focal(q: Array, gamma: float) -> Array:
    """How fast (1 - q)^gamma · -log q falls."""
    return (1 - q) ** gamma / q - gamma * (1 - q) ** (gamma - 1) * np.log(q)


def _powers(targets: Array, weights: Array, more: dict[str, Any]) -> Array:
    """Of the generalized cross-entropy, by the condition of Lagrange."""
    powers = _shares(targets, weights, more) ** (1 / (1 - more["q"]))
    return powers / powers.sum()


def _epsilon() -> float:
    return float(keras.config.epsilon())


_INF = math.inf
KINDS = {
    "mean_squared_error": LossKind(VALUE, -_INF, _INF, _mean),
    "mean_absolute_error": LossKind(VALUE, -_INF, _INF, _median),
    "mean_absolute_percentage_error": LossKind(VALUE, -_INF, _INF, _median_by_size),
    "mean_squared_logarithmic_error": LossKind(POSITIVE, 0, _INF, _mean_of_logarithms),
    "huber": LossKind(
        VALUE,
        -_INF,
        _INF,
        _where_slopes_cancel(
            lambda error, more: np.clip(error, -more["delta"], more["delta"])
        ),
    ),
    "log_cosh": LossKind(
        VALUE, -_INF, _INF, _where_slopes_cancel(lambda error, _: np.tanh(error))
    ),
    "poisson": LossKind(POSITIVE, 0, _INF, _mean),
    "kl_divergence": LossKind(DISTRIBUTION, 0, 1, _shares),
    "categorical_crossentropy": LossKind(DISTRIBUTION, 0, 1, _shares),
    "sparse_categorical_crossentropy": LossKind(DISTRIBUTION, 0, _INF, _shares),
    "categorical_generalized_cross_entropy": LossKind(DISTRIBUTION, 0, _INF, _powers),
    "categorical_focal_crossentropy": LossKind(DISTRIBUTION, 0, 1, _focal_shares),
    "binary_crossentropy": LossKind(PROBABILITY, 0, 1, _share),
    "binary_focal_crossentropy": LossKind(PROBABILITY, 0, 1, _focal_share),
    "dice": LossKind(PROBABILITY, 0, 1, None),
    "tversky": LossKind(PROBABILITY, 0, 1, None),
    "hinge": LossKind(VALUE, -1, 1, _side),
    "squared_hinge": LossKind(VALUE, -1, 1, _signed_mean),
    "categorical_hinge": LossKind(VALUE, 0, 1, _majority),
}
# Of these the targets are the numbers of classes.
_SPARSE = ("sparse_categorical_crossentropy", "categorical_generalized_cross_entropy")
# Of these the best constant is that of targets that are all 0 or 1, and of no others.
_BINARY = ("binary_focal_crossentropy", "categorical_focal_crossentropy")
# Of these one number depends on those of the other units.
_JOINT = ("categorical_hinge",)


def _known(loss: keras.losses.Loss) -> tuple[str, LossKind | None, dict[str, Any]]:
    """The name of a loss; of one of Keras's functions its name, its kind and arguments."""
    given = loss_arguments(loss)
    function: Any = getattr(loss, "fn", None)
    if given is None or function is None:
        return loss.name, None, {}
    while isinstance(function, functools.partial):
        function, given = function.func, {**function.keywords, **given}
    name = getattr(function, "__name__", "")
    if name not in KINDS or not str(function.__module__).startswith("keras."):
        return loss.name, None, {}
    parameters = inspect.signature(function).parameters.values()
    return name, KINDS[name], {**{one.name: one.default for one in parameters}, **given}


@dataclass(frozen=True)
class Compared:
    """An output of a model, what its loss compares it with, and what is known of the loss.

    Targets and weights are arrays, of float64; without weights all are 1.
    """

    output: str  # its name
    place: int  # among the outputs of the model
    loss: keras.losses.Loss
    name: str
    kind: LossKind | None  # of one of Keras's
    arguments: dict[str, Any]  # of its function
    targets: Array
    prediction: Any
    weights: Array

    @property
    def from_logits(self) -> bool:
        return bool(self.arguments.get("from_logits", False))

    @property
    def takes(self) -> str:
        """What the loss takes for a prediction; "" of a loss that is not known."""
        if self.from_logits:
            return LOGITS
        return self.kind.takes if self.kind else ""

    @property
    def has_classes(self) -> bool:
        """Whether the units are classes, of which each sample has one."""
        return (self.kind is not None and self.kind.takes == DISTRIBUTION) or (
            self.name in _JOINT
        )

    @property
    def is_sparse(self) -> bool:
        return self.name in _SPARSE

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.prediction.shape)

    @property
    def class_axis(self) -> int:
        """The one that the loss of a sample is summed or averaged over."""
        return int(self.arguments.get("axis", -1)) % len(self.shape)

    def of(self, prediction: Any) -> float:
        """The loss of a prediction, by Keras, before its weight among other losses."""
        weights = None if (self.weights == 1).all() else self._positions()
        targets = self.targets if not self.is_sparse else self.targets.astype("int32")
        found = self.loss(targets, keras.ops.convert_to_tensor(prediction), weights)
        return float(np.mean(keras.ops.convert_to_numpy(found)))

    def target_fault(self) -> str:
        """Why the loss cannot take the targets; `""` if it can."""
        if self.kind is None or not self.targets.size:
            return ""
        ignored = self.arguments.get("ignore_class")
        targets = self.targets[self.targets != ignored]
        if not np.isfinite(targets).all():
            return "some targets are not finite"
        low, high = self.kind.low, self.kind.high
        if self.is_sparse:
            high = self.shape[self.class_axis] - 1
        if targets.size and (targets.min() < low or targets.max() > high):
            limits = f"{low:g} to {high:g}" if high < _INF else f"{low:g} or above"
            return f"targets are {targets.min():.6g} to {targets.max():.6g}, not {limits}"
        if self.is_sparse and (targets != np.floor(targets)).any():
            return "targets are not whole numbers, as classes must be"
        return ""

    def constant(
        self, shape: Sequence[int] | None = None, axes: Sequence[int] | None = None
    ) -> Array | None:
        """The best prediction that is the same for all samples, as the loss takes it.

        `None` where that is not known.

        Args:
            shape: that the predictions have where a bias is added to them, if it is
                another one.
            axes: of that shape, those along which units have biases of their own; by
                default the last one.
        """
        shape = self.shape if shape is None else tuple(shape)
        axes = (len(shape) - 1,) if axes is None else tuple(axes)
        if self.kind is None or self.kind.constant is None or self.target_fault():
            return None
        if self.has_classes and (shape != self.shape or axes != (self.class_axis,)):
            return None
        if self.is_sparse:
            targets, weights = self._counted()
        else:
            targets, weights = (_rows(one.reshape(shape), axes) for one in self._spread())
        if self.name in _BINARY and (
            self.arguments["label_smoothing"] or not np.isin(targets, (0, 1)).all()
        ):
            return None
        if not (weights.sum(0) > 0).all():
            return None
        samples = self.targets.size if self.is_sparse else len(targets)
        arguments = {**self.arguments, "samples": samples}
        best = self.kind.constant(targets, weights, arguments)
        if self.from_logits:
            best = np.log(best) if self.has_classes else np.log(best) - np.log1p(-best)
        return best.reshape([shape[axis] for axis in axes])

    def _spread(self) -> tuple[Array, Array]:
        """Targets and weights in the shape of the predictions."""
        targets, shape = self.targets, self.shape
        if targets.ndim == len(shape) - 1 and shape[-1] == 1:
            targets = targets[..., None]
        weights = np.expand_dims(self._positions(), self.class_axis)
        return np.broadcast_to(targets, shape), np.broadcast_to(weights, shape)

    def _counted(self) -> tuple[Array, Array]:
        """Each class once, and how often: rows of zeros and ones would need much memory."""
        weights, classes = self._positions(), self.shape[self.class_axis]
        labels = self.targets.reshape(weights.shape)
        counts = labels != self.arguments.get("ignore_class")
        found = np.bincount(labels[counts].astype(int), weights[counts], classes)
        return found[None], np.ones((1, classes))

    def _positions(self) -> Array:
        """The weights, one for each value of the loss."""
        axis, weights = self.class_axis, self.weights
        shape = (*self.shape[:axis], *self.shape[axis + 1 :])
        if weights.ndim == len(shape) + 1 and weights.shape[-1] == 1:
            weights = weights[..., 0]
        weights = weights.reshape(weights.shape + (1,) * (len(shape) - weights.ndim))
        return np.broadcast_to(weights, shape)


def _rows(values: Array, axes: Sequence[int]) -> Array:
    """In a matrix, what stands along these axes in the columns."""
    last = range(values.ndim - len(axes), values.ndim)
    moved = np.moveaxis(values, axes, last)
    return moved.reshape(-1, math.prod(values.shape[axis] for axis in axes))


def compared(
    model: keras.Model, y: Any, outputs: Any, sample_weight: Any = None
) -> list[Compared]:
    """What the losses of a compiled model compare its outputs with, of what `fit` takes.

    An output with several losses is there several times, one without a loss not at all.
    """
    y, sample_weight = (
        keras.tree.map_structure(
            lambda values: None if values is None else float64(values), one
        )
        for one in (y, sample_weight)
    )
    places = {id(one): i for i, one in enumerate(keras.tree.flatten(outputs))}
    return [
        Compared(
            found.output,
            places[id(found.y_pred)],
            found.loss,
            *_known(found.loss),
            np.asarray(found.y_true),
            found.y_pred,
            np.ones(1) if found.sample_weight is None else found.sample_weight,
        )
        for found in private_keras.comparisons(model, y, outputs, sample_weight)
        if id(found.y_pred) in places
    ]


class Head(NamedTuple):
    """Where an output comes from: the last call that adds a bias, or has a kernel."""

    call: Call
    biases: tuple[OwnedWeight, ...]  # one, or what is there in its place
    after: tuple[Call, ...]  # what follows, in order

    @property
    def functions(self) -> list[Callable[[Any], Any]]:
        """What is applied to the sum with the bias, in order."""
        own = getattr(self._layer, "activation", None)
        applied = [*filter(callable, [own]), *(call.function for call in self.after)]
        # A layer's `__call__` casts to its own type.
        return [getattr(function, "call", function) for function in applied]

    @property
    def layers(self) -> list[keras.Layer]:
        """Those that apply a function to the sum with the bias."""
        later = [call.operation for call in self.after]
        return [one for one in (self._layer, *later) if isinstance(one, keras.Layer)]

    @property
    def _layer(self) -> Any:
        """The innermost layer that adds the bias; `None` where an operation adds it."""
        if not isinstance(self.call.operation, keras.Layer):
            return None
        return self.biases[0].layer if self.biases else self.call.operation

    @property
    def activations(self) -> list[str]:
        """The names of those that are not linear, in order."""
        own = activation_of(self._layer) if self._layer else self.call.activation
        return [name for name in (own, *(call.activation for call in self.after)) if name]


def head_of(graph: Graph, place: int, weights: Sequence[OwnedWeight]) -> Head | None:
    """The head of an output of a model; `None` if nobody knows where it comes from."""
    if place >= len(graph.outputs):
        return None
    owned = {id(one.variable): one for one in weights}
    call = graph.outputs[place]
    after: list[Call] = []
    while not (call.weights and (call.has_kernel or _biases(call, owned))):
        if len(call.signals) != 1 or call.operation is None:
            return Head(call, (), tuple(after))
        after.insert(0, call)
        call = call.signals[0]
    return Head(call, _biases(call, owned), tuple(after))


def _biases(call: Call, owned: dict[int, OwnedWeight]) -> tuple[OwnedWeight, ...]:
    """Those that a call adds to what it gives; the one of a recurrent cell is inside it."""
    layer = call.operation
    if isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)):
        return ()
    if isinstance(layer, keras.Layer):
        found = [owned[id(one.variable)] for one in weights_within(layer)]
    else:
        found = [owned[id(one)] for one in call.weights if id(one) in owned]
    return tuple(one for one in found if role(one) is Role.BIAS)
