"""Whether what changes with depth does so at a rate."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median_high, median_low
from typing import NamedTuple

import keras

from keras_fanwise.diagnostics.statistics import limit
from keras_fanwise.graph.branches import residual_branches
from keras_fanwise.graph.graph import Graph
from keras_fanwise.reports.diagnosis import (
    LayerSignal,
    SignalFinding,
    SignalReport,
    Trend,
    Verdict,
    trend_text,
)
from keras_fanwise.seam.weights import Role, role, weights_within

# A signal that changes by more than this over the depth vanishes or explodes.
_LIMIT = 100.0
# A rate is told of so many hidden kernels or more,
_ENOUGH = 5
# and if half of the steps are about of its size, within this factor. What the first and the
# last value alone support, such as a single jump, is no rate.
_SUPPORTED = 1.25
# A step is one kernel long, or as long as a residual branch, whose kernels differ.
_LONGEST = 3


def rate(depths: Sequence[int], values: Sequence[float]) -> float | None:
    """By what each layer multiplies, if the values support that there is such a number.

    It is the last value by the first, to the power of 1 / layers, as of a random walk.
    `None` of fewer than five depths, and where neither the median of the steps nor that of
    steps over two or three layers is within a factor of 1.25 of it.

    Example:

    >>> rate([1, 2, 3, 4, 5], [16.0, 8.0, 4.0, 2.0, 1.0])
    0.5
    >>> rate([1, 2], [1.0, 0.25]), rate([1, 2, 3, 4, 5, 6], [9.0, 9.0, 9.0, 1.0, 1.0, 1.0])
    (None, None)
    """
    if len(depths) < _ENOUGH:
        return None
    logarithms = [math.log(value) for value in values]
    layers = abs(depths[-1] - depths[0])
    slope = (logarithms[-1] - logarithms[0]) / layers
    pairs = list(zip(depths, logarithms, strict=True))
    for length in range(1, _LONGEST + 1):
        steps = [
            (after - before) / abs(there - here)
            for (here, before), (there, after) in zip(pairs, pairs[length:], strict=False)
        ]
        middle = median_low(steps), median_high(steps)
        if all(abs(step - slope) <= math.log(_SUPPORTED) for step in middle):
            return math.exp(slope)
    return None


# What these give is nearly constant, of any scale: no gain brings a signal through them.
_FLAT = ("sigmoid", "hard_sigmoid", "log_sigmoid", "softplus", "softmax", "log_softmax")
# Initializers by name for the gains that have one.
_NAMED = {"relu": "fanwise_he_normal", "relu6": "fanwise_he_normal"}
_NAMED |= {"selu": "fanwise_lecun_normal"}


class KernelRatio(NamedTuple):
    """What a kernel multiplies the signal by, and the layer that has it."""

    ratio: float
    path: str


def remedy(
    verdict: Verdict,
    trend: Trend,
    largest: KernelRatio,
    steps: Sequence[KernelRatio],
    activations: Sequence[str],
    graph: Graph,
) -> str:
    """What to change, from all steps, the largest of them and the hidden activations."""
    if _is_a_jump(trend, largest, len(steps)):
        return (
            f"look at the weights of {largest.path}, which does most of it: audit(model) "
            "tells whether their scale fits the layer"
        )
    exploding = verdict is Verdict.EXPLODING
    if exploding and (count := len(residual_branches(graph))) > 1:
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


def own_gain(activation: str) -> str | None:
    """How the scale is written for an activation that is none of Keras's."""
    if not activation or hasattr(keras.activations, activation):
        return None
    known = activation if activation.isidentifier() else "activation"
    return f"gain({known}) ** 2"


def _initializer(activation: str) -> str:
    if activation == "linear":
        return '"fanwise_lecun_normal"'
    if activation in _NAMED:
        return f'"{_NAMED[activation]}"'
    return f'FanwiseVarianceScaling(gain("{activation}") ** 2)'


