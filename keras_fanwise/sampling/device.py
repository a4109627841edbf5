"""The bits of the host, drawn where the tensor is to live.

Philox in integer arithmetic, then the operations of `sampler` and `quantile`, one by one
and in their order, on whole arrays of a backend, whose arithmetic is `backends.compute`.
"""

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fanwise.arguments import fail
from keras_fanwise.sampling import quantile
from keras_fanwise.sampling.sampler import (
    DTYPES,
    Subarray,
    Words,
    limits_of,
    uniform_factor,
    values_of,
    words_of,
)

# The environment variable that says where all is drawn.
_WHERE = "KERAS_FANWISE_DRAW"
# From so many elements on a draw on an accelerator is worth its calls, or a table.
_LARGE, _WORTH_A_TABLE = 1 << 20, 1 << 24
# Of spreads and means, so that no value is subnormal in float32: devices may take it for 0.
_LEAST = 1e-25

_LOW = 0xFFFFFFFF
_FACTORS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_STEPS = 0x9E3779B97F4A7C15 - 2**64, 0xBB67AE8584CAA73B - 2**64
_ROUNDS = 10


def _product(ops: Any, factor: int, x: Any) -> tuple[Any, Any]:
    """The upper and the lower half of a product of 64-bit integers, by halves of these."""
    high, low = factor >> 32, factor & _LOW
    x_high, x_low = _upper(ops, x), x & _LOW
    middle = ops.multiply_add(_upper(ops, x_low * low), x_high, low)
    other = ops.multiply_add(middle & _LOW, x_low, high)
    upper = ops.multiply_add(_upper(ops, middle), x_high, high) + _upper(ops, other)
    return upper, x * (factor - 2**64)


def _upper(ops: Any, x: Any) -> Any:
    return ops.shift(x, 32) & _LOW


