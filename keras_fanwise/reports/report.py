"""The base of all reports: rows that print as a table, plot, and turn into JSON."""

import enum
import io
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from keras_fanwise.arguments import printable
from keras_fanwise.reports.figures import Panel, stacked

Row = TypeVar("Row")

# Columns of a text that has no terminal, and of the shortest name in a table.
_WIDTH, _NAME = 80, 12
# More than any table needs: a path that is cut off names no weight.
_WIDE = 10_000


class FindingKind(enum.Enum):
    """A kind of finding, with what helps; its value is its label.

    Attributes:
        label: what tables and JSON call it.
        remedy: what helps.
    """

    label: str
    remedy: str

    def __new__(cls, label: str, remedy: str) -> "FindingKind":
        # Pickles hold the value: a label stays, the words of a remedy may change.
        member = object.__new__(cls)
        member._value_ = member.label = label
        member.remedy = remedy
        return member


class Report(Generic[Row]):
    """Rows that print as a table, in a terminal and in a notebook.

    Attributes:
        rows: list of named tuples.
    """

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def __str__(self) -> str:
        console = _recorded(self)
        return "\n".join(line.rstrip() for line in console.export_text().splitlines())

    __repr__ = __str__

    def _panels(self) -> list[Panel]:
        """What `plot` shows."""
        raise NotImplementedError

    def plot(self) -> Any:
        """Draws the report against the depth of the model, on a logarithmic scale.

        Returns:
            A `matplotlib.figure.Figure`, which pyplot shows too; to write a file, call
            its `savefig`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return stacked(self._panels())

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The report in dictionaries and lists, with all numbers as they are.

        Lists hold a dictionary for each row or finding, whose keys are the names of its
        attributes. Numbers that are not finite are `None`.
        """
        return {name: _plain(value) for name, value in vars(self).items()}

    def to_json(self) -> str:
        """What `to_dict` gives, as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError as error:
            raise ImportError("to_pandas() needs pandas: pip install pandas") from error
        rows: list[Any] = self.rows
        return pandas.DataFrame([row._asdict() for row in rows])

    def _repr_html_(self) -> str:
        page = "<pre style='line-height: 1.2'>{code}</pre>"
        return _recorded(self).export_html(inline_styles=True, code_format=page)


def _plain(value: Any) -> Any:
    """What JSON can hold: named tuples as objects, kinds of findings as their labels.

    Initializers become what they print, and NumPy's numbers Python's.
    """
    if hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, FindingKind):
        return value.label
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no other word for it
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)


def _recorded(renderable: Any) -> Console:
    # In a notebook rich would display what it is to record.
    console = Console(width=_WIDE, file=io.StringIO(), record=True, force_jupyter=False)
    console.width = max(1, Measurement.get(console, console.options, renderable).maximum)
    console.print(renderable)
    return console


def table(texts: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    """An empty table with a column for each text and each number of a row."""
    columns = _Table(*texts, box=None, pad_edge=False)
    for header in numbers:
        columns.add_column(header, justify="right")
    return columns


def text_lines(texts: Iterable[str]) -> Text:
    """A line for each text, such as those of findings, after a table."""
    return Text("\n".join(map(printable, texts)))


class _Table(Table):
    """A table that shows its cells as they are: `branch[a]` is a name and no markup."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(text_lines([cell]) for cell in cells), **options)


def shape_text(shape: Sequence[int]) -> str:
    """Such as 3×3×64."""
    return "×".join(map(str, shape)) or "scalar"


def number_text(number: float) -> str:
    """As short as a column of counts or deviations needs it."""
    return f"{number:.6g}"


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


def fitted(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    width: int | None,
    left: Sequence[int],
) -> list[str]:
    """The lines of a table whose names, in the first column, are shortened to fit.

    Args:
        headers: of the columns.
        rows: their cells.
        width: of the table; `None` to leave the names as they are.
        left: the numbers of the columns that hold texts.
    """
    cells = [headers, *([printable(cell) for cell in row] for row in rows)]
    if len(cells) == 1:
        return []
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    if width is not None:
        rest = sum(widths[1:]) + 2 * (len(widths) - 1)
        widths[0] = min(widths[0], max(_NAME, width - rest))
    lines = []
    for row in cells:
        line = [_shortened(row[0], widths[0]), *row[1:]]
        for place, cell in enumerate(line):
            space = " " * (widths[place] - cell_len(cell))
            line[place] = cell + space if place in left else space + cell
        lines.append("  ".join(line).rstrip())
    return lines


def _shortened(name: str, width: int) -> str:
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
