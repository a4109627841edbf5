"""What figures of reports show: panels below each other, over the depth of the model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Mark(NamedTuple):
    """Points that have findings of one kind.

    Attributes:
        label: of the kind.
        points: their numbers.
        shape: that of their markers, by matplotlib's names.
        filled: whether the markers are.
    """

    label: str
    points: Sequence[int]
    shape: str
    filled: bool = True


class Region(NamedTuple):
    """Where values are that a finding is about.

    Attributes:
        label: of the region.
        first: the number of the first point that it is for, where the signal comes from.
        last: the number of the last, which is less if the signal goes backward.
        above: whether it is above the limit, and not below.
        limit: where it begins.
    """

    label: str
    first: int
    last: int
    above: bool
    limit: float


class Panel(NamedTuple):
    """What one panel shows.

    Attributes:
        label: of the vertical axis.
        names: of the points, the same in all panels of a figure.
        series: by label, a value for each name; `None` where there is none.
        marks: the points that have findings.
        regions: what stands behind the points.
        joined: whether a line joins the points.
        reference: a value to compare with; `None` without one.
    """

    label: str
    names: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    marks: Sequence[Mark] = ()
    regions: Sequence[Region] = ()
    joined: bool = False
    reference: float | None = None


def figure_of(panels: Sequence[Panel], title: str = "", ax: Any = None) -> "Figure":
    """The figure of these panels.

    Args:
        panels: from above.
        title: of the figure.
        ax: a matplotlib Axes for each panel, or the only one; by default those of a new
            figure.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `ax` is not of Axes.
        ValueError: `ax` are not as many as there are panels.
    """
    try:
        from keras_fanwise.reports.drawing import draw
    except ImportError as error:
        message = 'plot() needs matplotlib: pip install "keras_fanwise[plot]"'
        raise ImportError(message) from error
    return draw(panels, title, ax)
