"""Draws from a random stream, into memory that backends take over without a copy."""

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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


def aligned(
    size: int,
    dtype: np.dtype,
    alignment: int = ALIGNMENT,
    allocate: Callable[..., np.ndarray] = np.empty,
) -> np.ndarray:
    """An array of one axis whose memory begins at a multiple of `alignment` bytes."""
    memory = allocate(size * dtype.itemsize + alignment, np.uint8)
    offset = -memory.ctypes.data % alignment
    return memory[offset : offset + size * dtype.itemsize].view(dtype)


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
    copy = aligned(values.size, result).reshape(values.shape)
    twice_rounded = values.dtype == np.float64 and dtype == "bfloat16"
    copy[...] = _for_one_more_rounding(values) if twice_rounded else values
    return copy


def _for_one_more_rounding(values: np.ndarray) -> np.ndarray:
    """In float32, rounded to odd: rounding them again is as if it were the only time."""
    # NumPy's way from float64 to bfloat16 is through float32. Boldo and Melquiond 2008,
    # "Emulation of a FMA and Correctly Rounded Sums".
    nearest = values.astype(np.float32)
    bits = nearest.view(np.uint32)
    bits -= np.abs(nearest) > np.abs(values)  # towards 0
    bits |= nearest.astype(np.float64) != values
    return nearest


# Enters every key: another value is another set of draws.
_VERSION = b"keras_fanwise 1"


def stream_key(seed: int | Sequence[int], weight_key: str = "") -> int:
    """The 128-bit key of the random stream that fills one weight.

    It is BLAKE2b (RFC 7693) of the weight key and an integer seed, so that streams of
    neighbouring seeds or of similar names have nothing to do with each other; or an
    element of such a stream, by the integers of a generator's state.
    """
    if isinstance(seed, int):
        return _hash(f"seed {seed}\0{weight_key}")
    counter = sum(int(word) << 64 * i for i, word in enumerate(seed))
    low, high = map(int, _philox(state_key(len(seed), weight_key), counter).random_raw(2))
    return low | high << 64


def state_key(words: int, weight_key: str = "") -> int:
    """Of the stream of a generator's keys, each by its state: Philox can be traced."""
    return _hash(f"state of {words}\0{weight_key}")


def _hash(message: str) -> int:
    digest = hashlib.blake2b(message.encode(), digest_size=16, person=_VERSION).digest()
    return int.from_bytes(digest, "little")


class _Key(np.random.bit_generator.ISeedSequence):
    """Gives Philox its key: `Philox(key=...)` gathers entropy first, to no use."""

    def __init__(self, key: int) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return np.array([self._key & 2**64 - 1, self._key >> 64], dtype)


def _philox(key: int, counter: int) -> np.random.Philox:
    # NumPy takes any ISeedSequence; its type stubs know SeedSequence alone.
    return np.random.Philox(_Key(key), counter=counter)  # type: ignore[arg-type]


# Drawing a gap of this many unwanted elements takes as long as starting a new draw after
# it: shorter gaps are drawn and left out.
_GAP = 3000
# Elements, wanted or not, that are drawn at a time.
_LONGEST = 1 << 18


