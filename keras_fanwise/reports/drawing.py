"""The drawing of figures: the one module that imports matplotlib, and never `pyplot`.

What `pyplot` knows a notebook draws at the end of a cell, once more than its value.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from keras_fanwise.arguments import fail, printable
from keras_fanwise.reports.tables import Mark, Panel, Region, group_by, shorten

# In inches: of a figure, of a panel, of a name below it, of one of its letters, and of what
# stands beside the panels.
_WIDTHS, _HEIGHT, _NAME, _LETTER, _BESIDE = (6.0, 14.0), 2.4, 0.19, 0.075, 2.6
# Of a name.
_LETTERS = 32
# Blue and orange of a palette for the colour-blind (Okabe and Ito 2008), and its vermilion.
_COLOURS = ("#0072b2", "#e69f00")
_REGION = "#d55e00"
# Of points that may lie on each other the first are larger.
_SIZES = (7.0, 4.0)
# Of more points each is smaller.
_MANY = 300
# A $ in a name begins none.
_NO_FORMULA: dict[str, Any] = {"parse_math": False, "usetex": False}


class ReportFigure(Figure):
    """A figure that a notebook shows by itself, whether or not `pyplot` is used there."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()


def draw(panels: Sequence[Panel], title: str = "", ax: Any = None) -> Figure:
    """The figure of panels from above, in Axes of a caller or a new figure's."""
    names, count = _short(panels[0].names), len(panels)
    figure, axes, inches = _new(count, names) if ax is None else _given(ax, count)
    for axis, panel in zip(axes, panels, strict=True):
        draw_panel = _draw_grid if panel.is_grid else _draw_points
        draw_panel(axis, panel)
    if title:
        axes[0].set_title(printable(title), loc="left", **_NO_FORMULA)
    every = max(1, math.ceil(len(names) / max(1, int(inches / _NAME))))
    ticks = range(0, len(names), every)
    margin = 0.5 + 0.01 * len(names)
    for axis in axes:
        axis.set_xlim(-margin, max(1, len(names)) - 1 + margin)
        axis.set_xticks(ticks, [""] * len(ticks))
    axes[-1].set_xticks(ticks, names[::every], rotation=90, **_NO_FORMULA)
    axes[-1].tick_params(axis="x", labelsize="small")
    return figure


def _new(count: int, names: Sequence[str]) -> tuple[Figure, list[Axes], float]:
    low, high = _WIDTHS
    width = min(max(low, _BESIDE + _NAME * len(names)), high)
    letters = max(map(len, names), default=0)
    height = 0.3 + _HEIGHT * count + _LETTER * letters
    figure = ReportFigure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(count, sharex=True, squeeze=False)
    return figure, list(axes[:, 0]), width - _BESIDE


def _given(ax: Any, count: int) -> tuple[Figure, list[Axes], float]:
    axes = list(np.ravel(np.asarray(ax, dtype=object)))
    several = f"a sequence of {count} matplotlib Axes"
    is_wrong = not all(isinstance(axis, Axes) for axis in axes)
    if is_wrong or len(axes) != count:
        error = TypeError if is_wrong else ValueError
        raise fail(error, "ax", several if count > 1 else "a matplotlib Axes", ax)
    figure = axes[0].figure.figure  # of a subfigure the whole one
    return figure, axes, axes[-1].get_window_extent().width / figure.dpi


def _short(names: Sequence[str]) -> list[str]:
    """The names without the model's, if they have it in common, or a long middle."""
    names = [printable(name) for name in names]
    heads = {name.partition("/")[0] for name in names if "/" in name}
    if len(heads) == 1 and all("/" in name for name in names):
        names = [name.partition("/")[2] for name in names]
    return shorten(names, _LETTERS)


def _draw_grid(axis: Axes, panel: Panel) -> None:
    """Values as colours: a line for each label from below, a column for each name."""
    labels, names = list(panel.series), panel.names
    given = np.array(list(panel.series.values()), object).reshape(len(labels), len(names))
    values = given.astype(float)  # `None` becomes NaN
    ys, xs = np.nonzero((given != np.array(None)) & ~np.isfinite(values))
    axis.plot(xs, ys, "x", color=_REGION)
    if panel.limits:
        norm: Normalize = Normalize(*panel.limits)
    else:
        known = values[np.isfinite(values) & (values > 0)]
        low, high = (known.min(), known.max()) if known.size else (0.1, 1.0)
        low, high = (low, high) if high > 1.1 * low else (low / 2, high * 2)
        norm = LogNorm(low, high, clip=True)
        values = np.where(values == 0, low, values)
    shown = np.ma.masked_invalid(values)
    places = np.arange(len(names)), np.arange(len(labels))
    mesh = axis.pcolormesh(*places, shown, norm=norm, cmap="viridis", shading="nearest")
    axis.figure.colorbar(mesh, ax=axis, label=panel.label)
    every = max(1, math.ceil(len(labels) / 10))
    axis.set_yticks(range(0, len(labels), every), labels[::every])
    axis.set_ylabel("epoch")


