"""What reports are made of: words, tables of columns, and the panels of figures.

A report names the columns of its rows; how wide they are, where they are aligned and what
is shortened is decided here, once for terminals and once for notebooks. Rich's tables
shorten a cell at its end, and any cell alike; here it is the middle of a name, and never a
number.
"""

import html
import math
import operator
import shutil
import sys
import textwrap
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from rich.cells import cell_len

from keras_fanwise.arguments import printable

_Item = TypeVar("_Item")
# What a column shows of a row: one of its attributes, or what a function gives.
Value = str | Callable[[Any], Any]

# Columns of a text that has no terminal, and of the shortest name in a table.
_WIDTH, _NAME = 80, 12
# Of more kernels a short table shows a row for each kind, or some of them.
MOST_KERNELS = 20


class Column(NamedTuple):
    """A column of a table: the text of a row, and of several rows shown as one."""

    header: str  # with a line break if it takes two lines
    cell: Callable[[Any], str]
    kind: Callable[[Sequence[Any]], str]
    is_text: bool  # words stand on the left, numbers on the right
    shrinks: bool = False  # whether its texts may lose their middle if space is short

    def aligned(self, texts: Sequence[str], width: int) -> list[str]:
        if self.shrinks:
            texts = shorten(texts, width)
        spaces = (" " * (width - cell_len(text)) for text in texts)
        pairs = zip(texts, spaces, strict=True)
        return [text + space if self.is_text else space + text for text, space in pairs]


def words(header: str, value: Value, *, shrinks: bool = False) -> Column:
    """A column of texts, which are the same in all rows of a kind."""
    read = _reader(value)
    return Column(header, read, lambda rows: str(read(rows[0])), True, shrinks)


def counted(header: str, value: Value) -> Column:
    """Such as "17 × DepthwiseConv2D kernel", where `value` gives the words."""
    read = _reader(value)
    return Column(header, read, lambda rows: f"{len(rows)} × {read(rows[0])}", True, True)


def numbers(
    header: str, value: Value, form: str = ".6g", kind_form: str = ".2g", sign: str = ""
) -> Column:
    """A column of numbers after a sign, of several the least and the largest."""
    read = _reader(value)

    def kind(rows: Sequence[Any], form: str = kind_form) -> str:
        text = span(map(read, rows), form)
        return text and sign + text

    return Column(header, lambda row: kind([row], form), kind, False)


def labels(value: str) -> Column:
    """A column of kinds of findings, each once."""
    kinds = _reader(value)
    return words("", lambda row: ", ".join(dict.fromkeys(one.label for one in kinds(row))))


def _reader(value: Value) -> Callable[[Any], Any]:
    return operator.attrgetter(value) if isinstance(value, str) else value


