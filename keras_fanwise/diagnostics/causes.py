"""What is likely to have led to a finding, and what to write in its place."""

import inspect
from typing import Any

from keras_fanwise.diagnostics.anatomy import activation_of, own_gain
from keras_fanwise.diagnostics.measured import MeasuredWeight
from keras_fanwise.fans.keras_rule import keras_fans
from keras_fanwise.initializers.counterparts import counterpart
from keras_fanwise.initializers.registration import CLASSES
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling
from keras_fanwise.naming import snake_case
from keras_fanwise.seam.record import initializer_attributes, initializer_name

REPLACED = "its values are not those that its initializer draws"

_RECTIFIERS = ("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "swish", "mish")


def miscounted(weight: MeasuredWeight) -> str:
    """What Keras's rule, by which its initializer counts, does not know of the layer."""
    layer, name = weight.owned.layer, weight.name
    kinds = {cls.__name__ for cls in type(layer).__mro__}
    if any("Depthwise" in cls for cls in kinds) or name == "depthwise_kernel":
        what = "all channels as inputs of each"
    elif any("Transpose" in cls for cls in kinds):
        what = "inputs for outputs, and no strides"
    elif "units" in vars(layer) and "recurrent_initializer" in vars(layer):
        what = "all gates as one matrix"
    elif "recurrent_initializer" in vars(layer):
        what = "all gates as one kernel, and no strides"
    elif getattr(layer, "groups", 1) != 1:
        what = "all groups as one"
    elif weight.is_lookup:
        what = "all rows, of which a token reads one"
    elif hasattr(layer, "strides"):
        what = "no strides"
    elif hasattr(layer, "equation"):
        what = "the labels that inputs and outputs share"
    else:
        what = "by the shape alone"
    return f"{initializer_name(weight.initializer)} counts {what}"


def counts(weight: MeasuredWeight) -> str:
    """Keras's fans and those of the layer."""
    theirs = keras_fans(weight.owned.layer, weight.name, weight.values.shape)
    own = f"{weight.fans.fan_in:g} and {weight.fans.fan_out:g}"
    return f"fans {theirs.fan_in:g} and {theirs.fan_out:g} in place of {own}"


def cause_of(weight: MeasuredWeight, departed: bool) -> str:
    """Why the deviation of a weight is what it is."""
    if weight.initializer is None:
        return "its initializer is unknown"
    if departed:
        return REPLACED
    if weight.miscount != 1.0:
        return miscounted(weight)
    return f"{initializer_name(weight.initializer)} gives it so"


def replacement(weight: MeasuredWeight) -> Any:
    """An initializer, by name if it has one, with which a weight starts well.

    Of the scale and distribution of its own, if that knows fans and its scale is fair.
    """
    if weight.is_bias:
        return "zeros"
    if weight.is_gamma:
        return "ones"
    ours = _own(weight)
    if ours is not None:
        name = snake_case(type(ours).__name__)
        if type(ours) is not FanwiseVarianceScaling and type(ours) in CLASSES:
            return name
        return FanwiseVarianceScaling(ours.scale, ours.mode, ours.distribution)
    rectified = activation_of(weight.owned.layer) in _RECTIFIERS
    return "fanwise_he_normal" if rectified else "fanwise_glorot_uniform"


def _own(weight: MeasuredWeight) -> FanwiseVarianceScaling | None:
    """What it was given, as this package's, if that knows fans and its scale is fair."""
    given = weight.initializer
    ours = given if isinstance(given, FanwiseVarianceScaling) else counterpart(given)
    return ours if weight.has_fair_scale else None


def _gain(weight: MeasuredWeight) -> str:
    """Where the scale is known from that an activation of the user's own needs."""
    if weight.is_bias or weight.is_gamma or _own(weight) is not None:
        return ""
    gain = own_gain(activation_of(weight.owned.layer) or "linear")
    return (
        f"; the scale for its activation is {gain}, or calibrate(model, x)'s"
        if gain
        else ""
    )


def remedy_of(weight: MeasuredWeight, departed: bool) -> str:
    """What to write, in words: the argument of the layer and the initializer."""
    new = replacement(weight)
    shown = f'"{new}"' if isinstance(new, str) else repr(new)
    if departed:
        return f"draw it anew by {shown}, as initialize(model, report.remedies()) does"
    argument = _argument(weight)
    retrofit = ", or build inside retrofit()" if weight.miscount != 1.0 else ""
    return f"write {argument}={shown}{retrofit}{_gain(weight)}"


def _argument(weight: MeasuredWeight) -> str:
    """The argument of the layer, or of one that holds it, that holds the initializer."""
    owned = weight.owned
    stem = weight.name.rsplit("/", 1)[-1]
    names = [name.lstrip("_") for name in initializer_attributes(owned)]
    names = sorted(names, key=lambda name: not name.startswith(stem))
    for name in [*names, f"{stem}_initializer"]:
        for layer in reversed(owned.holders):
            if name in inspect.signature(type(layer).__init__).parameters:
                return name
    return "initializer"
