"""Scales a model's kernels by what their layers give on a batch."""

import contextlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import choice, fail, positive
from keras_fanwise.backends.arrays import (
    dtype_name,
    float64,
    is_concrete,
    moments,
    snapshot,
)
from keras_fanwise.backends.private_keras import all_layers, own_variables
from keras_fanwise.backends.tap import LayerCall, kept_state, random_state, tapped
from keras_fanwise.diagnostics.batches import batch_for, first_batch, given
from keras_fanwise.fans.layers import known_matrices, unit_axes
from keras_fanwise.graph.graph import Arguments
from keras_fanwise.initializers.variance_scaling import FanwiseSiren
from keras_fanwise.models.initialize import all_or_none, left_out, untouchable
from keras_fanwise.reports.weights import CalibratedWeight, CalibrationReport
from keras_fanwise.seam.record import weight_initializers
from keras_fanwise.seam.weights import OwnedWeight, Role, has_kernel, owned_weights, role

# Of a layer that follows its kernel, what comes out differs from what was asked for by
# rounding alone: in bfloat16, which has 8 bits, by less than this.
_ROUNDING = 0.02


class _Pass:
    """One in which layers run with scaled kernels, by layer or by unit.

    The scaled values stand in a stateless scope: the model's own are as before.
    """

    def __init__(self, std: float, by: str) -> None:
        self._std, self._by = std, by
        # Of the kernels of layers that were called, in the order of the calls.
        self.rows: dict[keras.Layer, CalibratedWeight] = {}

    def run(
        self, model: keras.Layer, kernels: Sequence[OwnedWeight], batch: Arguments
    ) -> list[tuple[keras.Variable, Any]]:
        """Sends a batch through the model; gives the scaled weights with their values."""
        uncalled = {owned.layer: owned for owned in kernels}

        def called(call: LayerCall) -> Any:
            owned = uncalled.pop(call.layer, None)  # at its first call
            return call.output() if owned is None else self._calibrated(owned, call)

        with keras.StatelessScope() as scope, tapped(list(uncalled), called):
            model(*batch.positional, training=True, **batch.named)
        return [
            (variable, scope.get_current_value(variable))
            for owned in kernels
            if owned.layer in self.rows and self.rows[owned.layer].status == "scaled"
            for variable in _kernel_and_bias(owned)
        ]

    def _calibrated(self, owned: OwnedWeight, call: LayerCall) -> Any:
        """What the layer gives, with a kernel that is scaled if it can be.

        The layer runs with the kernel as it is, and again if that is scaled, to tell
        whether what it gives has followed.
        """
        row = self.rows[call.layer] = _row(owned)  # the layers inside come after it
        variables = _kernel_and_bias(owned)
        old = [snapshot(variable) for variable in variables]
        states = call.layer.non_trainable_variables  # and weights of a frozen layer
        restore = random_state([s for s in states if all(s is not v for v in variables)])

        def undo() -> None:
            for variable, values in zip(variables, old, strict=True):
                variable.assign(values)

        output, activated = call.outputs()
        tensor, place = _before_activation(output, activated)
        if place is None and any(is_concrete(taken) for taken, _ in activated):
            # An activation that is not the end may stand before the kernel: what follows a
            # kernel that is doubled comes after it.
            _multiply(variables, 2.0)
            restore()
            doubled = call.outputs()[1]
            undo()
            for number, ((one, _), (two, _)) in enumerate(
                zip(activated, doubled, strict=False)
            ):
                if _is_near(moments(two).std, 2 * moments(one).std):
                    tensor, place = one, number
        before = None
        if tensor is None or "float" not in dtype_name(tensor):
            reason = "its layer gives no single tensor of a float type"
        elif not is_concrete(tensor):
            reason = "called in compiled code"
        else:
            before = moments(tensor).std
            reason = self._obstacle(owned, tensor.shape, before)
        row = self.rows[call.layer] = row._replace(before=before, reason=reason)
        if reason or before is None:
            return output
        if self._by == "layer":
            factor, expected = self._std / before, self._std
            _multiply(variables, factor)
        else:
            factor, expected = self._scale_units(variables, owned, float64(tensor))
        restore()
        scaled, activated = call.outputs()
        after = moments(_before_activation(scaled, activated, place)[0]).std
        if _is_near(after, expected):
            row = row._replace(factor=factor, after=after, status="scaled")
        else:
            undo()
            scaled = output
            row = row._replace(reason="the output of its layer does not scale with it")
        self.rows[call.layer] = row
        return scaled

    def _obstacle(self, owned: OwnedWeight, shape: Sequence[int], before: float) -> str:
        """Why a kernel is kept with which its layer gave this; `""` if it is scaled."""
        if not float64(owned.variable.value).any():
            return "it is 0"
        if before == 0 or not math.isfinite(before):
            return "the output of its layer is constant or not finite"
        if self._by == "layer":
            return ""
        matrices = _matrices(owned)
        if matrices is None or matrices.unit_axes is None:
            return "the units of its layer are not known"
        units = [shape[axis] for axis in unit_axes(owned.layer, matrices, len(shape))]
        _, *biases = _kernel_and_bias(owned)
        shared = any(math.prod(bias.shape) != math.prod(units) for bias in biases)
        return "several units share its bias" if shared else ""

    def _scale_units(
        self, variables: Sequence[keras.Variable], owned: OwnedWeight, raw: np.ndarray
    ) -> tuple[float, float]:
        """Scales each unit in the scope, and centres it if it has a bias.

        Gives the median of the factors, and the deviation that the layer gives with them.
        """
        matrices, (kernel, *biases) = _matrices(owned), variables
        axes = unit_axes(owned.layer, matrices, raw.ndim)
        units = np.moveaxis(raw, axes, range(len(axes)))
        rest = tuple(range(len(axes), raw.ndim))
        means, stds = units.mean(axis=rest), units.std(axis=rest)
        factors: np.ndarray = np.ones_like(stds)
        np.divide(self._std, stds, out=factors, where=stds > 0)
        between = 0.0 if biases else float(np.var(factors * means))
        for bias in biases:
            _assign(bias, factors * (float64(bias.value).reshape(means.shape) - means))
        matrix = float64(kernel.value).reshape(matrices.shape)
        _assign(kernel, matrix * matrices.unit_factors(factors))
        expected = math.sqrt(float(np.mean((factors * stds) ** 2)) + between)
        return float(np.median(factors)), expected