class Table(NamedTuple):
    """Columns from the left, and the texts of each line, as text and as HTML."""

    columns: Sequence[Column]
    cells: Sequence[Sequence[str]]

    @classmethod
    def of(cls, columns: Sequence[Column], rows: Iterable[Any]) -> "Table":
        return cls(columns, [[column.cell(row) for column in columns] for row in rows])

    def text(self, width: int | None) -> list[str]:
        """Its lines, if it has rows; names are shortened to fit a width if there is one."""
        if not self.cells:
            return []
        headers = [column.header.rpartition("\n")[::2] for column in self.columns]
        heads = [line for line in zip(*headers, strict=True) if any(line)]
        lines = [*heads, *([printable(cell) for cell in row] for row in self.cells)]
        texts = list(zip(*lines, strict=True))
        widths = [max(map(cell_len, column)) for column in texts]
        if width is not None:
            excess = max(0, sum(widths) + 2 * (len(widths) - 1) - width)
            for place, column in enumerate(self.columns):
                if column.shrinks:  # one in a table
                    widths[place] = min(widths[place], max(_NAME, widths[place] - excess))
        aligned = map(Column.aligned, self.columns, texts, widths)
        return ["  ".join(line).rstrip() for line in zip(*aligned, strict=True)]

    def html(self) -> str:
        """Its HTML; the browser breaks names that are too long."""

        def line(tag: str, cells: Iterable[str]) -> str:
            # Notebooks align cells to the right, which is for numbers.
            texts = (
                f'<{tag} style="text-align: {"left" if column.is_text else "right"}">'
                f"{escape(cell)}</{tag}>"
                for column, cell in zip(self.columns, cells, strict=True)
            )
            return f"<tr>{''.join(texts)}</tr>"

        head = line("th", (" ".join(column.header.split("\n")) for column in self.columns))
        body = "\n".join(line("td", row) for row in self.cells)
        return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def shorten(names: Sequence[str], width: int) -> list[str]:
    """Names that are no wider: without their middle, or another part of all of them.

    As many as can be of those that differ still do.
    """
    length = max(map(len, names), default=0)
    fronts = sorted(range(width), key=lambda front: abs(front - width // 2))
    cuts = [(0, front, width - 1 - front) for front in fronts]
    cuts += [(start, width - 2, 0) for start in range(1, length - width + 2)]

    def cut(start: int, front: int, back: int) -> list[str]:
        return [_cut(name, width, start, front, back) for name in names]

    first = cut(*cuts[0])
    if len({*first}) == len({*names}):
        return first
    return max(map(cut, *zip(*cuts, strict=True)), key=lambda short: len({*short}))


def _cut(name: str, width: int, start: int, front: int, back: int) -> str:
    """So many characters from a place on, and so many of the end, if it is too wide."""
    if cell_len(name) <= width:
        return name
    while True:
        end = name[len(name) - back :]
        before, middle = "…" if start else "", name[start : start + front]
        short = f"{before}{middle}…{end}"
        if cell_len(short) <= width:
            return short
        front, back = (front - 1, back) if front >= back else (front, back - 1)


def screen_width() -> int:
    """The columns of a text: 80, or as many as the terminal has if it is wider."""
    if sys.stdout is None or not sys.stdout.isatty():
        return _WIDTH
    return max(_WIDTH, shutil.get_terminal_size().columns)


def wrap(text: str, width: int, hanging: int = 0, first: int = 0) -> list[str]:
    """The lines of a text, broken between words alone: names and numbers stay whole."""
    return textwrap.wrap(
        printable(text),
        width,
        initial_indent=" " * first,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def escape(text: str) -> str:
    return html.escape(printable(text))


def group_by(
    items: Iterable[_Item], kind: Callable[[_Item], Hashable]
) -> Iterator[list[_Item]]:
    """Lists of the items of one kind, in the order in which kinds come up."""
    groups: dict[Hashable, list[_Item]] = {}
    for item in items:
        groups.setdefault(kind(item), []).append(item)
    yield from groups.values()


def first_names(names: Sequence[str]) -> str:
    """The first two names, and how many more there are."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def count_text(count: int, noun: str, plural: str = "") -> str:
    """Such as "1 finding" and "2 findings"."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def span(values: Iterable[float | None], form: str = ".2g") -> str:
    """From the least of the numbers to the largest; `""` if there are none."""
    known = [value for value in values if value is not None]
    known = [value for value in known if not math.isnan(value)] or known
    ends = [f"{end(known):{form}}" for end in (min, max) if known]
    return " to ".join(dict.fromkeys(ends))


SHAPE = words("shape", lambda row: "×".join(map(str, row.shape)) or "scalar")


class Mark(NamedTuple):
    """Points that have findings of one kind, and a shape of matplotlib's markers."""

    label: str
    points: Sequence[int]
    shape: str
    is_filled: bool = True


class Region(NamedTuple):
    """Where values are that a finding is about: above a limit or below it."""

    label: str
    first: int  # the point where the signal comes from
    last: int  # where it ends: before the first if it goes backward
    is_above: bool
    limit: float


class Panel(NamedTuple):
    """What one panel of a figure shows: by label, a value for each name.

    The values are heights, or in a grid, whose lines are the labels, colours.
    """

    label: str  # of the vertical axis
    names: Sequence[str]  # the same in all panels of a figure
    series: Mapping[str, Sequence[float | None]]
    marks: Sequence[Mark] = ()
    regions: Sequence[Region] = ()
    is_joined: bool = False  # whether a line joins the points
    reference: float | None = None  # to compare with
    is_grid: bool = False
    limits: tuple[float, float] | None = None  # of colours, on a scale that is linear

    @classmethod
    def of(
        cls,
        label: str,
        rows: Sequence[Any],
        values: Mapping[str, Value],
        name: Value = "path",
        **more: Any,
    ) -> "Panel":
        """A point for each row in each series."""
        names = list(map(_reader(name), rows))
        series = {key: list(map(_reader(value), rows)) for key, value in values.items()}
        return cls(label, names, series, **more)
