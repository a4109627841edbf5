"""Texts and tables of a given width, in which names are shortened and numbers are not.

Rich's tables shorten a cell at its end, and any cell alike; here it is the middle of a
name, and never a number.
"""

import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from rich.cells import cell_len

from keras_fanwise.arguments import printable
from keras_fanwise.seam.weights import Role

_Item = TypeVar("_Item")

# Columns of a text that has no terminal, and of the shortest name in a table.
_WIDTH, _NAME = 80, 12
# Of more kernels a short table shows a row for each kind, or some of them.
MOST_KERNELS = 20
# The weights of which it has rows.
SHOWN = (Role.KERNEL, Role.MATRIX, Role.LOOKUP)


class Table(NamedTuple):
    """A table as text.

    Attributes:
        headers: of the columns; those of two lines have a line break.
        rows: the cells. The first of each is a name.
        left: the numbers of the columns that hold texts.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)

    def lines(self, width: int | None) -> list[str]:
        """Its lines, without any if it has no rows.

        Args:
            width: to which the names in the first column are shortened, as far as it
                takes and to 12 columns at most; `None` to leave them as they are.
        """
        if not self.rows:
            return []
        headers = [header.rpartition("\n")[::2] for header in self.headers]
        heads = [line for line in (list(part) for part in _columns(headers)) if any(line)]
        cells = [*heads, *([printable(cell) for cell in row] for row in self.rows)]
        widths = [max(map(cell_len, column)) for column in _columns(cells)]
        if width is not None:
            rest = sum(widths[1:]) + 2 * (len(widths) - 1)
            widths[0] = min(widths[0], max(_NAME, width - rest))
        lines = []
        for row in cells:
            line = [shortened(row[0], widths[0]), *row[1:]]
            for place, cell in enumerate(line):
                space = " " * (widths[place] - cell_len(cell))
                line[place] = cell + space if place in self.left else space + cell
            lines.append("  ".join(line).rstrip())
        return lines


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    return zip(*rows, strict=True)


def shortened(name: str, width: int) -> str:
    """A name without its middle, if it is wider than that."""
    if cell_len(name) <= width:
        return name
    kept = width - 1
    while True:
        end = kept // 2
        short = f"{name[: kept - end]}…{name[len(name) - end :]}"
        if cell_len(short) <= width:
            return short
        kept -= 1


def screen_width() -> int:
    """The columns of a text: 80, or as many as the terminal has if it is wider."""
    if sys.stdout is None or not sys.stdout.isatty():
        return _WIDTH
    return max(_WIDTH, shutil.get_terminal_size().columns)


def wrapped(text: str, width: int, hanging: int = 0, first: int = 0) -> list[str]:
    """The lines of a text, broken between words alone: names and numbers stay whole."""
    return textwrap.wrap(
        printable(text),
        width,
        initial_indent=" " * first,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def grouped(
    items: Iterable[_Item], kind: Callable[[_Item], Hashable]
) -> Iterator[list[_Item]]:
    """Lists of the items of one kind, in the order in which kinds come up."""
    groups: dict[Hashable, list[_Item]] = {}
    for item in items:
        groups.setdefault(kind(item), []).append(item)
    yield from groups.values()


def kind_text(layer: str, path: str, count: int) -> str:
    """Such as "17 × DepthwiseConv2D kernel"."""
    return f"{count} × {layer} {path.rpartition('/')[2]}"


def some(names: Sequence[str]) -> str:
    """The first two names, and how many more there are."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def shape_text(shape: Sequence[int]) -> str:
    """Such as 3×3×64."""
    return "×".join(map(str, shape)) or "scalar"


def number_text(number: float | None, digits: int = 6) -> str:
    """As short as a column needs it; of none, nothing."""
    return "" if number is None else f"{number:.{digits}g}"


def span(values: Iterable[float | None], digits: int = 2) -> str:
    """From the least of the numbers to the largest."""
    known = [value for value in values if value is not None]
    finite = [value for value in known if not math.isnan(value)] or known
    if not finite:
        return ""
    texts = [number_text(value, digits) for value in (min(finite), max(finite))]
    return " to ".join(dict.fromkeys(texts))


def count_text(count: int, noun: str) -> str:
    """Such as "1 finding" and "2 findings"."""
    return f"{count} {noun}{'s' * (count != 1)}"


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
