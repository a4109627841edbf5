"""The standard normal quantile in +, -, *, / and square root alone.

IEEE 754 fixes the result of each of these operations to the last bit, and NumPy
does them one at a time, so the same uniforms give the same normals on every
machine. A library's `log` or `erfinv` would not.

The coefficients are printed by `tools/quantile_coefficients.py`, ascending,
numerator first. All are positive and so are the arguments: nothing cancels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Rational = tuple[tuple[float, ...], tuple[float, ...]]

# P(|Z| < 2) for a standard normal Z.
WITHIN_TWO = 0.9544997361036416

# z / u as a function of 1 - u**2, where u is uniform in (-1, 1) and
# P(|Z| < |z|) = |u| P(|Z| < 2). The first is for float32 results, the second for
# float64; both are evaluated in float64.
# Relative error 1.0e-8.
_CENTRAL_32: Rational = (
    (
        1.246234273564997,
        17.406327869421904,
        68.04109013404744,
        76.93469030005643,
        17.09656112584101,
    ),
    (
        0.6231171432899326,
        9.768602122164967,
        45.43717217917121,
        68.17681760724487,
        26.065691449920813,
        1.0,
    ),
)
# Relative error 3.4e-16.
_CENTRAL_64: Rational = (
    (
        0.035169368034130406,
        1.076307372415688,
        12.87205617371301,
        76.79396767485376,
        243.03109803765997,
        403.8028836274557,
        330.4929260724494,
        116.70964364192159,
        13.502773507641248,
        0.22603514739474492,
    ),
    (
        0.017584684017065207,
        0.5682210306841974,
        7.258407980113001,
        46.972401415530896,
        164.70936893768194,
        312.5141411383099,
        305.636018074771,
        139.0696969452621,
        24.139029721121563,
        1.0,
    ),
)
# Relative error 6.7e-19.
# z as a function of t - 2.75, where t = sqrt(-2 log P(Z > z)), from P(Z > 2) down
# to 2**-54.
_TAIL: Rational = (
    (
        1918172.0909716291,
        3580755.906216974,
        2682563.6702630203,
        1059423.666326389,
        240604.50212045436,
        31799.179678674576,
        2329.290780798196,
        82.55076121987899,
        1.0000237913495118,
    ),
    (
        959477.1248591867,
        1234807.641693191,
        645105.5764217734,
        175429.15089970184,
        26338.170847733614,
        2115.910866472008,
        79.80819570822318,
        1.0,
    ),
)
_TAIL_START = 2.75

_LOG_2 = 0.6931471805599453
# log m = 2 s (1 + s**2 / 3 + s**4 / 5 + ...) with s = (m - 1) / (m + 1); for m from
# sqrt(1/2) to sqrt(2), s**2 is below 0.0295 and eleven terms leave 2e-18.
_LOG_SERIES = tuple(2.0 / (2 * k + 1) for k in range(11))


class Central(NamedTuple):
    """The central quantile of odd integers k, where u = k / 2**bits is in (-1, 1).

    With 2**(2 * bits) * (1 - u**2) as the argument and every coefficient scaled to
    match, k needs no scaling of its own, and for 24 bits the argument is exact.
    All factors are powers of two, and the largest, 2**954, is far from overflow.
    """

    bits: int
    numerator: tuple[float, ...]
    denominator: tuple[float, ...]

    @classmethod
    def of(cls, bits: int, rational: Rational) -> "Central":
        numerator, denominator = rational
        degree = len(denominator) - 1
        factors = [2.0 ** (2 * bits * (degree - power)) for power in range(degree + 1)]
        return cls(
            bits,
            tuple(c * f * 2.0**-bits for c, f in zip(numerator, factors, strict=False)),
            tuple(c * f for c, f in zip(denominator, factors, strict=True)),
        )


CENTRAL_32 = Central.of(24, _CENTRAL_32)
CENTRAL_64 = Central.of(53, _CENTRAL_64)


def fill_truncated(k: np.ndarray, scale: float, central: Central, work: np.ndarray) -> None:
    """Replaces integers by `scale` times normals that are truncated at two, in place.

    Args:
        k: float64, odd integers between -2**bits and 2**bits.
        scale: a factor, which costs nothing here: it goes into the coefficients.
        central: `CENTRAL_32` or `CENTRAL_64`.
        work: float64 scratch, shape (3, at least the size of k).
    """
    w, p, q = work[:, : k.size]
    np.multiply(k, k, out=w)
    np.subtract(2.0 ** (2 * central.bits), w, out=w)
    k *= _ratio(w, scale, central.numerator, central.denominator, p, q)


def fill_normal(k: np.ndarray, scale: float, central: Central, work: np.ndarray) -> None:
    """Replaces integers by `scale` times untruncated normals, in place.

    Args:
        k: float64, odd integers between -2**bits and 2**bits.
        scale: a factor.
        central: `CENTRAL_32` or `CENTRAL_64`, for |z| < 2.
        work: float64 scratch, shape (3, at least the size of k).
    """
    end = 2.0**central.bits
    w, p, q = work[:, : k.size]
    outside = np.flatnonzero(np.abs(k, out=w) > WITHIN_TWO * end)
    tails = k[outside]
    k /= WITHIN_TWO
    k[outside] = 0.0  # anything in range: they are overwritten below
    np.multiply(k, k, out=w)
    np.subtract(end**2, w, out=w)
    k *= _ratio(w, scale, central.numerator, central.denominator, p, q)
    upper = (end - np.abs(tails)) / (2.0 * end)  # exact
    k[outside] = np.copysign(scale * _upper_quantile(upper), tails)


def _upper_quantile(r: np.ndarray) -> np.ndarray:
    """z with P(Z > z) = r, for r from 2**-54 to P(Z > 2)."""
    s = np.sqrt(-2.0 * _log(r)) - _TAIL_START
    return _ratio(s, 1.0, *_TAIL, np.empty_like(s), np.empty_like(s))


def _log(x: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(x)  # exact, mantissa in [1/2, 1)
    low = mantissa < 0.7071067811865476
    mantissa[low] *= 2.0
    exponent -= low
    s = (mantissa - 1.0) / (mantissa + 1.0)
    series = _polynomial(s * s, _LOG_SERIES, np.empty_like(s))
    return exponent * _LOG_2 + s * series


def _ratio(
    x: np.ndarray,
    scale: float,
    numerator: Sequence[float],
    denominator: Sequence[float],
    p: np.ndarray,
    q: np.ndarray,
) -> np.ndarray:
    """`scale` times the rational function of x, in p."""
    _polynomial(x, [coefficient * scale for coefficient in numerator], p)
    _polynomial(x, denominator, q)
    return np.divide(p, q, out=p)


def _polynomial(
    x: np.ndarray, coefficients: Sequence[float], out: np.ndarray
) -> np.ndarray:
    """Horner's rule; `coefficients` ascending."""
    *lower, second, first = coefficients
    if first == 1.0:
        np.add(x, second, out=out)
    else:
        np.multiply(x, first, out=out)
        out += second
    for coefficient in reversed(lower):
        out *= x
        out += coefficient
    return out
