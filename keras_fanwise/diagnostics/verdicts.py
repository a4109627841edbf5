"""What became of a signal: the verdicts on its way through a model and back."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from keras_fanwise.diagnostics.evidence import limit
from keras_fanwise.diagnostics.trends import trend
from keras_fanwise.reports.signal_report import (
    LIMIT,
    LayerSignal,
    SignalFinding,
    SignalReport,
    Trend,
    Verdict,
    trend_text,
)

# The share of healthy models in which chance makes a layer look dead.
_FALSE_ALARMS = 0.001


class _Direction(NamedTuple):
    """The hidden layers in the order in which a signal comes through them.

    `stds` has the standard deviation at each; `None` where no gradient comes.
    """

    name: str
    rows: Sequence[LayerSignal]
    stds: Sequence[float | None]

    def trend(self) -> Trend | None:
        known = [
            (row.depth, std)
            for row, std in zip(self.rows, self.stds, strict=True)
            if std is not None and math.isfinite(std)
        ]
        return trend([depth for depth, _ in known], [std for _, std in known])


def judge(rows: Sequence[LayerSignal], *, name: str = "") -> SignalReport:
    """The report of what was measured, with trends, verdicts and findings.

    Args:
        rows: one for each call of a layer, in their order, without verdicts.
        name: of the model.
    """
    deviations = limit(_FALSE_ALARMS, len(rows))
    rows = [row._replace(verdicts=_verdicts(row, deviations)) for row in rows]
    last = max((row.depth for row in rows), default=0)
    hidden = [row for row in rows if 0 < row.depth < last]
    back = hidden[::-1]
    forward = _Direction("forward", hidden, [row.std for row in hidden])
    backward = _Direction("backward", back, [row.gradient_std for row in back])
    findings = [*_local(rows), *_of_trend(forward)]
    if all(math.isfinite(row.std) for row in rows):  # or gradients tell nothing
        findings += _of_trend(backward)
    return SignalReport(rows, findings, forward.trend(), backward.trend(), name=name)


def _verdicts(row: LayerSignal, deviations: float) -> tuple[Verdict, ...]:
    if not math.isfinite(row.std) or not math.isfinite(row.gradient_std or 0.0):
        return (Verdict.NON_FINITE,)
    by_chance = 0.5 + 0.5 * deviations / math.sqrt(row.units)
    return (Verdict.DEAD,) if row.dead == 1 or row.dead > by_chance else ()


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


def _of_trend(direction: _Direction) -> Iterator[SignalFinding]:
    course = direction.trend()
    if course is None or 1 / LIMIT <= course.total <= LIMIT:
        return
    verdict = Verdict.VANISHING if course.total < 1 else Verdict.EXPLODING
    pairs = itertools.pairwise(direction.stds)
    steps = [
        (after / before, row.name)
        for row, (before, after) in zip(direction.rows[1:], pairs, strict=True)
        if before and after is not None and math.isfinite(after / before)
    ]
    # Without any step nothing arrives at all.
    largest = min if course.total < 1 else max
    step, path = largest(steps, default=(0.0, direction.rows[0].name))
    numbers = f"std {trend_text(course)}; the largest step is × {step:.3g}"
    yield SignalFinding(verdict, direction.name, path, numbers, verdict.remedy)
