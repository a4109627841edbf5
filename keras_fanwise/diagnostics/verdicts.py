"""What becomes of a signal over the depth of a model, and what to change."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median_high, median_low
from typing import NamedTuple

import keras

from keras_fanwise.diagnostics.paths import LIMIT, level_of
from keras_fanwise.diagnostics.statistics import FALSE_ALARMS, limit
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
from keras_fanwise.reports.report import ERROR, WARNING
from keras_fanwise.seam.weights import Role, role, weights_within


def judge(
    rows: Sequence[LayerSignal],
    layers: Sequence[keras.Layer],
    graph: Graph,
    *,
    name: str = "",
) -> SignalReport:
    """The report of what was measured: of each call of a layer its row, and the layer."""
    chosen = _chosen_zeros(rows, layers)
    deviations = limit(FALSE_ALARMS, len(rows))
    rows = [
        row if zero else row._replace(verdicts=_verdicts(row, deviations))
        for row, zero in zip(rows, chosen, strict=True)
    ]
    explained = any(chosen) or any(row.dead == 1 for row in rows)
    findings = list(_local(rows))
    directions = "forward", "backward"
    profiles = [_Profile(direction, rows, explained, graph) for direction in directions]
    trends = [profile.trend() for profile in profiles]
    found = [
        trend and profile.finding(trend, layers)
        for profile, trend in zip(profiles, trends, strict=True)
    ]
    # Gates, say, or a softmax between experts make a signal small that goes on to learn.
    if found[0] and trends[1] and not (found[1] and found[1].severity == ERROR):
        found[0] = found[0]._replace(severity=WARNING)
    findings += filter(None, found)
    forward, backward = (
        trend and profile.cleared(trend, one)
        for profile, trend, one in zip(profiles, trends, found, strict=True)
    )
    return SignalReport(rows, forward, backward, findings=findings, name=name)


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
    passed = (Role.KERNEL, Role.MATRIX, Role.LOOKUP, Role.SCALE)
    chosen = [False]
    for row, layer in zip(rows, layers, strict=True):
        is_end = row.dead == 1 and (row.depth == last or goes_on[row.depth])
        is_zero = (
            role(owned) in passed
            and not keras.ops.convert_to_numpy(owned.variable.value).any()
            for owned in weights_within(layer)
        )
        chosen.append(is_end and (chosen[-1] or any(is_zero)))
    return chosen[1:]


def _local(rows: Sequence[LayerSignal]) -> Iterator[SignalFinding]:
    """Where values are not finite first, and where units are dead."""
    forward = [row for row in rows if not math.isfinite(row.std)]
    backward = [row for row in rows[::-1] if not math.isfinite(row.gradient_std or 0.0)]
    dead = [row for row in rows if Verdict.DEAD in row.verdicts]
    share = f"{dead[0].dead if dead else 0:.0%} of the units are 0 for the whole batch"
    for verdict, direction, found, numbers in (
        (Verdict.NON_FINITE, "forward", forward, "values that are not finite"),
        (Verdict.NON_FINITE, "backward", backward, "gradients that are not finite"),
        (Verdict.DEAD, "forward", dead, share),
    ):
        if found and not (found is backward and forward):
            more = f" (and at {len(found) - 1} more)" if len(found) > 1 else ""
            path, remedy = found[0].name, verdict.remedy
            is_partly = verdict is Verdict.DEAD and all(row.dead < 1 for row in found)
            severity = WARNING if is_partly else ERROR
            yield SignalFinding(verdict, direction, severity, path, numbers + more, remedy)


# How many kernels a residual branch has, if it is long.
_BRANCH = 6
# A rate is told if what the rows at its ends show per layer is within this factor of it.
_SHOWN = 1.5


class _Point(NamedTuple):
    """A hidden depth: the row of its kernel, that of what it passes on, and how large."""

    kernel: LayerSignal
    row: LayerSignal
    std: float  # positive, or 0 where the signal does not come


class _Profile:
    """The hidden depths in the order in which a signal, or a gradient, comes through them.

    Without the zeros, if they are `explained`: by dead units, or by choice.
    """

    def __init__(
        self, direction: str, rows: Sequence[LayerSignal], explained: bool, graph: Graph
    ) -> None:
        self._direction = direction
        self._rows = rows
        self._graph = graph
        points = list(self._hidden_points())
        if direction == "backward":
            points.reverse()
            if not all(math.isfinite(row.std) for row in rows):
                points = []  # gradients tell nothing then
        if explained:
            points = [point for point in points if point.std]
        elif any(point.std for point in points):
            points = list(itertools.dropwhile(lambda point: not point.std, points))
        near = min(_BRANCH, len(points) // 3)
        # Of models with additions neither end is inside a branch, whose scale is its own.
        # Of a layer that adds inside, the end alone is seen.
        if near and any(
            all(isinstance(one, keras.Model) for one in call.holders) for call in graph.sums
        ):
            stds = [point.std for point in points]
            first = stds.index(max(stds[:near]))
            last = len(stds) - near + stds[-near:].index(max(stds[-near:]))
            points = points[first : last + 1]
        self._points = points

    def _std(self, row: LayerSignal) -> float | None:
        return row.std if self._direction == "forward" else row.gradient_std

    def _hidden_points(self) -> Iterator[_Point]:
        """Each hidden depth, with the last row that is still of the shape of its kernel's.

        That is what a normalization, an activation and an addition have made of it. Pooling
        changes the size of a signal and of its gradient by what it averages over.
        """
        last = max((row.depth for row in self._rows), default=0)
        for depth, group in itertools.groupby(self._rows, lambda row: row.depth):
            if 0 < depth < last:
                kernel, *others = group
                same = [kernel, *(row for row in others if row.shape == kernel.shape)]
                # What is of no use to the model, such as a statistic, is passed to nobody.
                used = [row for row in same if row.gradient_std] or same
                std = self._std(used[-1])
                if std is not None and math.isfinite(std):
                    yield _Point(kernel, used[-1], std)

    def trend(self) -> Trend | None:
        if len(self._points) < 2:
            return None
        first, last = self._points[0], self._points[-1]
        return Trend(
            rate=self._rate() if self._graph.is_chain else None,
            layers=abs(last.row.depth - first.row.depth),
            total=last.std / first.std if first.std else 0.0,
            level=first.std,
            first=first.row.name,
            last=last.row.name,
            low=first.std / LIMIT / self._averaged(),
            high=first.std * LIMIT,
        )

    def _rate(self) -> float | None:
        """A rate that is about what any rows of the first and the last depth show."""
        if not all(point.std for point in self._points):
            return None
        depths = [point.row.depth for point in self._points]
        slope = rate(depths, [point.std for point in self._points])
        if slope is None:
            return None
        before, after = (
            [
                math.log(std)
                for row in self._rows
                if row.depth == depth and (std := self._std(row)) and math.isfinite(std)
            ]
            for depth in (depths[0], depths[-1])
        )
        layers = abs(depths[-1] - depths[0])
        steps = [(there - here) / layers for here in before for there in after]
        is_shown = all(abs(step - math.log(slope)) <= math.log(_SHOWN) for step in steps)
        return slope if is_shown else None

    def _averaged(self) -> float:
        """By how much an average over positions makes the signal smaller on its way.

        The gradient of a mean over n positions is a nth of it at each of them, and the
        standard deviation of a mean of n independent values is that of one by the square
        root of n.
        """
        ends = [self._rows.index(self._points[end].row) for end in (0, -1)]
        between = self._rows[min(ends) : max(ends) + 1]
        ranks = [len(row.shape) for row in between]
        wider = [i for i, rank in enumerate(ranks[:-1]) if rank > ranks[-1]]
        if ranks[0] <= ranks[-1] or not wider:
            return 1.0
        before, after = between[wider[-1]], between[wider[-1] + 1]
        values = math.prod(before.shape[1:])
        if values == math.prod(after.shape[1:]):  # which puts them in a row
            return 1.0
        positions = max(1.0, values / before.units)
        return positions if self._direction == "backward" else math.sqrt(positions)

    def finding(self, trend: Trend, layers: Sequence[keras.Layer]) -> SignalFinding | None:
        explodes = trend.total > 1
        severity = level_of(trend.total * (1.0 if explodes else self._averaged()))
        if not severity:
            return None
        is_forward = self._direction == "forward"
        # What each kernel multiplies by: a gradient is changed by the kernel it came from.
        ratios = [
            (after.std / before.std, (after if is_forward else before).kernel.name)
            for before, after in itertools.pairwise(self._points)
            if before.std and math.isfinite(after.std / before.std)
        ]
        largest = max if explodes else min
        # Without any step nothing arrives at all.
        ratio, path = largest(ratios, default=(0.0, self._points[0].kernel.name))
        numbers = f"std {trend_text(trend)}; the largest step is × {ratio:.3g}"
        # Nothing may arrive, or one step of several do most of what all of them do.
        if not (trend.total and ratio) or (
            trend.rate is None
            and len(ratios) > 1
            and math.log(ratio) / math.log(trend.total) > 0.6
        ):
            remedy = (
                f"look at the weights of {path}, which does most of it: audit(model) "
                "tells whether their scale fits the layer"
            )
        else:
            remedy = self._remedy(explodes, layers)
        verdict = Verdict.EXPLODING if explodes else Verdict.VANISHING
        return SignalFinding(verdict, self._direction, severity, path, numbers, remedy)

    def _remedy(self, explodes: bool, layers: Sequence[keras.Layer]) -> str:
        """What to change where all layers do it, by the most frequent activation."""
        if explodes and (count := len(residual_branches(self._graph))) > 1:
            return (
                f"let the {count} residual branches begin small: initialize(model, recipe, "
                'residual="depth") divides the last weight of each by the square root of '
                'their number, and residual="zero" sets it to 0; or normalize in each '
                "branch"
            )
        hidden = {point.kernel.depth for point in self._points}
        activations = Counter(
            found.activation
            for row, layer in zip(self._rows, layers, strict=True)
            # The gates of recurrent layers are another matter.
            if row.depth in hidden and not isinstance(layer, keras.layers.RNN)
            for owned in weights_within(layer)
            for call in self._graph.calls_of(owned.variable)
            if role(owned).is_matrix and (found := self._graph.activation_after(call))
        )
        name = activations.most_common(1)[0][0] if activations else "linear"
        if name in _FLAT:
            return (
                f"put a normalization behind the layers with {name}, or choose another "
                "activation: what it gives is nearly constant, whatever the weights"
            )
        if scale := own_gain(name):
            return (
                "let calibrate(model, x) scale the kernels, or write "
                f"kernel_initializer=FanwiseVarianceScaling({scale}) for the hidden "
                f"layers: their activation, {name}, is none of Keras's"
            )
        written = _NAMED.get(name, f'FanwiseVarianceScaling(gain("{name}") ** 2)')
        return (
            f"write kernel_initializer={written} for the hidden layers: the gain of their "
            f"activation, {name}"
        )

    def cleared(self, trend: Trend, found: SignalFinding | None) -> Trend:
        """The trend with limits that no row is beyond, on a side that has no finding."""
        stds = [std for row in self._rows if (std := self._std(row)) and math.isfinite(std)]
        low, high = min([trend.low, *stds]), max([trend.high, *stds])
        if found and found.verdict is Verdict.VANISHING:
            return trend._replace(high=high)
        return trend._replace(low=low) if found else trend._replace(low=low, high=high)


# What these give is nearly constant, of any scale: no gain brings a signal through them.
_FLAT = ("sigmoid", "hard_sigmoid", "log_sigmoid", "softplus", "softmax", "log_softmax")
# Initializers by name for the gains that have one.
_NAMED = {
    "linear": '"fanwise_lecun_normal"',
    "relu": '"fanwise_he_normal"',
    "relu6": '"fanwise_he_normal"',
    "selu": '"fanwise_lecun_normal"',
}


def own_gain(activation: str) -> str:
    """How the scale is written for an activation that is none of Keras's."""
    if not activation or hasattr(keras.activations, activation):
        return ""
    known = activation if activation.isidentifier() else "activation"
    return f"gain({known}) ** 2"


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