def _before_activation(
    output: Any, activated: Sequence[tuple[Any, Any]], place: int | None = None
) -> tuple[Any, int | None]:
    """What goes into the activation whose result the layer gives, and which call that is.

    Of a layer that gives no such result, that itself if it is one tensor.
    """
    tensors = keras.tree.flatten(output)
    if place is None:
        given = (n for n, (_, after) in enumerate(activated) for t in tensors if t is after)
        place = next(given, None)
    if place is not None:
        return activated[place][0], place
    is_single = len(tensors) == 1 and keras.ops.is_tensor(tensors[0])
    return (tensors[0] if is_single else None), None


def _is_near(std: float, expected: float) -> bool:
    return abs(std - expected) <= _ROUNDING * expected


def _multiply(variables: Sequence[keras.Variable], factor: float) -> None:
    for variable in variables:
        _assign(variable, float64(variable.value) * factor)


def _row(owned: OwnedWeight, reason: str = "") -> CalibratedWeight:
    shape = tuple(owned.variable.shape)
    layer = type(owned.layer).__name__
    return CalibratedWeight(owned.variable.path, layer, shape, reason=reason)


def _kernel_and_bias(owned: OwnedWeight) -> list[keras.Variable]:
    """The bias, if there is one, is added to what the kernel gives."""
    biases = (one for one in own_variables(owned.layer) if one.name == "bias")
    return [owned.variable, *itertools.islice(biases, 1)]


def _assign(variable: keras.Variable, values: np.ndarray) -> None:
    # JAX knows no float64 by default, and NumPy no bfloat16.
    dtype = keras.backend.standardize_dtype(variable.dtype)
    rounded = values if dtype == "float64" else values.astype("float32")
    shaped = rounded.reshape(tuple(variable.shape))
    variable.assign(keras.ops.convert_to_tensor(shaped, dtype))


def _matrices(owned: OwnedWeight) -> Any:
    """Those of which the kernel of a layer of Keras is made; `None` if nobody knows."""
    variable = owned.variable
    return known_matrices(owned.layer, variable.name, tuple(variable.shape))


BY = ("layer", "unit")


