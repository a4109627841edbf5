"""Which elements of a tensor make up a part of it, in row-major order."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Drawing a gap of this many unwanted elements takes as long as starting a new draw behind
# it: shorter gaps are drawn and left out.
_GAP = 3000
# Elements, wanted or not, that are drawn at a time.
_LONGEST = 1 << 18


class Stretch(NamedTuple):
    """Neighbouring elements of a tensor.

    Attributes:
        start: the number of the first, counted in row-major order.
        stop: that behind the last.
        wanted: which of them are wanted, from 0 on; `None` for all.
    """

    start: int
    stop: int
    wanted: np.ndarray | None


class Region:
    """A part of a tensor: a slice of each axis.

    In row-major order it is made of runs of elements that are neighbours in the tensor,
    all of one length.

    Args:
        shape: of the tensor.
        index: a slice with a step of 1 for each axis; by default the whole tensor.

    Attributes:
        shape: of the region.
        size: how many elements it has.

    Example: the last two of three columns.

    >>> region = Region((2, 3), (slice(None), slice(1, 3)))
    >>> [stretch] = region.stretches(0, 4)
    >>> region.shape, stretch.start, stretch.stop, stretch.wanted.tolist()
    ((2, 2), 1, 6, [0, 1, 3, 4])
    """

    def __init__(self, shape: Sequence[int], index: Sequence[slice] | None = None) -> None:
        self._first = 0
        self._outer: tuple[int, ...] = ()
        self.shape = tuple(shape)
        if index is not None:
            self._cut(shape, index)
        self.size = math.prod(self.shape)

    def _cut(self, shape: Sequence[int], index: Sequence[slice]) -> None:
        bounds = [each.indices(n)[:2] for each, n in zip(index, shape, strict=True)]
        self.shape = tuple(max(0, stop - start) for start, stop in bounds)
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        self._first = sum(b[0] * n for b, n in zip(bounds, strides, strict=True))
        partial = [axis for axis, n in enumerate(shape) if self.shape[axis] != n]
        inner = partial[-1] if partial else 0  # from this axis on there are no gaps
        self._run = math.prod(self.shape[inner:])
        self._outer = self.shape[:inner]
        self._strides = np.array(strides[:inner], np.int64)

    def stretches(self, left: int, right: int) -> Iterator[Stretch]:
        """What to draw for the elements of the region from number `left` to `right`."""
        if not self._outer:
            yield Stretch(self._first + left, self._first + right, None)
            return
        first, last = left // self._run, (right - 1) // self._run
        starts = self._starts(first, last + 1)
        stops = starts + self._run
        starts[0] += left % self._run
        stops[-1] -= -right % self._run
        # Runs go together as long as gaps are small, and there are not too many.
        edges = [0, *(1 + np.flatnonzero(starts[1:] - stops[:-1] > _GAP)), len(starts)]
        for begin, end in itertools.pairwise(edges):
            if end == begin + 1:
                yield Stretch(int(starts[begin]), int(stops[begin]), None)
                continue
            while begin < end:
                limit = np.searchsorted(stops[begin:end], starts[begin] + _LONGEST, "right")
                several = slice(begin, begin + max(1, int(limit)))
                begin = several.stop
                yield _together(starts[several], stops[several])

    def _starts(self, first: int, stop: int) -> np.ndarray:
        """The elements with which the runs from number `first` to `stop` begin."""
        places = np.unravel_index(np.arange(first, stop), self._outer)
        return self._first + self._strides @ np.stack(places)


def _together(starts: np.ndarray, stops: np.ndarray) -> Stretch:
    start, stop = int(starts[0]), int(stops[-1])
    lengths = stops - starts
    before = np.cumsum(lengths) - lengths
    wanted = np.repeat(starts - start - before, lengths) + np.arange(lengths.sum())
    return Stretch(start, stop, wanted)