def _draw_points(axis: Axes, panel: Panel) -> None:
    """Heights on a logarithmic scale: a colour for each label."""
    axis.set_yscale("log")
    axis.set_ylabel(panel.label)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    marked = {point for mark in panel.marks for point in mark.points}
    drawn = []
    styles = zip(_COLOURS, _SIZES[-len(panel.series) :], strict=False)
    for (colour, size), (label, values) in zip(styles, panel.series.items(), strict=False):
        shown = [value if value and 0 < value < math.inf else math.nan for value in values]
        if panel.is_joined:
            axis.plot(shown, "-", color=colour, linewidth=1.2)
        points = [math.nan if i in marked else value for i, value in enumerate(shown)]
        size *= 0.6 if len(shown) > _MANY else 1.0
        axis.plot(
            points, "o", color=colour, markersize=size, markeredgewidth=0, label=label
        )
        for mark in panel.marks:
            heights = [shown[point] for point in mark.points]
            style = _style(mark, colour)
            # On the points without findings.
            axis.plot(mark.points, heights, **style, markersize=size + 2, zorder=3)
        _draw_beyond(axis, values, panel.marks)
        drawn += [value for value in shown if not math.isnan(value)]
    if panel.reference is not None:
        axis.axhline(panel.reference, color="grey", linewidth=0.8, linestyle="--", zorder=1)
        drawn.append(panel.reference)
    _set_heights(axis, drawn, panel.regions)
    _add_legend(axis, panel)


def _style(mark: Mark, colour: str) -> dict[str, Any]:
    face = colour if mark.is_filled else "none"
    return {"marker": mark.shape, "ls": "", "color": colour, "markerfacecolor": face}


def _draw_beyond(axis: Axes, values: Sequence[float | None], marks: Sequence[Mark]) -> None:
    """Zeros at the lower edge and what is not finite at the upper one."""
    edge = axis.get_xaxis_transform()  # heights as shares of the panel's
    shapes = {point: mark.shape for mark in marks for point in mark.points}

    def place(i: int) -> tuple[float, str]:
        height, default = (0.03, "v") if values[i] == 0 else (0.97, "x")
        return height, shapes.get(i, default)

    beyond = [i for i, one in enumerate(values) if one == 0 or not math.isfinite(one or 0)]
    for points in group_by(beyond, place):
        height, shape = place(points[0])
        axis.plot(points, [height] * len(points), shape, color=_REGION, transform=edge)


def _set_heights(axis: Axes, values: Sequence[float], regions: Sequence[Region]) -> None:
    """Room for the values, a decade or more, and for the regions."""
    limits = [region.limit * (5 if region.is_above else 0.2) for region in regions]
    logs = [math.log10(value) for value in (*values, *limits) if value > 0] or [0.0]
    margin = max(0.07 * (max(logs) - min(logs)), 0.5 - 0.5 * (max(logs) - min(logs)), 0.05)
    bottom, top = 10 ** (min(logs) - margin), 10 ** (max(logs) + margin)
    axis.set_ylim(bottom, top)
    if max(logs) - min(logs) + 2 * margin < 2:  # or there is one number, or none
        axis.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
        axis.yaxis.set_minor_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    else:
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    for region in regions:
        low, high = (region.limit, top) if region.is_above else (bottom, region.limit)
        ends = min(region.first, region.last) - 0.5, max(region.first, region.last) + 0.5
        backward = region.last < region.first
        axis.fill_between(ends, low, high, color=_REGION, alpha=0.12, linewidth=0, zorder=0)
        axis.annotate(
            region.label,
            (ends[backward], region.limit),
            (0, 0),
            textcoords="offset points",
            ha="right" if backward else "left",
            va="bottom" if region.is_above else "top",
            color=_REGION,
            fontsize="small",
            in_layout=False,
        )


def _add_legend(axis: Axes, panel: Panel) -> None:
    """Series by colour, findings by shape, beside the panel: no point is below it."""
    lines, _labels = axis.get_legend_handles_labels()
    handles = lines if len(panel.series) > 1 else []
    for mark in panel.marks:
        handles += axis.plot([], [], **_style(mark, "grey"), label=mark.label)
    if handles:
        axis.legend(
            handles=handles,
            frameon=False,
            fontsize="small",
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
        )