def calibrate(
    model: keras.Layer,
    x: Any = None,
    *,
    std: float = 1.0,
    by: str = "layer",
    only: str | Sequence[str] | None = None,
    dry_run: bool = False,
) -> CalibrationReport:
    """Scales each kernel so that the output of its layer, before activation, has this std.

    A batch is sent through the model once. At the first call of each layer that has a
    kernel, the kernel and its bias are multiplied by `std` over the standard deviation of
    the layer's output before its activation; the layers after it see the scaled output, so
    that one pass is enough. For that such a layer runs twice at its first call: with its
    kernel as it was, and scaled, both times with the same random numbers; a layer of your
    own that does something after its activation runs a third time, to tell whether the
    kernel comes before that. All others run once. The model runs as in training, from the
    same random state at every call of this function, and no random state moves. Of a
    separable convolution the pointwise kernel is scaled.

    Kept, and listed with the reason, are kernels that are 0 or shared by several layers;
    kernels of recurrent cells, of layers that are quantized or adapted or that normalize
    their kernel, and of a layer or model that holds other layers with kernels; those by
    `FanwiseSiren`, as the sine after them multiplies by its `omega`; kernels with which the
    output of the layer does not scale; and matrices of your own layers that are not
    recognized as kernels (see `Rule` for roles). Nothing is written before the pass has
    ended well; after any exception all weights are as before. The state of an optimizer is
    left alone.

    Args:
        model: a built model, or a built layer.
        x: a batch as the model takes it, in arrays, tensors, nested lists of numbers or a
            pandas `DataFrame`; a `keras.utils.PyDataset`, a `tf.data.Dataset` or another
            iterable that gives batches, of which the first is taken; or `None`, for a
            random batch as `signal` draws it. On real data give some hundred samples
            or more: the deviation on other samples differs by the sampling error.
        std: a number above 0.
        by: `"layer"` scales all units of a layer by one factor. `"unit"` scales each unit
            by its own, and centres it where the layer has a bias. Units are known for
            Keras's own dense, einsum and convolutional layers.
        only: a glob on the paths of the kernels to scale, or a list of them; see `Rule`.
        dry_run: whether only to return the report.

    Returns:
        A `CalibrationReport` of every kernel: print it, or read its `rows`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `model` is not built or has no kernels, a glob meets no kernel, `std` is
            not above 0, `by` is unknown, or `x` is empty, all 0, not finite or of another
            shape than the model takes, or not given and the model does not say that.

    References: Mishkin and Matas 2016, "All you need is a good init",
    <https://arxiv.org/abs/1511.06422>, algorithm 1, which runs the network again for each
    layer; by unit, Krähenbühl et al. 2016, <https://arxiv.org/abs/1511.06856>, section 3.1.

    Example: Glorot's kernels, on the way through ReLUs.

    >>> import keras
    >>> from keras import layers
    >>> keras.utils.set_random_seed(0)
    >>> glorot = "fanwise_glorot_uniform"
    >>> dense = [layers.Dense(512, "relu", kernel_initializer=glorot) for _ in range(3)]
    >>> model = keras.Sequential([keras.Input((512,)), *dense])
    >>> report = calibrate(model)
    >>> [round(row.factor, 1) for row in report.rows]
    [1.0, 1.4, 1.4]
    """
    std, by = positive("std", std), choice("by", by, BY)
    kernels = [owned for owned in owned_weights(model) if role(owned).is_matrix]
    if not kernels:
        raise fail(ValueError, "model", "one that has kernels", model)
    reasons = _reasons(model, kernels, only)
    scaling = _Pass(std, by)
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_state(model))
        if x is None:
            batch = stack.enter_context(batch_for(model))
        else:
            batch = Arguments((given(model, first_batch(model, x)[0]),), {})
        free = [owned for owned, reason in zip(kernels, reasons, strict=True) if not reason]
        values = scaling.run(model, free, batch)
    if not dry_run:
        with all_or_none() as write:
            for variable, value in values:
                write(variable, value)
    rows = [
        _row(owned, reason or "its layer was not called")
        for owned, reason in zip(kernels, reasons, strict=True)
        if reason or owned.layer not in scaling.rows
    ]
    return CalibrationReport([*scaling.rows.values(), *rows], name=model.name)


def _reasons(model: keras.Layer, kernels: Sequence[OwnedWeight], only: Any) -> list[str]:
    """Why each kernel is kept, as far as that is known beforehand; or `""`."""
    # A wrapper may have the kernel of its layer as an attribute of its own.
    owners: Counter[int] = Counter()
    for layer in all_layers(model):
        inner = {id(weight) for sub in all_layers(layer)[1:] for weight in sub.weights}
        owners.update({id(weight) for weight in own_variables(layer)} - inner)
    names: dict[keras.Layer, list[str]] = defaultdict(list)
    for owned in kernels:
        if role(owned) is Role.KERNEL:
            names[owned.layer].append(owned.variable.name)
    left = left_out(only, [owned.variable.path for owned in kernels])
    starts = weight_initializers(kernels)
    return [
        reason or _reason(owned, start, names[owned.layer], owners[id(owned.variable)] > 1)
        for owned, start, reason in zip(kernels, starts, left, strict=True)
    ]


def _reason(owned: OwnedWeight, start: Any, names: Sequence[str], is_shared: bool) -> str:
    """Of a kernel, given its initializer, and the names of all kernels of its layer."""
    layer, holders = owned.layer, owned.holders
    untouched = untouchable(layer)
    is_siren = isinstance(start, FanwiseSiren)
    is_recurrent = any(isinstance(holder, keras.layers.RNN) for holder in holders)
    normalizes = any(isinstance(one, keras.layers.SpectralNormalization) for one in holders)
    holds_others = any(map(has_kernel, all_layers(layer)[1:]))
    is_separable = {*names} == {"depthwise_kernel", "pointwise_kernel"}
    is_depthwise = is_separable and owned.variable.name == "depthwise_kernel"
    reasons = (
        (is_siren, "FanwiseSiren gave it the scale that its sine is for"),
        (is_recurrent or "recurrent_kernel" in names, "of a recurrent cell"),
        (untouched, untouched),
        ("float" not in str(owned.variable.dtype), "quantized"),
        (getattr(layer, "lora_enabled", False), "adapted"),
        (role(owned) is not Role.KERNEL, "not recognized as a kernel"),
        (normalizes, "normalized at every call"),
        (is_shared, "several layers share it"),
        (holds_others, "its layer holds others with kernels"),
        (is_depthwise, "the pointwise one is scaled"),
        (len(names) > 1 and not is_separable, "its layer has several kernels"),
    )
    return next((reason for applies, reason in reasons if applies), "")
