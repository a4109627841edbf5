"""What becomes of a signal over the depth of a model, and what to change."""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median_high, median_low
from typing import Any, NamedTuple

import keras

from keras_fanwise.diagnostics.measured import FALSE_ALARMS, limit, zero_by_choice
from keras_fanwise.diagnostics.paths import LIMIT, PASSING, level_of
from keras_fanwise.graph.branches import residual_branches
from keras_fanwise.graph.graph import Call, Graph
from keras_fanwise.initializers.activations import FLAT, fitting, own_gain
from keras_fanwise.reports.diagnosis import (
    LayerSignal,
    SignalFinding,
    SignalReport,
    Trend,
    Verdict,
    trend_text,
    with_kernels,
)
from keras_fanwise.reports.report import ERROR, WARNING
from keras_fanwise.seam.record import initializer_argument
from keras_fanwise.seam.weights import (
    OwnedWeight,
    Role,
    role,
    weights_within,
)

_WAYS = ("forward", "backward")


def judge(rows: Sequence[LayerSignal], wired: "Wired") -> SignalReport:
    """The report of what was measured: of each call of a layer its row."""
    wired.rows = rows
    chosen = wired.chosen_zeros()
    deviations = limit(FALSE_ALARMS, len(rows))
    wired.rows = rows = [
        row if zero else row._replace(verdicts=_verdicts(wired, i, deviations))
        for i, (row, zero) in enumerate(zip(rows, chosen, strict=True))
    ]
    explained = any(chosen) or any(row.dead == 1 for row in rows)
    forward, backward = (
        _worst([_Profile(way, wired, path, explained) for path in wired.paths])
        for way in _WAYS
    )
    signal, gradient = forward.finding(), backward.finding()
    # Gates, say, or a softmax between experts make a signal small that goes on to learn.
    if signal and backward.trend and not (gradient and gradient.severity == ERROR):
        signal = signal._replace(severity=WARNING)
    findings = [*_local(rows), *_recurrent(wired), *filter(None, (signal, gradient))]
    trends = forward.cleared(signal), backward.cleared(gradient)
    return SignalReport(rows, *trends, findings=findings, name=wired.graph.model.name)


class Wired:
    """The rows of a model, and which come one after the other, however often measured."""

    def __init__(
        self, rows: Sequence[LayerSignal], layers: Sequence[keras.Layer], graph: Graph
    ) -> None:
        self.rows, self.layers, self.graph = rows, layers, graph
        # What gives the outputs of each row; empty where the graph does not know.
        self.calls: list[list[Call]] = []
        for row, layer in zip(rows, layers, strict=True):
            results = graph.results_of(layer)
            self.calls.append(results[row.call - 1] if row.call <= len(results) else [])
        self.kernels = with_kernels(rows)
        self.between = functools.cache(self._between)

    @functools.cached_property
    def paths(self) -> list[list[int]]:
        """By their rows the kernels on the way to each that leads to no other."""
        if not all(self.calls[i] for i in self.kernels):
            return [self.kernels]  # in what could not be opened, as they ran
        marks = {call: i for i in self.kernels for call in self.calls[i]}
        return self.graph.longest_paths(marks) or [[]]

    def _between(self, kernel: int, following: int) -> list[int]:
        """The row of a kernel, and those without one on the way to another."""
        others = sorted(set(range(kernel + 1, following)) - set(self.kernels))
        others = [i for i in others if self._leads(kernel, i)]
        return [kernel, *(i for i in others if self._leads(i, following))]

    def _leads(self, one: int, other: int) -> bool:
        before, after = self.calls[one], self.calls[other]
        if not before or not after:
            return True
        return any(self.graph.leads_to(a, b) for a in before for b in after)

    def chosen_zeros(self) -> list[bool]:
        """Of each row, whether it is 0 by choice: of a branch's end, or the model's.

        What follows that, up to where other signals join or nothing comes, is 0 with it.
        """
        passed = (Role.KERNEL, Role.MATRIX, Role.LOOKUP, Role.SCALE)
        chosen: set[Call] = set()
        zeros: set[int] = set()  # where the graph does not know
        for i, (row, layer) in enumerate(zip(self.rows, self.layers, strict=True)):
            for owned in weights_within(layer) if row.dead == 1 else ():
                if role(owned) in passed and not keras.ops.any(owned.variable.value):
                    chosen.update(zero_by_choice(self.graph, owned.variable))
                    goes_on = row.depth == self.rows[-1].depth or self.rows[-1].dead < 1
                    zeros.update([i] if goes_on and not self.calls[i] else [])
        return [
            row.dead == 1 and (i in zeros or not chosen.isdisjoint(self.calls[i]))
            for i, row in enumerate(self.rows)
        ]

    def heals(self, i: int) -> bool:
        """Whether a unit that gives 0 there may learn, or was 0 before that."""
        after = [(call, self.graph.activation_after(call)) for call in self.calls[i]]
        return bool(after) and all(
            hasattr(keras.activations, end.activation) and not end.is_flat_at_zero
            if end
            else call.kind.startswith(PASSING)
            for call, end in after
        )

    def matrices_of(self, i: int) -> list[OwnedWeight]:
        """Those of the layer of a row, with all layers of the model that hold it."""
        inner = weights_within(self.layers[i])
        return [self.graph.owned[id(one.variable)] for one in inner if role(one).is_matrix]

    @functools.cached_property
    def adds(self) -> bool:
        """Whether a model adds signals, and not only a layer inside."""
        return any(
            all(isinstance(one, keras.Model) for one in call.holders)
            for call in self.graph.sums
        )