def _philox(ops: Any, key: Any, counter: Any, second: Any = 0) -> tuple[Any, ...]:
    """Philox4x64-10: four words for each counter, whose second word is `second`."""
    # Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3".

    def half(_: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        a, b, c, d, one, other = state
        for _ in range(_ROUNDS // 2):
            upper, lower = _product(ops, _FACTORS[0], a)
            upper_c, lower_c = _product(ops, _FACTORS[1], c)
            a, b, c, d = upper_c ^ b ^ one, lower_c, upper ^ d ^ other, lower
            one, other = one + _STEPS[0], other + _STEPS[1]
        return a, b, c, d, one, other

    a = counter + 1  # as NumPy does first
    zero = a ^ a
    state = (a, zero + second, zero, zero, key[0], key[1])
    # Without a loop, a compiler computes the words again for each use.
    return tuple(ops.loop(0, 2, half, state))[:4]


def _integers(ops: Any, words: Sequence[Any], kind: Words) -> Any:
    """The odd integers of `sampler`, in the order of the stream."""
    matrix = ops.stack(words, -1)
    if kind.dtype.itemsize == 4:
        matrix = ops.bitcast(matrix, "int32")  # the lower half first
    return ops.shift(matrix, kind.shift) | 1


def _values(
    ops: Any, integers: Any, kind: Words, distribution: str, dtype: str, numbers: Any
) -> Any:
    """What `sampler` makes of the integers; `numbers` are those of `_numbers`."""
    result = kind.result.name
    factor, mean, *limits = (numbers[i] for i in range(numbers.shape[0]))
    if distribution == "uniform":
        factor, mean = ops.cast(factor, result), ops.cast(mean, result)
        values = ops.guard(ops.cast(integers, result) * factor) + mean
    else:
        u = ops.cast(integers, "float64") * 2.0**-kind.bits  # exact
        normal = _truncated if distribution == "truncated_normal" else _untruncated
        values = ops.cast(ops.guard(normal(ops, u, factor, result) + mean), result)
    if limits:
        values = ops.clip(values, *(ops.cast(limit, result) for limit in limits))
    # Guarded, or a compiler could round once for a type and the next.
    return ops.guard(ops.cast(ops.guard(values), dtype))


def _truncated(ops: Any, u: Any, scale: Any, result: str) -> Any:
    """`quantile.fill_truncated`."""
    w = ops.guard(1.0 - ops.guard(u * u))
    slope = _slope_32(ops, w) if result == "float32" else _ratio(ops, w, quantile.CENTRAL)
    return ops.guard(ops.guard(u * scale) * slope)


def _untruncated(ops: Any, u: Any, scale: Any, result: str) -> Any:
    """`quantile.fill_normal`."""

    def tail(u: Any) -> Any:
        t = ops.sqrt(-2.0 * _log(ops, (1.0 - abs(u)) * 0.5))
        z = _ratio(ops, ops.guard(t - quantile.TAIL_START), quantile.TAIL)
        z = ops.guard(scale * z)
        return ops.where(u < 0.0, -z, z)

    central = _truncated(ops, ops.divide(u, quantile.WITHIN_TWO), scale, result)
    return ops.choose(abs(u) > quantile.WITHIN_TWO, tail, u, central)


def _slope_32(ops: Any, w: Any) -> Any:
    x = ops.guard(ops.cast(w, "float32"))
    p, q = (ops.cast(_polynomial(ops, x, each), "float64") for each in quantile.REST)
    # The quotient of float32 numbers is that of float64 ones, rounded: 53 bits are at
    # least 2 * 24 + 2. Not every device divides float32 numbers exactly.
    rest = ops.guard(ops.cast(ops.divide(p, q), "float32"))
    line = ops.guard(w * float(quantile.LINE[1])) + float(quantile.LINE[0])
    return ops.guard(line) + ops.cast(rest, "float64")


def _log(ops: Any, x: Any) -> Any:
    bits = ops.bitcast(x, "int64")
    half = 1022 << 52  # the bits of 0.5
    mantissa = ops.bitcast(bits & ((1 << 52) - 1) | half, "float64")
    low = mantissa < 0.7071067811865476
    mantissa = ops.where(low, mantissa * 2.0, mantissa)
    exponent = ops.shift(bits, 52) - 1022 - ops.cast(low, "int64")
    s = ops.divide(mantissa - 1.0, mantissa + 1.0)
    series = ops.guard(s * _polynomial(ops, ops.guard(s * s), quantile.LOG_SERIES))
    return ops.guard(ops.cast(exponent, "float64") * quantile.LOG_2) + series


def _ratio(ops: Any, x: Any, rational: quantile.Rational) -> Any:
    return ops.divide(*(_polynomial(ops, x, each) for each in rational))


def _polynomial(ops: Any, x: Any, coefficients: quantile.Constants) -> Any:
    *lower, second, first = map(float, coefficients)
    value = (x if first == 1.0 else ops.guard(x * first)) + second
    for coefficient in reversed(lower):
        value = ops.guard(value * x) + coefficient
    return value


def _gathered(ops: Any, words: Sequence[Any], table: Any) -> Any:
    """The values by their bits in a table of `_table`: integer arithmetic alone."""
    halves = [ops.shift(x, 39) for word in words for x in (word << 32, word)]
    odd = ops.cast(ops.reshape(ops.stack(halves, -1), -1), "int32") | 1
    sign = ops.shift(odd, 31)
    bits = table[ops.shift(odd ^ sign, 1)]
    if table.dtype.itemsize == 2:
        return bits | ops.cast(sign & -(1 << 15), "int16")
    return bits | sign & -(1 << 31)


def _table(family: str, dtype: str, spread: float) -> np.ndarray:
    """The bits of all positive values, ascending."""
    values = values_of(np.arange(1, 1 << 24, 2, dtype=np.int32), family, dtype, spread)
    return values.view(f"int{8 * values.itemsize}")


def _numbers(family: str, dtype: str, spread: float, mean: float) -> np.ndarray:
    """The factor, the mean, and the limits if there are any."""
    factor = uniform_factor(spread, words_of(dtype)) if family == "uniform" else spread
    limits = limits_of(family, DTYPES[dtype], spread, mean) or ()
    return np.array([factor, mean, *limits], np.float64)


@functools.cache
def _block(
    compute: Any,
    family: str,
    dtype: str,
    result: str,
    by_table: bool,
    *grid: int,
    alone: bool,
) -> Any:
    """A function of (key and a zero, number of the first counter, numbers, state): gives
    the values of a grid of counters, as `result`, and the number of the next counter."""
    kind, count = words_of(dtype), math.prod(grid)

    def draw(key: Any, start: Any, numbers: Any, state: Any = None) -> Any:
        ops = compute(key[2])
        if state is not None:
            low, high = (ops.cast(state[i], "int64") & _LOW for i in range(2))
            key = _philox(ops, key, low, high)
        words = _philox(ops, key, ops.reshape(ops.arange(count), grid) + start)
        if by_table:
            return ops.bitcast(_gathered(ops, words, numbers), dtype), start + count
        odd = _integers(ops, words, kind)
        if alone:
            odd = ops.reshape(odd, -1)
        else:
            # Inside somebody's function each word gives its own zero: nothing travels where
            # the tensor is sharded over devices.
            few = words[0] & 0xFFFFF
            zero = few * (few + 1) * (few + 2) % 3  # which no compiler knows
            ops.zero = zero[(...,) + (None,) * (len(odd.shape) - len(grid))]
        values = _values(ops, odd, kind, family, dtype, numbers)
        return ops.cast(values, result), start + count

    return compute.compiled(draw, alone=alone)


@functools.cache
def _part(compute: Any, family: str, dtype: str, result: str, size: int, rank: int) -> Any:
    """Likewise of a part of a tensor, each value by its place; on JAX alone."""
    kind = words_of(dtype)

    def draw(integers: Any, start: Any, numbers: Any) -> Any:
        ops = compute(integers[2])
        number, run = ops.arange(size) + start, integers[4]
        place, rest = integers[3] + number % run, number // run
        for axis in reversed(range(5, 5 + rank)):
            place += rest % integers[axis] * integers[axis + rank]
            rest //= integers[axis]
        lane = place % kind.per_counter
        words = _philox(ops, integers, place // kind.per_counter)
        if kind.per_counter == 8:
            words = tuple(x for word in words for x in (word << 32, word))
        word = words[0]
        for i, other in enumerate(words):
            word = ops.where(lane == i, other, word)
        odd = ops.shift(word, kind.shift + 64 - 8 * kind.dtype.itemsize) | 1
        values = _values(ops, odd, kind, family, dtype, numbers)
        return ops.cast(values, result), start + size

    return compute.compiled(draw)


def _size(compute: Any, left: int, each: int, family: str, on_gpu: bool) -> int:
    """How many values the next call makes, a multiple of `each`."""
    size: int = compute.block
    if not compute.is_compiled:
        # No more than is asked for. Of uniforms, most work is Philox's, whose arrays have
        # an eighth of the elements.
        return min(size * (2 if family == "uniform" else 1), -(-left // each) * each)
    # Four calls take a GPU longer than one of its size.
    return compute.gpu_block if on_gpu and left > 4 * size else size


def is_chosen(
    compute: Any,
    distribution: tuple[str, float, float],
    shape: Sequence[int],
    dtype: str,
    *,
    sharding: Any = None,
    of_state: bool = False,
) -> bool:
    """Whether a tensor is to be drawn on the device, and can be; arguments as in `draw`."""
    where = os.environ.get(_WHERE)
    if where not in (None, "host", "device"):
        raise fail(ValueError, _WHERE, "'host' or 'device'", where)
    size, (_, *numbers) = math.prod(shape), distribution
    if where == "host" or not size:
        return False
    traced = compute.is_traced()
    if (traced and not compute.can_be_traced) or not (where or traced or size >= _LARGE):
        return False
    if not all(x == 0.0 or _LEAST < abs(x) < 1 / _LEAST for x in numbers):
        return False
    platform = compute.platform(sharding)
    if platform == "tpu":
        by_table = dtype != "float64" and not distribution[2] and not sharding
        return by_table and (of_state or size >= _WORTH_A_TABLE)
    return platform in ("gpu", "cpu") and (platform == "gpu" or bool(where) or traced)


def draw(
    compute: Any,
    key: int,  # of the stream; with a `state`, its `state_key`
    distribution: tuple[str, float, float],  # family, spread and mean
    shape: Sequence[int],
    dtype: str = "float32",
    index: Sequence[slice] | None = None,
    *,
    device: Any = None,
    state: Any = None,
) -> Any:
    """Draws a tensor where the backend computes: the bits of `Stream.draw`.

    On JAX, `index` and `device` say which part is to be where; a `state` is the two words
    of a `SeedGenerator` in a traced function.
    """
    family, spread, mean = distribution
    platform = device.platform if device else compute.platform()
    by_table = index is None and platform == "tpu"
    numbers = (
        _table(family, dtype, spread) if by_table else _numbers(family, dtype, spread, mean)
    )
    # JAX makes float32 of float64, unless `jax_enable_x64` is set.
    program = (compute, family, dtype, compute.dtype_of_tensor(dtype))
    integers = np.array([key & 2**64 - 1, key >> 64, 0], np.uint64).view(np.int64)
    region, each = Subarray(shape, index), words_of(dtype).per_counter
    first, in_parts = region.first // each, bool(region.outer or region.first % each)
    if in_parts:
        more = [region.first, region.run, *region.outer, *region.strides]
        first, integers = 0, np.append(integers, more)
    with compute.wide():
        start, integers, numbers = (
            compute.on_device(x, device) for x in (np.array(first), integers, numbers)
        )
        if compute.is_traced():
            *outer, last = region.shape or (1,)
            # The counters have the shape of the tensor, if that can be.
            grid = (-(-region.size // each),) if last % each else (*outer, last // each)
            make = _block(*program, by_table, *grid, alone=False)
            values, _ = make(integers, start, numbers, state)
            if last % each:
                values = compute.reshape(values, -1)[: region.size]
            return compute.reshape(values, region.shape)
        parts, left = [], region.size
        while left > 0:
            size = _size(compute, left, each, family, platform == "gpu")
            if in_parts:
                make = _part(*program, size, len(region.outer))
            else:
                make = _block(*program, by_table, size // each, alone=True)
            values, start = make(integers, start, numbers)
            parts.append(values)
            left -= size
    return compute.joined(parts, region.shape)
