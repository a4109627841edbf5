"""The fans of a model's weights, as this package and as Keras counts them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from keras_fanwise.fans.counting import Fans
from keras_fanwise.reports.report import Group, Report
from keras_fanwise.reports.tables import (
    MOST_KERNELS,
    SHOWN,
    Panel,
    Table,
    count_text,
    grouped,
    kind_text,
    number_text,
    shape_text,
    some,
    span,
)
from keras_fanwise.seam.weights import Role


class WeightFans(NamedTuple):
    """The fans of one weight of a model, as this package and as Keras counts them.

    Attributes:
        path: of the weight.
        layer: the class of the layer that owns it.
        shape: of the weight.
        fans: as `layer_fans` counts them.
        keras_fans: as the installed Keras counts them.
        fan_in_ratio: the standard deviation that this package gives the weight divided by
            the one that Keras gives it, by initializers that look at fan_in (He, LeCun).
        fan_avg_ratio: likewise, by those that look at both fans (Glorot).
        role: what the weight does in its layer: `"kernel"`, `"matrix"` (perhaps a kernel),
            `"lookup table"`, `"scale"`, `"bias"`, `"state"` or `"something else"`.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    fans: Fans
    keras_fans: Fans
    fan_in_ratio: float
    fan_avg_ratio: float
    role: Role


_RATIOS = ("std of\nhe, lecun", "std of\nglorot")
_FANS_NUMBERS = ("fan_in", "fan_out", "Keras's\nfan_in", "Keras's\nfan_out", *_RATIOS)


class FansTable(Report[WeightFans]):
    """The weights of a model.

    Printed, it tells how many kernels Keras counts otherwise, then gives the kernels, or
    their kinds if there are more than 20; `text` can give every weight.

    Attributes:
        rows: list of `WeightFans`, one for each weight, in the order of the layers.
        name: of the model.
    """

    _title = "Fans of"

    def _kernels(self) -> list[WeightFans]:
        return [row for row in self.rows if row.role in SHOWN]

    def _verdict(self) -> str:
        kernels = self._kernels()
        otherwise = sum(row.fans != row.keras_fans for row in kernels)
        return f"Keras counts {otherwise} of {len(kernels)} kernels otherwise."

    def _groups(self, verbose: bool) -> Iterable[Group]:
        return ()

    def _table(self, verbose: bool) -> Table:
        if verbose:
            headers = ("weight", "layer", "shape", *_FANS_NUMBERS)
            cells = [
                (row.path, row.layer, shape_text(row.shape), *_fans_numbers(row))
                for row in self.rows
            ]
            return Table(headers, cells, (0, 1, 2))
        rows = self._kernels()
        if len(rows) <= MOST_KERNELS:
            return Table(
                ("kernel", *_FANS_NUMBERS),
                [(row.path, *_fans_numbers(row)) for row in rows],
            )

        def kind(row: WeightFans) -> tuple[str, str, bool]:
            return row.layer, row.path.rpartition("/")[2], row.fans == row.keras_fans

        kinds = [
            (
                kind_text(same[0].layer, same[0].path, len(same)),
                f"× {span((row.fan_in_ratio for row in same), 3)}",
                f"× {span((row.fan_avg_ratio for row in same), 3)}",
            )
            for same in grouped(rows, kind)
        ]
        return Table(("kernels", *_RATIOS), kinds)

    def _panels(self) -> list[Panel]:
        rows = self._kernels()
        series = {
            "he, lecun": [row.fan_in_ratio for row in rows],
            "glorot": [row.fan_avg_ratio for row in rows],
        }
        names = [row.path for row in rows]
        return [Panel("std, ours / Keras's", names, series, reference=1.0)]


def _fans_numbers(row: WeightFans) -> tuple[str, ...]:
    fans = map(number_text, (*row.fans, *row.keras_fans))
    ratios = (row.fan_in_ratio, row.fan_avg_ratio)
    return (*fans, *(f"× {number_text(ratio, 3)}" for ratio in ratios))