def _verdicts(wired: Wired, i: int, deviations: float) -> tuple[Verdict, ...]:
    row = wired.rows[i]
    if not math.isfinite(row.std) or not math.isfinite(row.gradient_std or 0.0):
        return (Verdict.NON_FINITE,)
    by_chance = 0.5 + 0.5 * deviations / math.sqrt(row.units)
    is_dead = row.dead == 1 or (row.dead > by_chance and not wired.heals(i))
    return (Verdict.DEAD,) if is_dead else ()


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


def _recurrent(wired: Wired) -> Iterator[SignalFinding]:
    """What grows within a recurrent layer, from step to step."""
    for i, row in enumerate(wired.rows):
        if row.input_rms is None:
            continue
        sizes = (row.std, row.input_rms), (row.input_gradient_std, row.gradient_std)
        ratios = [after / before if after and before else 1.0 for after, before in sizes]
        ratios = [ratio if LIMIT < ratio < math.inf else 1.0 for ratio in ratios]
        levels = [level_of(ratio) for ratio in ratios]
        if levels == [ERROR, ""] and row.gradient_std:
            levels[0] = WARNING
        owned = [one for one in wired.matrices_of(i) if "recurrent" in one.variable.name]
        arguments = sorted({initializer_argument(one) for one in owned} - {""})
        written = "".join(f', {argument}="fanwise_orthogonal"' for argument in arguments)
        remedy = (
            f"let the matrix that multiplies its state be orthogonal{written}, or its "
            "activation saturate, as tanh does"
        )
        new = {one.variable.path: "fanwise_orthogonal" for one in owned}
        for way, ratio, level in zip(_WAYS, ratios, levels, strict=True):
            if level:
                numbers = f"std × {ratio:.2g} within the layer, from step to step"
                found = Verdict.EXPLODING, way, level, row.name, numbers, remedy, new
                yield SignalFinding(*found)


# How many kernels a residual branch has, if it is long.
_BRANCH = 6
# A rate is told if what the rows at its ends show per layer is within this factor of it.
_SHOWN = 1.5


class _Point(NamedTuple):
    """A hidden kernel of a path."""

    place: int  # on the path
    kernel: int  # its row,
    way: list[int]  # with those before the next kernel,
    row: LayerSignal  # and of these what it passes on,
    std: float  # how large: positive, or 0 where the signal does not come


