"""Kernels of such a scale that what each layer gives has one standard deviation."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import choice, fail, glob_matches, globs_of, positive
from keras_fanwise.backends.kept_state import kept_state
from keras_fanwise.backends.private_keras import all_layers, own_variables
from keras_fanwise.diagnostics.anatomy import has_kernel
from keras_fanwise.diagnostics.batches import Arguments, batch_for, given
from keras_fanwise.models.scaling_pass import ScalingPass
from keras_fanwise.models.writing import all_or_none
from keras_fanwise.reports.calibration_report import CalibrationReport
from keras_fanwise.seam.owners import FIXED_KERNELS, OwnedWeight, owned_weights

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
    """Scales each kernel so that what its layer gives before its activation has this std.

    A batch is sent through the model once. At the first call of each layer that has a
    kernel, the kernel and its bias are multiplied by `std` over the standard deviation of
    what the layer gives, before its activation; the layers behind it see the scaled output,
    so that one pass is enough. The model runs as in training. Of a separable convolution
    the pointwise kernel is scaled.

    Kept, and listed with the reason, are kernels that are 0, kernels of recurrent cells, of
    layers that are quantized, adapted or normalize their kernel, those that several layers
    share, those of a layer or model that holds other layers with kernels, and those with
    which what the layer gives does not scale. In layers of one's own a matrix is a kernel
    if it is called so, or has as many rows as the layer was built for input units; others
    are kept. Nothing is written before the pass has ended well; after any exception all
    weights are as before. The state of an optimizer is left alone.

    Args:
        model: a built model, or a built layer.
        x: a batch as the model takes it; a `keras.utils.PyDataset`, a `tf.data.Dataset` or
            another iterable that gives batches, of which the first is taken; or `None`,
            for a random batch as `signal` draws it. On real data give some hundred samples
            or more: the deviation on other samples differs by the sampling error.
        std: a number above 0.
        by: `"layer"` scales all units of a layer by one factor. `"unit"` scales each unit
            by its own, and centres it where the layer has a bias. Units are those of
            Keras's own dense, einsum and convolutional layers.
        only: a glob on the paths of the kernels to scale, or a list of them; see `Rule`.
        dry_run: whether only to return the report.

    Returns:
        A `CalibrationReport` of every kernel: print it, or read its `rows`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `model` is not built or has no kernels, a glob meets no kernel, `std` is
            not above 0, `by` is unknown, or `x` is empty, all 0 or not finite, or not
            given and the model does not say what it takes.

    References: Mishkin and Matas 2016, "All you need is a good init",
    <https://arxiv.org/abs/1511.06422>, algorithm 1, which runs the network anew for each
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
    kernels = [owned for owned in owned_weights(model) if owned.is_matrix]
    if not kernels:
        raise fail(ValueError, "model", "one that has kernels", model)
    paths = [owned.variable.path for owned in kernels]
    globs = None if only is None else globs_of("only", only, paths)
    reasons = _reasons(model, kernels, globs)
    calibration = ScalingPass(kernels, reasons, std, by)
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_state(model))
        if x is None:
            batch = stack.enter_context(batch_for(model))
        else:
            batch = Arguments((_first_batch(x),), {})
        calibration.run(model, batch)
    if not dry_run:
        with all_or_none() as write:
            for variable, values in calibration.values:
                write(variable, values)
    return CalibrationReport(calibration.rows(), name=model.name)


def _first_batch(x: Any) -> Any:
    """The inputs of a batch, as tensors."""
    if isinstance(x, keras.utils.PyDataset):
        x = keras.utils.unpack_x_y_sample_weight(x[0])[0]
    elif not keras.ops.is_tensor(x) and not isinstance(x, (np.ndarray, list, tuple, dict)):
        if not isinstance(x, Iterable):
            raise fail(TypeError, "x", "a batch, a dataset of batches, or None", x)
        batch = next(iter(x), None)
        if batch is None:
            raise fail(ValueError, "x", "a dataset of one batch or more", x)
        x = keras.utils.unpack_x_y_sample_weight(batch)[0]
    return given(x)


def _reasons(
    model: keras.Layer, kernels: Sequence[OwnedWeight], globs: Sequence[str] | None
) -> list[str]:
    """Why each kernel is kept, as far as that is known beforehand; or `""`."""
    owners = Counter(
        id(variable) for layer in all_layers(model) for variable in own_variables(layer)
    )
    names: dict[int, set[str]] = {}
    for owned in kernels:
        if owned.is_kernel:
            names.setdefault(id(owned.layer), set()).add(owned.variable.name)
    return [
        _reason(owned, names.get(id(owned.layer), set()), owners[id(owned.variable)], globs)
        for owned in kernels
    ]


def _reason(
    owned: OwnedWeight, names: set[str], owners: int, globs: Sequence[str] | None
) -> str:
    layer, variable = owned.layer, owned.variable
    if globs and not any(glob_matches(glob, variable.path) for glob in globs):
        return "not in `only`"
    if not owned.is_kernel:
        return "it may be no kernel: its name does not end so"
    if any(isinstance(holder, keras.layers.RNN) for holder in owned.holders) or (
        "recurrent_kernel" in names
    ):
        return "of a recurrent cell"
    if getattr(layer, "quantization_mode", None) or "float" not in str(variable.dtype):
        return "quantized"
    if hasattr(layer, "adapt") or getattr(layer, "lora_enabled", False):
        return "adapted"
    if isinstance(layer, FIXED_KERNELS):
        return "it is not learned"
    if any(isinstance(each, keras.layers.SpectralNormalization) for each in owned.holders):
        return "normalized at every call"
    if owners > 1:
        return "several layers share it"
    if any(map(has_kernel, all_layers(layer)[1:])):
        return "its layer holds others with kernels"
    if names == {"depthwise_kernel", "pointwise_kernel"}:
        return "" if variable.name == "pointwise_kernel" else "the pointwise one is scaled"
    return "" if len(names) == 1 else "its layer has several"