class WeightStart(NamedTuple):
    """How a weight of a model starts.

    Attributes:
        path: of the weight.
        layer: the class of the layer that owns it.
        shape: of the weight.
        fans: as `layer_fans` counts them.
        initializer: what fills it; `""` if it is kept.
        std_asked: the standard deviation that the initializer draws with; `None` for
            those that are not random or not known.
        std: the standard deviation of the values; `None` in a plan.
        status: `"set"` or `"kept"`.
        reason: why it is kept.
        role: what the weight does in its layer: `"kernel"`, `"matrix"` (perhaps a kernel),
            `"lookup table"`, `"scale"`, `"bias"`, `"state"` or `"something else"`.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    fans: Fans
    initializer: str = ""
    std_asked: float | None = None
    std: float | None = None
    status: str = "kept"
    reason: str = ""
    role: Role = Role.OTHER


_START_NUMBERS = ("fan_in", "fan_out", "std asked", "std")
# Initializers that differ in a seed alone are told together if there are more of them.
_MOST_INITIALIZERS = 8


class StartReport(Report[WeightStart]):
    """Every weight of a model and what was done to it.

    Printed, it tells how many weights were set and kept, by which initializer and why,
    then gives the kernels, or their kinds if there are more than 20; `text` can give every
    weight.

    Attributes:
        rows: list of `WeightStart`, one for each weight, in the order of the model.
        seed: an integer with which the same call gives the same weights again.
        unsaved: the paths of weights whose new initializer the config of no layer holds. A
            model that is saved and loaded has their values, but `reinitialize` draws them
            by the initializer of before.
        name: of the model.
    """

    _title = "Start of"

    def __init__(
        self,
        rows: list[WeightStart],
        seed: int,
        unsaved: Sequence[str] = (),
        *,
        name: str = "",
    ) -> None:
        super().__init__(rows, name=name)
        self.seed = seed
        self.unsaved = list(unsaved)

    def _verdict(self) -> str:
        count = sum(row.status == "set" for row in self.rows)
        return f"{count} set, {len(self.rows) - count} kept; seed {self.seed}"

    def _groups(self, verbose: bool) -> Iterator[Group]:
        if not verbose:
            yield from self._by_initializer()
        if self.unsaved:
            paths = ", ".join(self.unsaved) if verbose else some(self.unsaved)
            head = f"the model does not save the initializers of {paths}"
            yield f"{head}: no layer has an argument for them", ()

    def _by_initializer(self) -> Iterator[Group]:
        names = {row.initializer for row in self.rows}
        whole = len(names) <= _MOST_INITIALIZERS

        def label(row: WeightStart) -> str:
            name = row.initializer if whole else row.initializer.partition("(")[0]
            return f"{_start_status(row)} by {name}" if name else _start_status(row)

        def kind(row: WeightStart) -> tuple[str, str]:
            return row.layer, row.path.rpartition("/")[2]

        for same in grouped(self.rows, label):
            kinds = [
                kind_text(alike[0].layer, alike[0].path, len(alike))
                for alike in grouped(same, kind)
            ]
            weights = count_text(len(same), "weight")
            yield f"{label(same[0])}: {weights}: {', '.join(kinds)}", ()

    def _table(self, verbose: bool) -> Table:
        if verbose:
            headers = ("weight", "layer", "shape", *_START_NUMBERS, "initializer", "")
            cells = [
                (
                    row.path,
                    row.layer,
                    shape_text(row.shape),
                    *_start_numbers(row),
                    row.initializer,
                    _start_status(row),
                )
                for row in self.rows
            ]
            return Table(headers, cells, (0, 1, 2, 7, 8))
        rows = [row for row in self.rows if row.role in SHOWN]
        if len(rows) <= MOST_KERNELS:
            cells = [
                (row.path, shape_text(row.shape), *_start_numbers(row), row.status)
                for row in rows
            ]
            return Table(("kernel", "shape", *_START_NUMBERS, ""), cells, (0, 1, 6))

        def kind(row: WeightStart) -> tuple[str, ...]:
            return row.layer, row.path.rpartition("/")[2], row.status

        kinds = [
            (
                kind_text(same[0].layer, same[0].path, len(same)),
                span(row.std_asked for row in same),
                span(row.std for row in same),
                same[0].status,
            )
            for same in grouped(rows, kind)
        ]
        return Table(("kernels", *_START_NUMBERS[2:], ""), kinds, (0, 3))

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.std_asked]
        series = {
            "asked": [row.std_asked for row in rows],
            "measured": [row.std for row in rows],
        }
        return [Panel("std", [row.path for row in rows], series)]


def _start_numbers(row: WeightStart) -> tuple[str, ...]:
    stds = (number_text(std, 4) for std in (row.std_asked, row.std))
    return (*map(number_text, row.fans), *stds)


def _start_status(row: WeightStart) -> str:
    return f"{row.status}: {row.reason}" if row.reason else row.status


class CalibratedWeight(NamedTuple):
    """What became of a kernel.

    Attributes:
        path: of the kernel.
        layer: the class of the layer that owns it.
        shape: of the kernel.
        before: the standard deviation of what its layer gave before its activation, with
            all that came before it calibrated; `None` if that was not measured.
        factor: by what the kernel was multiplied, the median of its units by unit; 1 if it
            is kept.
        after: the standard deviation of what its layer gives now; `None` if it is kept.
        status: `"scaled"` or `"kept"`.
        reason: why it is kept.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    before: float | None = None
    factor: float = 1.0
    after: float | None = None
    status: str = "kept"
    reason: str = ""


