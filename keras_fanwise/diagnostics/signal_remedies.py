"""What to change where a signal vanishes or explodes, by what was found."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from keras_fanwise.diagnostics.anatomy import own_gain
from keras_fanwise.reports.signal_report import Trend, Verdict

# What these give is nearly constant, of any scale: no gain brings a signal through them.
_FLAT = ("sigmoid", "hard_sigmoid", "log_sigmoid", "softplus", "softmax", "log_softmax")
# Initializers by name for the gains that have one.
_NAMED = {"relu": "fanwise_he_normal", "relu6": "fanwise_he_normal"}
_NAMED |= {"selu": "fanwise_lecun_normal"}


class Step(NamedTuple):
    """What a kernel multiplies the signal by, and the layer that has it."""

    ratio: float
    path: str


def remedy(
    verdict: Verdict,
    trend: Trend,
    largest: Step,
    steps: Sequence[Step],
    activations: Sequence[str],
    branches: Callable[[], int],
) -> str:
    """What to change.

    Args:
        verdict: vanishing or exploding.
        trend: of the signal.
        largest: the step that does the most of it.
        steps: all of them.
        activations: of the hidden layers that have one.
        branches: counts the residual ones.
    """
    if _is_a_jump(trend, largest, len(steps)):
        return (
            f"look at the weights of {largest.path}, which does most of it: audit(model) "
            "tells whether their scale fits the layer"
        )
    if verdict is Verdict.EXPLODING and (count := branches()) > 1:
        return (
            f"let the {count} residual branches begin small: initialize(model, recipe, "
            'residual="depth") divides the last weight of each by the square root of their '
            'number, and residual="zero" sets it to 0; or normalize in each branch'
        )
    name = Counter(activations).most_common(1)[0][0] if activations else "linear"
    if name in _FLAT:
        return (
            f"put a normalization behind the layers with {name}, or choose another "
            "activation: what it gives is nearly constant, whatever the weights"
        )
    gain = own_gain(name)
    if gain is not None:
        return (
            "let calibrate(model, x) scale the kernels, or write "
            f"kernel_initializer=FanwiseVarianceScaling({gain}) for the hidden "
            f"layers: their activation, {name}, is none of Keras's"
        )
    return (
        f"write kernel_initializer={_initializer(name)} for the hidden layers: the gain of "
        f"their activation, {name}"
    )


def _initializer(activation: str) -> str:
    if activation == "linear":
        return '"fanwise_lecun_normal"'
    if activation in _NAMED:
        return f'"{_NAMED[activation]}"'
    return f'FanwiseVarianceScaling(gain("{activation}") ** 2)'


def _is_a_jump(trend: Trend, largest: Step, steps: int) -> bool:
    """Whether one step of several does most of what all of them do."""
    if not trend.total or not largest.ratio:
        return True
    share = math.log(largest.ratio) / math.log(trend.total)
    return trend.rate is None and steps > 1 and share > 0.6
