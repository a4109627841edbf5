"""The base of all reports: rows that print as a table, plot, and turn into JSON."""

import enum
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from keras_fanwise.arguments import printable
from keras_fanwise.reports.figures import Panel, stacked

Row = TypeVar("Row")

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

    def to_json(self) -> str:
        """The report as a JSON object, with all numbers as they are.

        Lists hold an object for each row or finding, whose keys are the names of its
        attributes. Numbers that are not finite are null.
        """
        content = {name: _plain(value) for name, value in vars(self).items()}
        return json.dumps(content, indent=2)

    def _repr_html_(self) -> str:
        page = "<pre style='line-height: 1.2'>{code}</pre>"
        return _recorded(self).export_html(inline_styles=True, code_format=page)


def _plain(value: Any) -> Any:
    """What JSON can hold: named tuples as objects, kinds of findings as their labels.

    NumPy's numbers become Python's, which are all that `json` knows.
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
    return value


def _recorded(renderable: Any) -> Console:
    console = Console(width=_WIDE, file=io.StringIO(), record=True)
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