class _Profile:
    """A signal at the hidden kernels of a path; zeros are left out if `explained`."""

    def __init__(
        self, direction: str, wired: Wired, path: Sequence[int], explained: bool
    ) -> None:
        self._direction = direction
        self._wired = wired
        points = list(self._hidden_points(path))
        if direction == "backward":
            points.reverse()
            if not all(math.isfinite(row.std) for row in wired.rows):
                points = []  # gradients tell nothing then
        if explained:
            points = [point for point in points if point.std]
        elif any(point.std for point in points):
            points = list(itertools.dropwhile(lambda point: not point.std, points))
        near = min(_BRANCH, len(points) // 3)
        # Of models with additions neither end is inside a branch, whose scale is its own.
        # Of a layer that adds inside, the end alone is seen.
        if near and wired.adds:
            stds = [point.std for point in points]
            first = stds.index(max(stds[:near]))
            last = len(stds) - near + stds[-near:].index(max(stds[-near:]))
            points = points[first : last + 1]
        self._points = points

    def _std(self, row: LayerSignal) -> float | None:
        """`None` where there is none that is finite."""
        std = row.std if self._direction == "forward" else row.gradient_std
        return std if std is not None and math.isfinite(std) else None

    def _hidden_points(self, path: Sequence[int]) -> Iterator[_Point]:
        """Each hidden kernel, with the last row of its shape: before pooling, say."""
        for place, (kernel, following) in enumerate(itertools.pairwise(path)):
            way = self._wired.between(kernel, following)
            rows = [self._wired.rows[i] for i in way]
            row = [row for row in rows if row.shape == rows[0].shape][-1]
            if (std := self._std(row)) is not None:
                yield _Point(place, kernel, way, row, std)

    @functools.cached_property
    def trend(self) -> Trend | None:
        if len(self._points) < 2:
            return None
        first, last = self._points[0], self._points[-1]
        return Trend(
            rate=self._rate(),
            layers=abs(last.place - first.place),
            total=last.std / first.std if first.std else 0.0,
            level=first.std,
            first=first.row.name,
            last=last.row.name,
            low=first.std / LIMIT / self._averaged(),
            high=first.std * LIMIT,
        )

    def _rate(self) -> float | None:
        """A rate that is about what any rows of the first and the last kernel show."""
        points = self._points
        if not all(point.std for point in points):
            return None
        slope = rate([point.place for point in points], [point.std for point in points])
        if slope is None:
            return None
        before, after = (
            [math.log(std) for i in way if (std := self._std(self._wired.rows[i]))]
            for way in (points[0].way, points[-1].way)
        )
        layers = abs(points[-1].place - points[0].place)
        steps = [(there - here) / layers for here in before for there in after]
        is_shown = all(abs(step - math.log(slope)) <= math.log(_SHOWN) for step in steps)
        return slope if is_shown else None

    def _averaged(self) -> float:
        """By how much a mean over n positions makes it smaller: n of a gradient, or √n."""
        points = sorted(self._points)
        between = [self._wired.rows[i] for point in points for i in point.way]
        first, last = (between.index(points[end].row) for end in (0, -1))
        between = between[first : last + 1]
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

    def _total(self, trend: Trend) -> float:
        """That of a trend, without what an average over positions makes smaller."""
        return trend.total * (1.0 if trend.total > 1 else self._averaged())

    def excess(self) -> float:
        """By how much the total is beyond the limits, of paths to tell of the worst."""
        if self.trend is None:
            return -1.0
        total = self._total(self.trend)
        return max(total / LIMIT, 1 / (LIMIT * total) if total else math.inf, 1.0)

    def finding(self) -> SignalFinding | None:
        trend = self.trend
        if trend is None or not (severity := level_of(self._total(trend))):
            return None
        explodes = trend.total > 1
        is_forward = self._direction == "forward"
        # What each kernel multiplies by: a gradient is changed by the kernel it came from.
        ratios = [
            (after.std / before.std, (after if is_forward else before).kernel)
            for before, after in itertools.pairwise(self._points)
            if before.std and math.isfinite(after.std / before.std)
        ]
        largest = max if explodes else min
        # Without any step nothing arrives at all.
        ratio, kernel = largest(ratios, default=(0.0, self._points[0].kernel))
        path = self._wired.rows[kernel].name
        numbers = f"std {trend_text(trend)}; the largest step is × {ratio:.3g}"
        replacements: dict[str, Any] = {}
        # Nothing may arrive, or one step of several do most of what all of them do.
        if not (trend.total and ratio) or (
            trend.rate is None
            and len(ratios) > 1
            and math.log(ratio) / math.log(trend.total) > 0.6
        ):
            remedy = (
                f"look at the weights of {path}, where most of it happens: audit(model) "
                "tells whether their scale fits the layer"
            )
        else:
            remedy, replacements = self._remedy(explodes)
        verdict = Verdict.EXPLODING if explodes else Verdict.VANISHING
        return SignalFinding(
            verdict, self._direction, severity, path, numbers, remedy, replacements
        )

    def _remedy(self, explodes: bool) -> tuple[str, dict[str, Any]]:
        """What to change where all layers do it: each kernel, by its own activation."""
        if explodes and (count := len(residual_branches(self._wired.graph))) > 1:
            remedy = (
                f"let the {count} residual branches begin small: initialize(model, recipe, "
                'residual="depth") divides the last weight of each by the square root of '
                'their number, and residual="zero" sets it to 0; or normalize in each '
                "branch"
            )
            return remedy, {}
        wired = self._wired
        kernels = [
            (owned, wired.graph.activation_for(owned.variable) or "linear")
            for point in self._points
            if wired.rows[point.kernel].input_rms is None  # gates are another matter
            for owned in wired.matrices_of(point.kernel)
        ]
        activations = Counter(name for _, name in kernels)
        # Most often, of those that are none: between two kernels there need not be one.
        del activations["linear"]
        name = activations.most_common(1)[0][0] if activations else "linear"
        if name in FLAT:
            return flat_remedy(name), {}
        if not fitting(name):
            remedy = "let calibrate(model, x) scale the kernels"
            if scale := own_gain(name):
                remedy += f", or give the hidden layers FanwiseVarianceScaling({scale})"
            return f"{remedy}: the effect of their activation, {name}, is not known", {}
        replacements: dict[str, Any] = {}
        written: Counter[str] = Counter()
        for owned, activation in kernels:
            if new := fitting(activation):
                replacements[owned.variable.path] = new
                scaled = f'FanwiseVarianceScaling(gain("{activation}") ** 2)'
                shown = f'"{new}"' if isinstance(new, str) else scaled
                argument = initializer_argument(owned)
                written.update([f"{argument}={shown}"] if argument else [])
        arguments = " and ".join(dict(written.most_common(_MOST)))
        write = f"write {arguments} for the hidden layers, or " if arguments else ""
        remedy = f"{write}call initialize(model, report.remedies())"
        return f"{remedy}: the gain of their activation, {name}", replacements

    def cleared(self, found: SignalFinding | None) -> Trend | None:
        """The trend with limits that no row is beyond, on a side that has no finding."""
        trend, verdict = self.trend, found.verdict if found else None
        stds = [std for row in self._wired.rows if (std := self._std(row))]
        if trend and verdict is not Verdict.VANISHING:
            trend = trend._replace(low=min([trend.low, *stds]))
        if trend and verdict is not Verdict.EXPLODING:
            trend = trend._replace(high=max([trend.high, *stds]))
        return trend


# Of what a remedy writes, if layers have several arguments and activations.
_MOST = 3


def _worst(profiles: Sequence[_Profile]) -> _Profile:
    """That of the path to tell of: the longest, if none is beyond the limits."""
    # A gradient does not explode that is small in one head, and comes from others to the
    # layers before them.
    calm = {one.trend.last for one in profiles if one.trend and one.trend.total <= LIMIT}

    def is_told(one: _Profile) -> bool:
        trend = one.trend
        return trend is None or trend.total <= LIMIT or trend.last not in calm

    return max(filter(is_told, profiles), key=_Profile.excess)


def flat_remedy(activation: str) -> str:
    """What helps where no scale does."""
    return (
        f"put a normalization after the layers with {activation}, or choose another "
        "activation: its output is nearly constant, whatever the weights"
    )


# A rate is told of so many hidden kernels or more,
_ENOUGH = 5
# and if half of the steps are about of its size, within this factor. What the first and the
# last value alone support, such as a single jump, is no rate.
_SUPPORTED = 1.25
# A step is one kernel long, or as long as a residual branch, whose kernels differ.
_LONGEST = 3


def rate(depths: Sequence[int], values: Sequence[float]) -> float | None:
    """The last value by the first, to the power of 1 / layers, if the steps support it."""
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
