"""The float types, and memory that backends take over without a copy."""

import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from keras_fanwise.arguments import choice, fail
from keras_fanwise.sampling.quantile import (
    Slope,
    fill_normal,
    fill_truncated,
    slope_32,
    slope_64,
)

# Where a tensor's memory begins, in bytes: what lets TensorFlow and JAX take it
# as it is, without a copy.
ALIGNMENT = 64

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


def aligned_empty(size: int, dtype: np.dtype, alignment: int = ALIGNMENT) -> np.ndarray:
    """An array of one axis whose memory begins at a multiple of `alignment` bytes."""
    return _aligned(np.empty(size * dtype.itemsize + alignment, np.uint8), dtype, alignment)


def aligned_zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Likewise, of zeros; if it is large, the system provides them page by page, later."""
    return _aligned(np.zeros(size * dtype.itemsize + ALIGNMENT, np.uint8), dtype, ALIGNMENT)


def _aligned(memory: np.ndarray, dtype: np.dtype, alignment: int) -> np.ndarray:
    """The memory but for `alignment` bytes, from the first multiple of that on."""
    offset = -memory.ctypes.data % alignment
    return memory[offset : offset + memory.size - alignment].view(dtype)


def owned(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values in memory that a backend can take over, copied if they are not yet."""
    result = DTYPES[dtype]
    if (
        values.dtype == result
        and values.flags.c_contiguous
        and values.flags.writeable
        and values.ctypes.data % ALIGNMENT == 0
    ):
        return values
    copy = aligned_empty(values.size, result).reshape(values.shape)
    twice_rounded = values.dtype == np.float64 and dtype == "bfloat16"
    copy[...] = _for_one_more_rounding(values) if twice_rounded else values
    return copy


def _for_one_more_rounding(values: np.ndarray) -> np.ndarray:
    """In float32, rounded to odd: rounding them again is as if it were the only time.

    NumPy's way from float64 to bfloat16 is through float32, and what that rounds to a tie
    would be rounded a second time. Two more bits than the last type has are enough: Boldo
    and Melquiond 2008, "Emulation of a FMA and Correctly Rounded Sums: Proved Algorithms
    Using Rounding to Odd".
    """
    nearest = values.astype(np.float32)
    bits = nearest.view(np.uint32)
    bits -= np.abs(nearest) > np.abs(values)  # towards 0
    bits |= nearest.astype(np.float64) != values
    return nearest


# Enters every key: another value is another set of draws.
_VERSION = b"keras_fanwise 1"


def stream_key(seed: int | Sequence[int], weight_key: str = "") -> int:
    """The key of the random stream that fills one weight.

    The key is BLAKE2b (RFC 7693) of the seed and the weight key, so that streams
    of neighbouring seeds or of similar names have nothing to do with each other.

    Args:
        seed: an integer seed, or the integers of a generator's state. The two
            never give the same key.
        weight_key: the name of the weight, `""` outside a layer.

    Returns:
        An integer from 0 to 2**128 - 1.

    Example:

    >>> stream_key(1) == stream_key(1), stream_key(1) == stream_key(1, "kernel")
    (True, False)
    """
    text = f"seed {seed}" if isinstance(seed, int) else f"state {list(map(int, seed))}"
    message = f"{text}\0{weight_key}".encode()
    digest = hashlib.blake2b(message, digest_size=16, person=_VERSION).digest()
    return int.from_bytes(digest, "little")


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


# Elements that share a counter range; a thread's share is made of whole blocks.
BLOCK = 1 << 16
# Elements worked on at a time: alone, so few that the scratch stays in the cache; among
# threads, so many that they seldom wait for each other to start the next NumPy call.
_CHUNK_ALONE, _CHUNK_SHARED = BLOCK, 2 * BLOCK
# By n threads N elements take N/n times as long as one, and n times as long as the start
# of a thread: the least at n = sqrt(N/m), if in the time of a start (50 microseconds, or
# 200 where the machine is busy) m elements are drawn.
_ELEMENTS_PER_START = BLOCK
# The environment variable that limits them.
_THREADS = "KERAS_FANWISE_THREADS"
# In bytes, on x86 and most others. NumPy asks for them, on Linux, from 4 MiB on.
_HUGE_PAGE = 2**21

