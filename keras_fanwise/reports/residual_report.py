"""Where residual branches meet the signal that passes them by."""

from collections.abc import Iterator
from typing import NamedTuple

from keras_fanwise.reports.figures import Panel
from keras_fanwise.reports.report import Group, Report
from keras_fanwise.reports.tables import (
    MOST_KERNELS,
    Table,
    count_text,
    grouped,
    kind_text,
    some,
    span,
)


class ResidualBranch(NamedTuple):
    """A branch that meets a signal in an addition, or an addition without one.

    Attributes:
        addition: the path of the layer or operation that adds; of a layer that could not
            be opened, its own.
        layer: the class of the layer that has the last weight.
        last: the paths of the last weights: a γ, or a kernel behind which there is none.
            They are several if the branch ends in a sum or a concatenation.
        kernels: the paths of all kernels of the branch, in the order of the calls.
        length: the most kernels that a signal passes in it.
        status: `"residual"`, `"other"` for an addition that is none, or `"unopened"`.
        reason: why it is that; of a residual branch, why it cannot start at zero.
    """

    addition: str
    layer: str = ""
    last: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    length: int = 0
    status: str = "residual"
    reason: str = ""


class ResidualReport(Report[ResidualBranch]):
    """The additions of a model and the residual branches that end there.

    Printed, it tells how many there are and what could not be opened, then gives the
    branches, or their kinds if there are more than 20; `text` can give everything.

    Attributes:
        rows: list of `ResidualBranch`, in the order of the calls, then one for each layer
            that could not be opened.
        name: of the model.
    """

    _title = "Residual branches of"

    def _of(self, status: str) -> list[ResidualBranch]:
        return [row for row in self.rows if row.status == status]

    def _verdict(self) -> str:
        branches, others = len(self._of("residual")), len(self._of("other"))
        count = f"{branches} residual {'branch' if branches == 1 else 'branches'}"
        verdict = f"{count}, {count_text(others, 'other addition')}"
        unopened = len(self._of("unopened"))
        if unopened:
            verdict += f", {count_text(unopened, 'layer')} that could not be opened"
        return verdict

    def _groups(self, verbose: bool) -> Iterator[Group]:
        told = [row for row in self.rows if row.reason and not verbose]
        for same in grouped(told, lambda row: (row.status, row.reason)):
            paths = some([row.addition for row in same])
            yield f"{same[0].status}: {paths}: {same[0].reason}", ()

    def _table(self, verbose: bool) -> Table:
        if verbose:
            cells = [
                (row.addition, row.layer, "\n".join(row.last), _length(row), _status(row))
                for row in self.rows
            ]
            return Table(
                ("addition", "layer", "last weight", "kernels", ""), cells, (0, 1, 2, 4)
            )
        rows = self._of("residual")
        if len(rows) <= MOST_KERNELS:
            short = [(" and ".join(row.last) or row.addition, _length(row)) for row in rows]
            return Table(("last weight", "kernels"), short)

        def kind(row: ResidualBranch) -> tuple[str, str]:
            return row.layer, "".join(row.last[-1:]).rpartition("/")[2]

        kinds = [
            (
                kind_text(same[0].layer, "".join(same[0].last[-1:]), len(same)),
                span(row.length for row in same),
            )
            for same in grouped(rows, kind)
        ]
        return Table(("last weights", "kernels"), kinds)

    def _panels(self) -> list[Panel]:
        rows = self._of("residual")
        series = {"kernels of the branch": [float(row.length) for row in rows]}
        return [Panel("kernels", [row.addition for row in rows], series)]


def _length(row: ResidualBranch) -> str:
    return str(row.length) if row.length else ""


def _status(row: ResidualBranch) -> str:
    return f"{row.status}: {row.reason}" if row.reason else row.status
