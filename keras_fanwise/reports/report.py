"""The base of all reports: a verdict, groups and a table, as text, HTML and JSON."""

import enum
import json
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from keras_fanwise.reports.tables import (
    MOST_KERNELS,
    Column,
    Panel,
    Table,
    count_text,
    escape,
    group_by,
    screen_width,
    wrap,
)
from keras_fanwise.seam.weights import Role

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How much a finding weighs, the worst first.
ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")

Row = TypeVar("Row", bound=Any)
Finding = TypeVar("Finding", bound=Any)
# A line that counts what is alike, and lines that say more of it.
Group = Sequence[str]


class FindingKind(enum.Enum):
    """A kind of finding, with what helps; its value is its label."""

    label: str
    remedy: str

    def __new__(cls, label: str, remedy: str) -> "FindingKind":
        # Pickles hold the value: a label stays, the words of a remedy may change.
        member = object.__new__(cls)
        member._value_ = member.label = label
        member.remedy = remedy
        return member


# The weights of which a short table has rows.
SHOWN = (Role.KERNEL, Role.MATRIX, Role.LOOKUP)
# Whatever the theme of the notebook: no colours, long names broken, no scrolling sideways.
_STYLE = "white-space: normal; overflow-wrap: anywhere; text-align: left"


@dataclass(eq=False, repr=False)
class Report(Generic[Row, Finding]):
    """Rows about a model, and what is to be said of it.

    Printed, it gives a verdict in the first line, what there is to say, and a table of the
    kernels; `text` can give everything. Its length is the number of rows.

    Attributes:
        rows: list of named tuples.
        name: of the model.
        findings: list of what is wrong, errors first, then warnings, then notes.
    """

    _title: ClassVar[str]  # of figures, before the name
    # Columns: of every row, of those that are read at a glance, and of kinds of these where
    # they are many. Without kinds there are never many.
    _every: ClassVar[Sequence[Column]]
    _short: ClassVar[Sequence[Column]]
    _kinds: ClassVar[Sequence[Column]] = ()

    rows: list[Row]
    name: str = field(default="", kw_only=True)
    findings: list[Finding] = field(default_factory=list, kw_only=True)

    def __post_init__(self) -> None:
        self.findings = sorted(self.findings, key=lambda one: LEVELS.index(one.severity))

    def _of(self, level: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == level]

    @property
    def errors(self) -> list[Finding]:
        """The findings with which the model will not train as it is."""
        return self._of(ERROR)

    @property
    def warnings(self) -> list[Finding]:
        """Those with which it trains slowly, or at few learning rates."""
        return self._of(WARNING)

    @property
    def notes(self) -> list[Finding]:
        """Those that are to be known, and do no harm."""
        return self._of(NOTE)

    def _counts(self) -> str:
        """Such as "1 error, 0 warnings, 2 notes"."""
        return ", ".join(count_text(len(self._of(level)), level) for level in LEVELS)

    def _verdict(self) -> str:
        """The first line."""
        raise NotImplementedError

    def _groups(self, verbose: bool) -> Iterable[Group]:
        """What is to say beside the table."""
        return ()

    def _shown(self) -> list[Row]:
        """The rows that are read at a glance: all, or of weights the kernels."""
        return [row for row in self.rows if getattr(row, "role", SHOWN[0]) in SHOWN]

    def _panels(self) -> list[Panel]:
        """What `plot` shows."""
        raise NotImplementedError

    def _kind(self, row: Row) -> Hashable:
        """What rows have in common that are shown as one: the words of their columns."""
        return tuple(column.cell(row) for column in self._kinds if column.is_text)

    def _table(self, verbose: bool) -> Table:
        if verbose:
            return Table.of(self._every, self.rows)
        rows = self._shown()
        if len(rows) <= MOST_KERNELS or not self._kinds:
            return Table.of(self._short, rows)
        groups = group_by(rows, self._kind)
        cells = [[column.kind(group) for column in self._kinds] for group in groups]
        return Table(self._kinds, cells)

    def text(self, verbose: bool = False) -> str:
        """The report as a text as wide as the terminal, of at least 80 columns.

        Args:
            verbose: whether to give every row and every finding, with names in full, in
                place of the kernels and of what is alike in groups.
        """
        width = screen_width()
        told = []
        for head, *rest in self._groups(verbose):
            told += wrap(head, width, hanging=4)
            for line in rest:
                told += wrap(line, width, hanging=4, first=4)
        table = self._table(verbose).text(None if verbose else width)
        parts = wrap(self._verdict(), width), told, table
        return "\n\n".join("\n".join(lines) for lines in parts if lines)

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f'<div style="{_STYLE}">']
        parts.append(f"<p><strong>{escape(self._verdict())}</strong></p>")
        groups = ["<br>".join(map(escape, lines)) for lines in self._groups(verbose=False)]
        if groups:
            parts += ["<ul>", *(f"<li>{group}</li>" for group in groups), "</ul>"]
        table = self._table(verbose=False)
        if table.cells:
            parts.append(table.html())
        return "\n".join([*parts, "</div>"])

    def plot(self, ax: Any = None) -> "Figure":
        """Draws the report against the depth of the model, on a logarithmic scale.

        Args:
            ax: a `matplotlib.axes.Axes` to draw into, or a sequence of two for a
                `SignalReport`: forward and backward. By default a new figure, whose size
                depends on the number of names.

        Returns:
            The `matplotlib.figure.Figure`, unknown to `pyplot`: a notebook shows it as the
            value of a cell, `savefig` writes a file, and it need not be closed.

        Raises:
            ImportError: matplotlib is not installed.
            TypeError: `ax` is not of Axes.
            ValueError: `ax` are not as many as the report needs.
        """
        try:
            from keras_fanwise.reports.drawing import draw
        except ImportError as error:
            message = 'plot() needs matplotlib: pip install "keras_fanwise[plot]"'
            raise ImportError(message) from error
        return draw(self._panels(), f"{self._title} {self.name}".strip(), ax)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The report in dictionaries and lists, with all numbers as they are.

        Lists hold a dictionary for each row or finding, whose keys are the names of its
        attributes. Numbers that are not finite are `None`.
        """
        return {name: _plain(value) for name, value in vars(self).items() if name[0] != "_"}

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
        return pandas.DataFrame([row._asdict() for row in self.rows])


def _plain(value: Any) -> Any:
    """What JSON can hold: named tuples as objects, initializers as what they print."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no other word for it
    return value if value is None or isinstance(value, (int, float, str)) else repr(value)