class Subarray:
    """A slice of each axis of a tensor; in row-major order runs of length `run`.

    There are `outer` of them along the axes before the last that is cut, which have these
    `strides` in the tensor, from element number `first` on.
    """

    def __init__(self, shape: Sequence[int], index: Sequence[slice] | None = None) -> None:
        self.shape = tuple(shape)
        self.first, self.outer, self.run = 0, self.shape[:0], math.prod(self.shape)
        self.strides = np.array((), np.int64)
        if index is not None:
            bounds = [each.indices(n)[:2] for each, n in zip(index, shape, strict=True)]
            self.shape = tuple(max(0, stop - start) for start, stop in bounds)
            strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
            self.first = sum(b[0] * n for b, n in zip(bounds, strides, strict=True))
            partial = [axis for axis, n in enumerate(shape) if self.shape[axis] != n]
            inner = partial[-1] if partial else 0  # from this axis on there are no gaps
            self.run = math.prod(self.shape[inner:])
            self.outer = self.shape[:inner]
            self.strides = np.array(strides[:inner], np.int64)
        self.size = math.prod(self.shape)

    def stretches(
        self, left: int, right: int
    ) -> Iterator[tuple[int, int, np.ndarray | None]]:
        """What to draw for its elements from number `left` to `right`.

        The numbers in the tensor of the first and after the last, and which are wanted.
        """
        if not self.outer:
            yield self.first + left, self.first + right, None
            return
        runs = np.arange(left // self.run, (right - 1) // self.run + 1)
        places = np.stack(np.unravel_index(runs, self.outer))
        starts = self.first + self.strides @ places
        stops = starts + self.run
        starts[0] += left % self.run
        stops[-1] -= -right % self.run
        # Runs go together as long as gaps are small, and there are not too many.
        edges = [0, *(1 + np.flatnonzero(starts[1:] - stops[:-1] > _GAP)), len(starts)]
        for begin, end in itertools.pairwise(edges):
            if end == begin + 1:
                yield int(starts[begin]), int(stops[begin]), None
                continue
            while begin < end:
                limit = np.searchsorted(stops[begin:end], starts[begin] + _LONGEST, "right")
                several = slice(begin, begin + max(1, int(limit)))
                begin = several.stop
                lengths = stops[several] - starts[several]
                gaps = starts[several] - starts[several][0] - np.cumsum(lengths) + lengths
                wanted = np.repeat(gaps, lengths) + np.arange(lengths.sum())
                yield int(starts[several][0]), int(stops[several][-1]), wanted


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

_NORMALS = {"truncated_normal": fill_truncated, "untruncated_normal": fill_normal}


class Words(NamedTuple):
    """How a random word becomes an odd integer k, and k / 2**bits a uniform in (-1, 1)."""

    dtype: np.dtype
    shift: int
    bits: int
    per_counter: int
    result: np.dtype
    slope: Slope


_WORDS_32 = Words(np.dtype(np.int32), 7, 24, 8, np.dtype(np.float32), slope_32)
_WORDS_64 = Words(np.dtype(np.int64), 10, 53, 4, np.dtype(np.float64), slope_64)


def words_of(dtype: str) -> Words:
    """The words of which values of a type are made."""
    return _WORDS_64 if dtype == "float64" else _WORDS_32


class Stream(NamedTuple):
    """The random stream of one draw: every value follows from its key and its place.

    An initializer of your own draws from it in `FanwiseInitializer.sample`.

    Attributes:
        key: a 128-bit integer.

    Example: a part that is drawn alone is the part of the whole.

    >>> import numpy as np
    >>> stream = Stream(key=7)
    >>> whole = stream.draw("uniform", (100, 10))
    >>> columns = (slice(None), slice(3, 5))
    >>> np.array_equal(whole[columns], stream.draw("uniform", (100, 10), index=columns))
    True
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
        """Draws a tensor, or a part of it; the arguments are as in a `Distribution`.

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
        part, words = Subarray(shape, index), words_of(dtype)
        out = aligned(part.size, DTYPES[dtype])
        rows = 1 if family == "uniform" else 4

        def fill(share: tuple[int, int], scratch: np.ndarray) -> None:
            first, last = share
            chunk = scratch.shape[1]
            for left in range(first, last, chunk):
                right = min(left + chunk, last)
                integers = _odd_integers(self.key, words, part, left, right)
                _fill(out[left:right], integers, words, family, spread, mean, scratch)

        shares = _shares(part.size, _thread_count(part.size))
        if len(shares) == 1:
            fill(shares[0], np.empty((rows, max(1, min(part.size, _CHUNK_ALONE)))))
        else:
            # In one piece it is worth huge pages: to touch it page by page takes longer
            # than many a draw.
            size = len(shares) * rows * _CHUNK_SHARED
            memory = aligned(size, np.dtype(np.float64), _HUGE_PAGE)
            scratches = memory.reshape(len(shares), rows, _CHUNK_SHARED)
            _in_threads(fill, zip(shares, scratches, strict=True))
        return out.reshape(part.shape)


def _in_threads(function: Callable[..., None], calls: Iterable[tuple[Any, ...]]) -> None:
    """Calls it with each: the first in this thread, the others in threads of their own."""
    own, *others = calls = list(calls)
    with ThreadPoolExecutor(len(others), thread_name_prefix="keras_fanwise") as pool:
        try:
            futures = [pool.submit(function, *each) for each in others]
        except RuntimeError:  # at the end of the interpreter or of what the system allows
            pool.shutdown(cancel_futures=True)
            for each in calls:
                function(*each)
            return
        function(*own)
        for future in futures:
            future.result()


def _thread_count(size: int) -> int:
    """How many threads draw so many elements soonest, of those that there may be."""
    text = os.environ.get(_THREADS)
    if text is not None and not (text.isascii() and text.isdigit() and int(text)):
        raise fail(ValueError, _THREADS, "an integer of 1 or more", text)
    count = math.isqrt(size // _ELEMENTS_PER_START)
    if count <= 1:  # the system need not be asked
        return 1
    if text is not None:
        return min(count, int(text))
    try:
        return min(count, len(os.sched_getaffinity(0)))
    except AttributeError:  # Windows and macOS do not have it
        return min(count, os.cpu_count() or 1)


def _shares(size: int, count: int) -> list[tuple[int, int]]:
    """Splits `size` elements into `count` contiguous ranges of whole blocks."""
    blocks = -(-size // BLOCK)
    edges = [blocks * i // count * BLOCK for i in range(count)] + [size]
    return list(itertools.pairwise(edges))


def _odd_integers(
    key: int, words: Words, part: Subarray, left: int, right: int
) -> np.ndarray:
    """One for each element of the part from number `left` to `right`."""
    drawn = []
    for start, stop, wanted in part.stretches(left, right):
        counter, skip = divmod(start, words.per_counter)
        count = skip + stop - start
        raw = _philox(key, counter).random_raw(-(-count * words.dtype.itemsize // 8))
        stretch = raw.view(words.dtype)[skip:count]
        drawn.append(stretch if wanted is None else stretch[wanted])
    integers = drawn[0] if len(drawn) == 1 else np.concatenate(drawn)
    integers >>= words.shift
    integers |= 1
    return integers


def values_of(integers: np.ndarray, family: str, dtype: str, spread: float) -> np.ndarray:
    values, scratch = np.empty(integers.size, DTYPES[dtype]), np.empty((4, integers.size))
    _fill(values, integers, words_of(dtype), family, spread, 0.0, scratch)
    return values


def _fill(
    part: np.ndarray,
    integers: np.ndarray,
    words: Words,
    family: str,
    spread: float,
    mean: float,
    scratch: np.ndarray,
) -> None:
    """Turns odd integers into values of the distribution."""
    uniform = family == "uniform"
    values, work = scratch[0], scratch[1:]
    if uniform:
        values = values.view(words.result)
    chunk = part if uniform and part.dtype == words.result else values[: integers.size]
    np.copyto(chunk, integers, casting="unsafe")  # exact
    if uniform:
        chunk *= uniform_factor(spread, words)
    else:
        chunk *= 2.0**-words.bits
        _NORMALS[family](chunk, spread, words.slope, work)
    if mean:
        chunk += mean
    if part.dtype.itemsize < words.result.itemsize:
        chunk = chunk.astype(words.result, copy=False)
    limits = limits_of(family, part.dtype, spread, mean)
    if limits:
        np.clip(chunk, *limits, out=chunk)
    if chunk is not part:
        part[:] = chunk


def uniform_factor(spread: float, words: Words) -> float:
    """What makes the words' integers uniform on (-spread, spread)."""
    return _rounded_down(spread, words.result) * 2.0**-words.bits


def limits_of(
    family: str, dtype: np.dtype, spread: float, mean: float
) -> tuple[float, float] | None:
    """What values are clipped to, so that rounding stays within; `None` for nothing."""
    # float32 does so by itself: the last normal falls short of the bound by 3e-7 of it, and
    # the uniform's factor is rounded down.
    if dtype == np.float32 or family == "untruncated_normal":
        return None
    bound = _rounded_down(spread if family == "uniform" else 2.0 * spread, dtype)
    return mean - bound, mean + bound


def _rounded_down(limit: float, dtype: np.dtype) -> float:
    """The largest number of `dtype` that is not above `limit`."""
    nearest: Any = dtype.type(limit)
    if float(nearest) > limit:
        nearest = np.nextafter(nearest, dtype.type(0))
    return float(nearest)