_FillNormal = Callable[[np.ndarray, float, Slope, np.ndarray], None]
_NORMALS: dict[str, _FillNormal] = {
    "truncated_normal": fill_truncated,
    "untruncated_normal": fill_normal,
}


class _Words(NamedTuple):
    """How a random word becomes an odd integer k, and k / 2**bits a uniform in (-1, 1)."""

    dtype: np.dtype
    shift: int
    bits: int
    per_counter: int
    result: np.dtype
    slope: Slope


_WORDS_32 = _Words(np.dtype(np.int32), 7, 24, 8, np.dtype(np.float32), slope_32)
_WORDS_64 = _Words(np.dtype(np.int64), 10, 53, 4, np.dtype(np.float64), slope_64)


class _Key(np.random.bit_generator.ISeedSequence):
    """Gives Philox its key: `Philox(key=...)` gathers entropy first, to no use."""

    def __init__(self, key: int) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return np.array([self._key & 2**64 - 1, self._key >> 64], dtype)


def draw(
    key: int,
    distribution: str,
    shape: Sequence[int],
    dtype: str = "float32",
    *,
    spread: float = 1.0,
    mean: float = 0.0,
    index: Sequence[slice] | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Draws a tensor, or a part of it: see `Stream.draw`.

    Args:
        threads: how many may share the work, by default the number in
            `KERAS_FANWISE_THREADS`, or as many as there are cores. The result does not
            depend on it.

    Example: a part drawn alone is the part of the whole.

    >>> whole = draw(7, "uniform", (100, 10))
    >>> columns = (slice(None), slice(3, 5))
    >>> np.array_equal(whole[columns], draw(7, "uniform", (100, 10), index=columns))
    True
    """
    region = Region(shape, index)
    out = aligned_empty(region.size, DTYPES[dtype])
    words = _WORDS_64 if dtype == "float64" else _WORDS_32

    shares = _shares(out.size, threads or _most_threads())
    # The scratch of several threads, in one piece, is worth huge pages: to touch it page
    # by page takes longer than many a draw.
    chunk, alignment = (
        (_CHUNK_ALONE, ALIGNMENT) if len(shares) == 1 else (_CHUNK_SHARED, _HUGE_PAGE)
    )
    chunk = max(1, min(chunk, max(right - left for left, right in shares)))
    rows = 1 if distribution == "uniform" else 4
    scratch = aligned_empty(len(shares) * rows * chunk, np.dtype(np.float64), alignment)
    scratches = scratch.reshape(len(shares), rows, chunk)

    def fill(share: tuple[int, int], scratch: np.ndarray) -> None:
        for left in range(*share, chunk):
            right = min(left + chunk, share[1])
            integers = _integers(key, words, region, left, right)
            _fill(out[left:right], integers, words, distribution, spread, mean, scratch)

    work = [functools.partial(fill, *each) for each in zip(shares, scratches, strict=True)]
    _run_all(work)
    return out.reshape(region.shape)


class Stream(NamedTuple):
    """The random stream of one draw: every value follows from its key and its place.

    An initializer of your own draws from it in `FanwiseInitializer.sample`.

    Attributes:
        key: a 128-bit integer.

    Example: a Cauchy distribution, by its inverse CDF.

    >>> import numpy as np
    >>> uniform = Stream(key=7).draw("uniform", (100, 10))
    >>> cauchy = np.tan(np.pi / 2 * uniform)
    """

    key: int

    def draw(
        self,
        family: str,
        shape: Sequence[int],
        dtype: str = "float32",
        *,
        spread: float = 1.0,
        mean: float = 0.0,
        index: Sequence[slice] | None = None,
    ) -> np.ndarray:
        """Draws a tensor, or a part of it; the arguments are those of a `Distribution`.

        Args:
            family: `"uniform"` on (-spread, spread); `"truncated_normal"`, a normal of
                standard deviation `spread` truncated at twice that; or
                `"untruncated_normal"`, of standard deviation `spread`.
            shape: of the whole tensor.
            dtype: `"float16"`, `"bfloat16"`, `"float32"` or `"float64"`. The first two
                are the float32 draw, rounded.
            spread: see `family`.
            mean: is added to what is drawn.
            index: a slice, with a step of 1, of each axis; by default the whole tensor.

        Returns:
            An array of shape `shape`, or, with `index`, of the shape of the part.

        Raises:
            TypeError: `family` or `dtype` is no string.
            ValueError: `family` or `dtype` is unknown, or `KERAS_FANWISE_THREADS` is set to
                something else than a number.
        """
        family = choice("family", family, ("uniform", *_NORMALS))
        dtype = choice("dtype", dtype, tuple(DTYPES))
        return draw(self.key, family, shape, dtype, spread=spread, mean=mean, index=index)


def _run_all(functions: Sequence[Callable[[], None]]) -> None:
    """Calls each, the first in this thread and the others in threads of their own.

    Where no thread can be started, at the end of the interpreter or of what the system
    allows, all of them in this one: they can be called twice.
    """
    own, *others = functions
    if not others:
        own()
        return
    with ThreadPoolExecutor(len(others), thread_name_prefix="keras_fanwise") as pool:
        try:
            futures = [pool.submit(other) for other in others]
        except RuntimeError:
            pool.shutdown(cancel_futures=True)
            for function in functions:
                function()
            return
        own()
        for future in futures:
            future.result()


def _most_threads() -> int | None:
    """What the environment says, if it does."""
    text = os.environ.get(_THREADS)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise fail(ValueError, _THREADS, "an integer of 1 or more", text)
    return int(text)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Windows and macOS do not have it
        return os.cpu_count() or 1


def _shares(size: int, threads: int | None) -> list[tuple[int, int]]:
    """Splits `size` elements into contiguous ranges of whole blocks.

    One for each thread; by default for each core.
    """
    count = max(1, math.isqrt(size // _ELEMENTS_PER_START))
    if count > 1:  # or the system need not be asked
        count = min(count, threads or _cores())
    blocks = -(-size // BLOCK)
    edges = [min(size, blocks * i // count * BLOCK) for i in range(count)] + [size]
    return list(itertools.pairwise(edges))


def _integers(key: int, words: _Words, region: Region, left: int, right: int) -> np.ndarray:
    """Odd integers, one for each element of the region from number `left` to `right`."""
    found = [_raw(key, words, stretch) for stretch in region.stretches(left, right)]
    integers = found[0] if len(found) == 1 else np.concatenate(found)
    integers >>= words.shift
    integers |= 1
    return integers


def _raw(key: int, words: _Words, stretch: Stretch) -> np.ndarray:
    counter, skip = divmod(stretch.start, words.per_counter)
    # NumPy takes any ISeedSequence; its type stubs know SeedSequence alone.
    bits = np.random.Philox(_Key(key), counter=counter)  # type: ignore[arg-type]
    count = skip + stretch.stop - stretch.start
    raw = bits.random_raw(-(-count * words.dtype.itemsize // 8))
    drawn = raw.view(words.dtype)[skip:count]
    return drawn if stretch.wanted is None else drawn[stretch.wanted]


def _fill(
    part: np.ndarray,
    integers: np.ndarray,
    words: _Words,
    distribution: str,
    spread: float,
    mean: float,
    scratch: np.ndarray,
) -> None:
    """Makes values of the distribution of odd integers."""
    uniform = distribution == "uniform"
    values, work = scratch[0], scratch[1:]
    if uniform:
        values = values.view(words.result)
    chunk = part if uniform and part.dtype == words.result else values[: integers.size]
    np.copyto(chunk, integers, casting="unsafe")  # exact
    if uniform:
        chunk *= _rounded_down(spread, words.result) * 2.0**-words.bits
    else:
        chunk *= 2.0**-words.bits
        _NORMALS[distribution](chunk, spread, words.slope, work)
    if mean:
        chunk += mean
    if part.dtype.itemsize < words.result.itemsize:
        chunk = chunk.astype(words.result, copy=False)
    if part.dtype != np.float32 and distribution != "untruncated_normal":
        # To a number that the type has, so that rounding to it stays within. float32
        # does so by itself: the last normal falls short of the bound by 3e-7 of it,
        # and the uniform's factor is rounded down.
        bound = _rounded_down(spread if uniform else 2.0 * spread, part.dtype)
        np.clip(chunk, mean - bound, mean + bound, out=chunk)
    if chunk is not part:
        part[:] = chunk


def _rounded_down(limit: float, dtype: np.dtype) -> float:
    """The largest number of `dtype` that is not above `limit`."""
    nearest: Any = dtype.type(limit)
    if float(nearest) > limit:
        nearest = np.nextafter(nearest, dtype.type(0))
    return float(nearest)
