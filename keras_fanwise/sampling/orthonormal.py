"""Orthonormal columns, Haar-distributed, the same bits on every machine; NumPy alone.

LAPACK's QR decomposition is not portable: its bits depend on the machine, by the order in
which its products sum. Here matrix products, which are what takes time, are *exact*: the
factors lie on binary grids, and every partial sum, in whatever order, fits in the 53 bits
of a float64. Everything else is element by element, in operations that IEEE 754 fixes to
the last bit: +, −, ×, ÷ and the square root.

A matrix with orthonormal columns is the product of Householder reflections H = I − τvvᵀ of
independent normal vectors, each shorter by one than that before (Stewart 1980). So nothing
is decomposed. With v on a grid vᵀv is exact, and H is orthogonal whatever v is: no
error grows, and none has to be repaired afterwards. The reflections of a panel are applied
together, as those of LAPACK are (Schreiber and Van Loan 1989).

References: Stewart 1980, "The efficient generation of random orthogonal matrices with an
application to condition estimators"; Mezzadri 2007, <https://arxiv.org/abs/math-ph/0609050>,
for the signs; Schreiber and Van Loan 1989, "A storage-efficient WY representation for
products of Householder transformations".
"""

import math
from typing import NamedTuple

import numpy as np

# Reflections that are applied together.
_PANEL = 64
# A product of blocks of these sizes has 2**18 multiplications: up to there OpenBLAS stays
# in the thread that calls it. Its own threads, on a busy machine, wait for each other.
_ROWS, _COLUMNS = 64, 64

# How sums fit in 53 bits, one of which is to spare. A number on the grid of b bits is a
# multiple of 2**-b, and a product of factors on grids of a and b bits one of 2**-(a + b).
#
# - Reflectors v, of length at most 1, are on a grid of 24 bits.
# - vᵀc, of columns c of length 1, in two slices: by Cauchy and Schwarz no partial sum
#   is beyond 1, so that the first slice of c may have 28 bits. What is left of c is at most
#   2**-29 for each element, or 2**-29 √m for the column, so that 57 − log2(√m) fit.
# - vy, of the y that a reflection subtracts v times, in two slices as well: no product is
#   beyond |v||y| ≤ 2, no sum of 64 beyond 2**7, which leaves 21 bits for the first slice.
#   What is left of y is at most 2**-22, the sum 2**-16, so that 44 fit.
_REFLECTOR_BITS = 24
_COLUMN_BITS, _COLUMN_REST_BITS = 28, 57
_STEP_BITS, _STEP_REST_BITS = 21, 44
# No more of a column's bits are kept: these leave 1e-14 for the error of each panel.
_MOST_COLUMN_BITS = 48
# The squares of normals, which are within 9, scaled to a sum of about 1.
_NORMAL_BITS = 22

_product = np.matmul


def orthonormal(normals: np.ndarray) -> np.ndarray:
    """Matrices with orthonormal columns, by Haar's measure; `|QᵀQ − I|` is below 1e-12.

    Made of independent standard normal numbers, none of them 0, of the same shape
    (..., m, n) with m ≥ n, of which those below the diagonal and on it are used.
    """
    shape = normals.shape
    rows, columns = shape[-2:]
    if not normals.size:
        return np.zeros(shape)
    normals = normals.reshape(-1, rows, columns)
    q = np.zeros(normals.shape)
    bits = min(_MOST_COLUMN_BITS, _COLUMN_REST_BITS - _halved_log2(rows))
    # From the last panel to the first: until a panel reflects them, columns and rows
    # before its own are as in the identity.
    for start in reversed(range(0, columns, _PANEL)):
        panel = _panel(normals[:, start:, start : start + _PANEL])
        _reflect(q[:, start:, start:], panel, bits)
        # R has a positive diagonal, or Q would not be Haar's (Mezzadri 2007, section 5).
        q[:, :, start : start + _PANEL] *= panel.signs[:, None, :]
    return q.reshape(shape)


class _Panel(NamedTuple):
    """Reflections I − τvvᵀ."""

    reflectors: np.ndarray  # the v, on the grid; shape (matrices, rows, reflections)
    gram: np.ndarray  # their products with each other, exact
    tau: np.ndarray  # 2 / |v|²
    signs: np.ndarray  # what makes the diagonal of R positive


