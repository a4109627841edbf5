"""Figures of reports: panels below each other that share the axis of the depth."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras_fanwise.arguments import printable

# In inches: of a figure, of a panel, of a name below it and of one of its letters.
_WIDTHS, _HEIGHT, _NAME, _LETTER = (6.0, 14.0), 2.4, 0.19, 0.075
# Blue, orange and green of a palette for the colour-blind (Okabe and Ito 2008).
_COLOURS = ("#0072b2", "#e69f00", "#009e73")
_MARKED = "#d55e00"


class Panel(NamedTuple):
    """What one panel shows.

    Attributes:
        label: of the vertical axis.
        names: of the points, the same in all panels of a figure.
        series: by label, a value for each name; `None` where there is none.
        marked: the numbers of the points that have findings.
        limits: below the first a signal vanishes, above the second it explodes.
        joined: whether a line joins the points.
    """

    label: str
    names: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    marked: Sequence[int] = ()
    limits: tuple[float, float] | None = None
    joined: bool = False


def stacked(panels: Sequence[Panel]) -> Any:
    """The figure of these panels, by pyplot."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        message = 'plot() needs matplotlib: pip install "keras_fanwise[plot]"'
        raise ImportError(message) from error
    names = _short(panels[0].names)
    low, high = _WIDTHS
    width = min(max(low, 1.5 + _NAME * len(names)), high)
    figure, axes = pyplot.subplots(
        len(panels),
        sharex=True,
        squeeze=False,
        figsize=(width, _HEIGHT * len(panels) + _LETTER * max(map(len, names), default=0)),
        layout="constrained",
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        _draw(axis, panel)
    every = max(1, math.ceil(len(names) * _NAME / (width - 1.2)))
    axes[-1, 0].set_xticks(
        range(0, len(names), every),
        names[::every],
        rotation=90,
        parse_math=False,  # a $ in a name begins no formula
        usetex=False,
    )
    axes[-1, 0].tick_params(axis="x", labelsize="small")
    return figure


def _short(names: Sequence[str]) -> list[str]:
    """The names without the model's, which they have in common."""
    names = [printable(name) for name in names]
    heads = {name.partition("/")[0] for name in names if "/" in name}
    if len(heads) == 1 and all("/" in name for name in names):
        return [name.partition("/")[2] for name in names]
    return names


def _draw(axis: Any, panel: Panel) -> None:
    axis.set_yscale("log")
    axis.set_ylabel(panel.label)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    for colour, (label, values) in zip(_COLOURS, panel.series.items(), strict=False):
        shown = [_positive_or_nan(value) for value in values]
        line = "-" if panel.joined else ""
        axis.plot(shown, "." + line, color=colour, linewidth=1.2, markersize=5, label=label)
        points = [(i, shown[i]) for i in panel.marked if not math.isnan(shown[i])]
        if points:
            axis.plot(*zip(*points, strict=True), "o", color=_MARKED)
        edge = axis.get_xaxis_transform()  # heights as shares of the panel's
        for at, shape, condition in ((0.02, "v", _is_zero), (0.97, "x", _is_not_finite)):
            beyond = [i for i, value in enumerate(values) if condition(value)]
            if beyond:
                axis.plot(beyond, [at] * len(beyond), shape, color=_MARKED, transform=edge)
    if len(panel.series) > 1:
        axis.legend(frameon=False, fontsize="small")
    if panel.limits:
        _mark_regions(axis, *panel.limits)


def _mark_regions(axis: Any, low: float, high: float) -> None:
    bottom, top = axis.get_ylim()
    bottom, top = min(bottom, low / 5), max(top, high * 5)
    axis.set_ylim(bottom, top)
    regions = (
        ("vanishing", bottom, low, low, "top"),
        ("exploding", high, top, high, "bottom"),
    )
    for name, start, end, edge, side in regions:
        axis.axhspan(start, end, color=_MARKED, alpha=0.12, linewidth=0)
        text = axis.annotate(name, (0.995, edge), xycoords=("axes fraction", "data"))
        text.set(ha="right", va=side, color=_MARKED, fontsize="small", in_layout=False)


def _positive_or_nan(value: float | None) -> float:
    return value if value and 0 < value < math.inf else math.nan


def _is_zero(value: float | None) -> bool:
    return value == 0


def _is_not_finite(value: float | None) -> bool:
    return value is not None and not math.isfinite(value)