_CALIBRATION_NUMBERS = ("std", "factor")


class CalibrationReport(Report[CalibratedWeight]):
    """Every kernel of a model and by what it was scaled.

    Printed, it tells how many kernels were scaled, why others are kept, and gives the
    kernels, or their kinds if there are more than 20; `text` can give every kernel.

    Attributes:
        rows: list of `CalibratedWeight`, in the order of the calls, then those kernels that
            were not called.
        name: of the model.
    """

    _title = "Calibration of"

    def _verdict(self) -> str:
        count = sum(row.status == "scaled" for row in self.rows)
        return f"{count} scaled, {len(self.rows) - count} kept"

    def _groups(self, verbose: bool) -> Iterator[Group]:
        kept = [row for row in self.rows if row.reason and not verbose]
        for same in grouped(kept, _calibration_status):
            count = count_text(len(same), "kernel")
            paths = some([row.path for row in same])
            yield f"{_calibration_status(same[0])}: {count}: {paths}", ()

    def _table(self, verbose: bool) -> Table:
        if verbose:
            cells = [
                (
                    row.path,
                    row.layer,
                    shape_text(row.shape),
                    *_calibration_numbers(row),
                    _calibration_status(row),
                )
                for row in self.rows
            ]
            return Table(
                ("kernel", "layer", "shape", *_CALIBRATION_NUMBERS, ""), cells, (0, 1, 2, 5)
            )
        if len(self.rows) <= MOST_KERNELS:
            short = [
                (row.path, shape_text(row.shape), *_calibration_numbers(row), row.status)
                for row in self.rows
            ]
            return Table(("kernel", "shape", *_CALIBRATION_NUMBERS, ""), short, (0, 1, 4))

        def kind(row: CalibratedWeight) -> tuple[str, ...]:
            return row.layer, row.path.rpartition("/")[2], row.status

        kinds = [
            (
                kind_text(same[0].layer, same[0].path, len(same)),
                span(row.before for row in same),
                span(row.factor for row in same) if same[0].status == "scaled" else "",
                same[0].status,
            )
            for same in grouped(self.rows, kind)
        ]
        return Table(("kernels", *_CALIBRATION_NUMBERS, ""), kinds, (0, 3))

    def _panels(self) -> list[Panel]:
        rows = [row for row in self.rows if row.before]
        series = {
            "before": [row.before for row in rows],
            "after": [row.after for row in rows],
        }
        return [Panel("std", [row.path for row in rows], series)]


def _calibration_numbers(row: CalibratedWeight) -> tuple[str, str]:
    factor = row.factor if row.status == "scaled" else None
    return number_text(row.before, 4), number_text(factor, 4)


def _calibration_status(row: CalibratedWeight) -> str:
    return f"{row.status}: {row.reason}" if row.reason else row.status


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
                (
                    row.addition,
                    row.layer,
                    "\n".join(row.last),
                    _length(row),
                    _branch_status(row),
                )
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


def _branch_status(row: ResidualBranch) -> str:
    return f"{row.status}: {row.reason}" if row.reason else row.status