def _panel(normals: np.ndarray) -> _Panel:
    """The reflections that turn each column, from the diagonal on, to that axis."""
    rows, columns = normals.shape[-2:]
    diagonal = np.arange(columns)
    # Scaled by powers of 2, to a length of about 1.
    scales = [2.0 ** -_halved_log2(rows - column) for column in range(columns)]
    v = np.tril(normals) * np.array(scales)
    coarse = _on_grid(v, _NORMAL_BITS)
    lengths = np.sqrt(np.einsum("bij,bij->bj", coarse, coarse))
    signs = np.copysign(1.0, v[:, diagonal, diagonal])
    # Away from the axis, so that nothing cancels: |v| is from √2 to 2 times the length.
    v[:, diagonal, diagonal] += signs * lengths
    _, exponents = np.frexp(2 * lengths)
    v = _on_grid(np.ldexp(v, -exponents[:, None, :]), _REFLECTOR_BITS)
    gram = _product(_transposed(v), v)
    squares = np.einsum("bii->bi", gram)
    # A column of one element that is smaller than the grid: its sign is all that counts.
    tau = np.divide(2.0, squares, out=np.zeros(squares.shape), where=squares > 0)
    return _Panel(v, gram, tau, -signs)


def _reflect(q: np.ndarray, panel: _Panel, bits: int) -> None:
    """Applies the reflections, the last first, in place, to a matrix on a grid of `bits`.

    As many of its first columns and rows as there are reflections are the identity's.
    """
    v = panel.reflectors
    count = v.shape[-1]
    own = np.arange(count)
    q[:, own, own] = 1.0
    steps = np.empty((len(q), count, q.shape[-1]))
    steps[:, :, :count] = _transposed(v[:, :count])
    _project(v[:, count:], q[:, count:, count:], steps[:, :, count:])
    # Of the columns by which each vector would be reflected, those by which it is, after
    # the reflections before.
    for place in reversed(range(count)):
        steps[:, place] *= panel.tau[:, place, None]
        own_steps = steps[:, place, None, :]
        steps[:, :place] -= panel.gram[:, :place, place, None] * own_steps
    _subtract(q, v, steps, bits)


def _project(v: np.ndarray, q: np.ndarray, out: np.ndarray) -> None:
    """vᵀq, of v and q on their grids, rounded once."""
    first, rest = (np.empty((len(q), v.shape[-1], _COLUMNS)) for _ in range(2))
    for columns in _blocks(q.shape[2], _COLUMNS):
        width = columns.stop - columns.start
        one, two = first[:, :, :width], rest[:, :, :width]
        one[:] = two[:] = 0.0
        for rows in _blocks(q.shape[1], _ROWS):
            block = q[:, rows, columns]
            coarse = _on_grid(block, _COLUMN_BITS)
            transposed = _transposed(v[:, rows])
            one += _product(transposed, coarse)
            two += _product(transposed, block - coarse)
        np.add(one, two, out=out[:, :, columns])


def _subtract(q: np.ndarray, v: np.ndarray, steps: np.ndarray, bits: int) -> None:
    """q − v·steps, on the grid of so many bits."""
    coarse = _on_grid(steps, _STEP_BITS)
    rest = _on_grid(steps - coarse, _STEP_REST_BITS)
    for rows in _blocks(q.shape[1], _ROWS):
        for columns in _blocks(q.shape[2], _COLUMNS):
            block = q[:, rows, columns]
            block -= _product(v[:, rows], coarse[:, :, columns])
            block -= _product(v[:, rows], rest[:, :, columns])
            _on_grid(block, bits, block)


def _blocks(size: int, length: int) -> list[slice]:
    return [slice(left, min(left + length, size)) for left in range(0, size, length)]


def _on_grid(values: np.ndarray, bits: int, out: np.ndarray | None = None) -> np.ndarray:
    """The nearest multiples of 2**-bits; for values below 2**(51 - bits)."""
    # Beside this number a float64 has no smaller digits.
    anchor = 1.5 * 2.0 ** (52 - bits)
    result: np.ndarray = np.add(values, anchor, out=out)
    result -= anchor
    return result


def _halved_log2(count: int) -> int:
    """The smallest integer that is not below log2(√count)."""
    return math.ceil((count - 1).bit_length() / 2)


def _transposed(matrices: np.ndarray) -> np.ndarray:
    return np.swapaxes(matrices, -1, -2)