def _is_a_jump(trend: Trend, largest: KernelRatio, steps: int) -> bool:
    """Whether one step of several does most of what all of them do."""
    if not trend.total or not largest.ratio:
        return True
    share = math.log(largest.ratio) / math.log(trend.total)
    return trend.rate is None and steps > 1 and share > 0.6


# The share of healthy models in which chance makes a layer look dead.
_FALSE_ALARMS = 0.001
# How many kernels a residual branch has, if it is long.
_BRANCH = 6
# A rate is told if what the rows at its ends show per layer is within this factor of it.
_SHOWN = 1.5


class _HiddenDepth(NamedTuple):
    """A hidden depth: the row of its kernel, and the row of what it passes on."""

    kernel: LayerSignal
    row: LayerSignal


class _Profile(NamedTuple):
    """The hidden layers in the order in which a signal comes through them.

    `stds` has the standard deviation at each: positive, or 0 where it does not come.
    """

    name: str
    points: list[_HiddenDepth]
    stds: list[float]


def judge(
    rows: Sequence[LayerSignal],
    layers: Sequence[keras.Layer],
    graph: Graph,
    *,
    name: str = "",
) -> SignalReport:
    """The report of what was measured: of each call of a layer its row, and the layer."""
    deviations = limit(_FALSE_ALARMS, len(rows))
    chosen = _chosen_zeros(rows, layers)
    rows = [
        row._replace(verdicts=() if zero else _verdicts(row, deviations))
        for row, zero in zip(rows, chosen, strict=True)
    ]
    explained = any(chosen) or any(row.dead == 1 for row in rows)
    findings = list(_local(rows))
    directions = ("forward", "backward")
    profiles = [_profile(direction, rows, explained, graph) for direction in directions]
    if not all(math.isfinite(row.std) for row in rows):
        profiles[1] = _Profile("backward", [], [])  # gradients tell nothing then
    trends = {}
    for profile in profiles:
        trend = _trend(profile, rows, graph)
        found = list(_of_trend(profile, trend, rows, layers, graph)) if trend else []
        findings += found
        trends[profile.name] = trend and _clear(trend, profile.name, rows, found)
    return SignalReport(rows, trends["forward"], trends["backward"], findings, name=name)


def _verdicts(row: LayerSignal, deviations: float) -> tuple[Verdict, ...]:
    if not math.isfinite(row.std) or not math.isfinite(row.gradient_std or 0.0):
        return (Verdict.NON_FINITE,)
    by_chance = 0.5 + 0.5 * deviations / math.sqrt(row.units)
    return (Verdict.DEAD,) if row.dead == 1 or row.dead > by_chance else ()


def _chosen_zeros(rows: Sequence[LayerSignal], layers: Sequence[keras.Layer]) -> list[bool]:
    """Of each row, whether it is 0 by choice: the end of a branch, or of the model.

    A kernel or a γ of 0 is such a choice if another branch goes on beside it, or nothing
    behind it; what follows it before the next kernel is 0 with it.
    """
    last = max((row.depth for row in rows), default=0)
    goes_on = {row.depth: row.dead < 1 for row in rows}  # what the last row there says
    chosen: list[bool] = []
    for row, layer in zip(rows, layers, strict=True):
        inherited = bool(chosen) and chosen[-1]
        goes_on_beside = row.depth == last or goes_on[row.depth]
        chosen.append(row.dead == 1 and goes_on_beside and (inherited or _is_zero(layer)))
    return chosen


def _is_zero(layer: keras.Layer) -> bool:
    """Whether a kernel or a scale of the layer is 0, so that it gives nothing yet."""
    passed = (Role.KERNEL, Role.MATRIX, Role.LOOKUP, Role.SCALE)
    return any(
        role(owned) in passed and not keras.ops.convert_to_numpy(owned.variable.value).any()
        for owned in weights_within(layer)
    )


