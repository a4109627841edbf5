"""What was counted or done, as objects that print as a table."""

import io
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

Row = TypeVar("Row")

# More than any table needs: a path that is cut off names no weight.
_WIDE = 10_000


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

    def _repr_html_(self) -> str:
        page = "<pre style='line-height: 1.2'>{code}</pre>"
        return _recorded(self).export_html(inline_styles=True, code_format=page)


def _recorded(renderable: Any) -> Console:
    console = Console(width=_WIDE, file=io.StringIO(), record=True)
    console.width = max(1, Measurement.get(console, console.options, renderable).maximum)
    console.print(renderable)
    return console


def table(texts: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    """An empty table with a column for each text and each number of a row."""
    columns = Table(*texts, box=None, pad_edge=False)
    for header in numbers:
        columns.add_column(header, justify="right")
    return columns


def shape_text(shape: Sequence[int]) -> str:
    """Such as 3×3×64."""
    return "×".join(map(str, shape)) or "scalar"


def number_text(number: float) -> str:
    """As short as a column of counts or deviations needs it."""
    return f"{number:.6g}"
