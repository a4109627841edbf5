"""What figures of reports show: panels below each other, over the depth of the model."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


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