def _local(rows: Sequence[LayerSignal]) -> Iterator[SignalFinding]:
    """Where units are dead, and where values are not finite first."""
    forward = [row for row in rows if not math.isfinite(row.std)]
    backward = [row for row in rows[::-1] if not math.isfinite(row.gradient_std or 0.0)]
    dead = [row for row in rows if Verdict.DEAD in row.verdicts]
    if forward:
        yield _finding(Verdict.NON_FINITE, "forward", forward, "values that are not finite")
    elif backward:
        yield _finding(
            Verdict.NON_FINITE, "backward", backward, "gradients that are not finite"
        )
    if dead:
        share = f"{dead[0].dead:.0%} of the units are 0 for the whole batch"
        yield _finding(Verdict.DEAD, "forward", dead, share)


def _finding(
    verdict: Verdict, direction: str, rows: Sequence[LayerSignal], numbers: str
) -> SignalFinding:
    others = f" (and at {len(rows) - 1} more)" if len(rows) > 1 else ""
    return SignalFinding(verdict, direction, rows[0].name, numbers + others, verdict.remedy)


def _profile(
    direction: str, rows: Sequence[LayerSignal], explained: bool, graph: Graph
) -> _Profile:
    """Without the zeros, if they are explained: by dead units, or by choice.

    Of models with additions neither end is inside a branch, whose scale is its own.
    """
    points = list(_hidden_depths(rows))
    if direction == "backward":
        points.reverse()
    pairs = [(point, _std(point.row, direction)) for point in points]
    known = [(p, std) for p, std in pairs if std is not None and math.isfinite(std)]
    if explained or any(std for _, std in known):
        known = list(itertools.dropwhile(lambda pair: not pair[1], known))
    if explained:
        known = [pair for pair in known if pair[1]]
    near = min(_BRANCH, len(known) // 3)
    # Of a layer that adds inside, the end alone is seen.
    if near and any(
        all(isinstance(one, keras.Model) for one in call.holders) for call in graph.sums
    ):
        stds = [std for _, std in known]
        first = stds.index(max(stds[:near]))
        last = len(stds) - near + stds[-near:].index(max(stds[-near:]))
        known = known[first : last + 1]
    return _Profile(direction, [point for point, _ in known], [std for _, std in known])


def _std(row: LayerSignal, direction: str) -> float | None:
    return row.std if direction == "forward" else row.gradient_std


def _hidden_depths(rows: Sequence[LayerSignal]) -> Iterator[_HiddenDepth]:
    """Each hidden depth, with the last row that is still of the shape of its kernel's.

    That is what a normalization, an activation and an addition have made of it. Pooling
    changes the size of a signal and of its gradient by what it averages over.
    """
    last = max((row.depth for row in rows), default=0)
    for depth, group in itertools.groupby(rows, lambda row: row.depth):
        if not 0 < depth < last:
            continue
        kernel, *others = group
        same = [row for row in others if row.shape == kernel.shape]
        # What is of no use to the model, such as a statistic, is passed on to nobody.
        used = [row for row in [kernel, *same] if row.gradient_std]
        yield _HiddenDepth(kernel, used[-1] if used else [kernel, *same][-1])


def _trend(profile: _Profile, rows: Sequence[LayerSignal], graph: Graph) -> Trend | None:
    points, stds = profile.points, profile.stds
    if len(points) < 2:
        return None
    depths = [point.row.depth for point in points]
    first, last = points[0].row, points[-1].row
    low = stds[0] / _LIMIT / _averaged(profile, rows)
    slope = rate(depths, stds) if all(stds) else None
    return Trend(
        rate=slope
        if slope and _is_shown(slope, profile, rows) and graph.is_chain
        else None,
        layers=abs(depths[-1] - depths[0]),
        total=stds[-1] / stds[0] if stds[0] else 0.0,
        level=stds[0],
        first=first.name,
        last=last.name,
        low=low,
        high=stds[0] * _LIMIT,
    )


def _is_shown(slope: float, profile: _Profile, rows: Sequence[LayerSignal]) -> bool:
    """Whether a rate is about what any rows of the first and the last depth show."""
    first, last = (profile.points[end].row.depth for end in (0, -1))
    logarithms = {
        depth: [
            math.log(std)
            for row in rows
            if row.depth == depth
            and (std := _std(row, profile.name))
            and math.isfinite(std)
        ]
        for depth in (first, last)
    }
    ratios = [after - before for before in logarithms[first] for after in logarithms[last]]
    layers = abs(last - first)
    return all(
        abs(ratio / layers - math.log(slope)) <= math.log(_SHOWN) for ratio in ratios
    )


def _averaged(profile: _Profile, rows: Sequence[LayerSignal]) -> float:
    """By how much an average over positions makes the signal smaller on its way.

    The gradient of a mean over n positions is a nth of it at each of them, and the standard
    deviation of a mean of n independent values is that of one by the square root of n.
    """
    ends = sorted((profile.points[0].row, profile.points[-1].row), key=rows.index)
    between = rows[rows.index(ends[0]) : rows.index(ends[1]) + 1]
    rank = len(ends[1].shape)
    wider = [i for i, row in enumerate(between[:-1]) if len(row.shape) > rank]
    if len(ends[0].shape) <= rank or not wider:
        return 1.0
    before, after = between[wider[-1]], between[wider[-1] + 1]
    values = math.prod(before.shape[1:])
    if values == math.prod(after.shape[1:]):  # which puts them in a row
        return 1.0
    positions = max(1.0, values / before.units)
    return positions if profile.name == "backward" else math.sqrt(positions)


def _of_trend(
    profile: _Profile,
    trend: Trend,
    rows: Sequence[LayerSignal],
    layers: Sequence[keras.Layer],
    graph: Graph,
) -> Iterator[SignalFinding]:
    end = trend.level * trend.total
    if end and trend.low <= end <= trend.high:
        return
    verdict = Verdict.EXPLODING if end > trend.high else Verdict.VANISHING
    steps = list(_kernel_ratios(profile))
    largest = max if verdict is Verdict.EXPLODING else min
    # Without any step nothing arrives at all.
    step = largest(steps, default=KernelRatio(0.0, profile.points[0].kernel.name))
    numbers = f"std {trend_text(trend)}; the largest step is × {step.ratio:.3g}"
    hidden = {point.kernel.depth for point in profile.points}
    activations = [
        found.activation
        for row, layer in zip(rows, layers, strict=True)
        # The gates of recurrent layers are another matter.
        if row.depth in hidden and not isinstance(layer, keras.layers.RNN)
        for owned in weights_within(layer)
        for call in graph.calls_of(owned.variable)
        if role(owned).is_matrix and (found := graph.activation_after(call))
    ]
    text = remedy(verdict, trend, step, steps, activations, graph)
    yield SignalFinding(verdict, profile.name, step.path, numbers, text)


def _kernel_ratios(profile: _Profile) -> Iterator[KernelRatio]:
    """What each kernel multiplies by: a gradient is changed by the kernel it came from."""
    for before, after in itertools.pairwise(zip(profile.points, profile.stds, strict=True)):
        changed = after[0] if profile.name == "forward" else before[0]
        if before[1] and math.isfinite(after[1] / before[1]):
            yield KernelRatio(after[1] / before[1], changed.kernel.name)


def _clear(
    trend: Trend, direction: str, rows: Sequence[LayerSignal], found: list[SignalFinding]
) -> Trend:
    """The trend with limits that no row is beyond, on a side that has no finding."""
    stds = [std for row in rows if (std := _std(row, direction)) and math.isfinite(std)]
    verdicts = {finding.verdict for finding in found}
    low, high = min(stds, default=trend.low), max(stds, default=trend.high)
    return trend._replace(
        low=trend.low if Verdict.VANISHING in verdicts else min(trend.low, low),
        high=trend.high if Verdict.EXPLODING in verdicts else max(trend.high, high),
    )
