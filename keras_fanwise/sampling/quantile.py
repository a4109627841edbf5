"""The standard normal quantile in +, -, *, / and square root alone.

IEEE 754 fixes the result of each of these operations to the last bit, and NumPy
does them one at a time, so the same uniforms give the same normals on every
machine. A library's `log` or `erfinv` would not.

The coefficients are printed by `tools/quantile_coefficients.py`, ascending,
numerator first.
"""

from collections.abc import Callable

import numpy as np

Constants = tuple[np.ndarray, ...]
Rational = tuple[Constants, Constants]


def _constants(dtype: type, values: str) -> Constants:
    """As arrays without axes: NumPy takes these as they are, and converts a number again
    at each call, with Python's lock held, for which other threads have to wait."""
    return tuple(np.array(float(value), dtype) for value in values.split())


(_ONE,) = _constants(np.float64, "1.0")

# P(|Z| < 2) for a standard normal Z.
WITHIN_TWO = 0.9544997361036416

# z / u as a function of w = 1 - u**2, where u is uniform in (-1, 1) and
# P(|Z| < |z|) = |u| P(|Z| < 2).
#
# For float32 results: the line in float64 and the rest, a seventh of the whole, in
# float32, so that its rounding errors count a seventh.
LINE = _constants(np.float64, "1.73 -0.52")
# Relative error 1.2e-8 of the whole; 4e-8 with the rounding errors.
REST: Rational = (
    _constants(
        np.float32,
        "0.008377438108251783 0.03935267861743416 -0.27732496886330027 "
        "-0.8025041315429302 0.43872678894519335 0.5008447607423817",
    ),
    _constants(
        np.float32,
        "0.031027551349715098 0.4789753012659308 2.167119834108896 3.0707934641613384 1.0",
    ),
)
# For float64 results.
# Relative error 3.4e-16.
CENTRAL: Rational = (
    _constants(
        np.float64,
        "0.035169368034130406 1.076307372415688 12.87205617371301 "
        "76.79396767485376 243.03109803765997 403.8028836274557 "
        "330.4929260724494 116.70964364192159 13.502773507641248 "
        "0.22603514739474492",
    ),
    _constants(
        np.float64,
        "0.017584684017065207 0.5682210306841974 7.258407980113001 "
        "46.972401415530896 164.70936893768194 312.5141411383099 "
        "305.636018074771 139.0696969452621 24.139029721121563 1.0",
    ),
)
# Relative error 6.7e-19.
# z as a function of t - 2.75, where t = sqrt(-2 log P(Z > z)), from P(Z > 2) down
# to 2**-54.
TAIL: Rational = (
    _constants(
        np.float64,
        "1918172.0909716291 3580755.906216974 2682563.6702630203 "
        "1059423.666326389 240604.50212045436 31799.179678674576 "
        "2329.290780798196 82.55076121987899 1.0000237913495118",
    ),
    _constants(
        np.float64,
        "959477.1248591867 1234807.641693191 645105.5764217734 "
        "175429.15089970184 26338.170847733614 2115.910866472008 "
        "79.80819570822318 1.0",
    ),
)
TAIL_START = 2.75

LOG_2 = 0.6931471805599453
# log m = 2 s (1 + s**2 / 3 + s**4 / 5 + ...) with s = (m - 1) / (m + 1); for m from
# sqrt(1/2) to sqrt(2), s**2 is below 0.0295 and eleven terms leave 2e-18.
LOG_SERIES = tuple(np.array(2.0 / (2 * k + 1)) for k in range(11))


Slope = Callable[[np.ndarray, np.ndarray], np.ndarray]


def slope_32(w: np.ndarray, work: np.ndarray) -> np.ndarray:
    """z / u at w = 1 - u**2, to a relative 4e-8. Overwrites w and two rows of scratch."""
    numerator, denominator = REST
    x, q = work[0].view(np.float32).reshape(2, w.size)
    p = work[1].view(np.float32)[: w.size]
    np.copyto(x, w, casting="same_kind")
    _ratio(x, numerator, denominator, p, q)
    np.multiply(w, LINE[1], w)
    np.add(w, LINE[0], w)
    rest = work[0]  # x and q are done with
    np.copyto(rest, p)
    np.add(w, rest, w)
    return w


def slope_64(w: np.ndarray, work: np.ndarray) -> np.ndarray:
    """z / u at w = 1 - u**2, to a relative 1e-14. Overwrites two rows of scratch."""
    return _ratio(w, *CENTRAL, *work)


def fill_truncated(u: np.ndarray, scale: float, slope: Slope, work: np.ndarray) -> None:
    """Replaces uniforms in (-1, 1) by `scale` times normals truncated at two, in place.

    Three rows of float64, at least as long as u, are scratch.
    """
    w = work[0, : u.size]
    np.multiply(u, u, w)
    np.subtract(_ONE, w, w)
    np.multiply(u, scale, u)
    np.multiply(u, slope(w, work[1:, : u.size]), u)


def fill_normal(u: np.ndarray, scale: float, slope: Slope, work: np.ndarray) -> None:
    """Likewise by untruncated normals; the slope serves for |z| < 2."""
    outside = np.flatnonzero(np.abs(u, out=work[0, : u.size]) > WITHIN_TWO)
    tails = u[outside]
    u /= WITHIN_TWO
    u[outside] = 0.0  # anything in range: they are overwritten below
    fill_truncated(u, scale, slope, work)
    upper = (1.0 - np.abs(tails)) / 2.0  # exact
    u[outside] = np.copysign(scale * _upper_quantile(upper), tails)


def _upper_quantile(r: np.ndarray) -> np.ndarray:
    """z with P(Z > z) = r, for r from 2**-54 to P(Z > 2)."""
    s = np.sqrt(-2.0 * log(r)) - TAIL_START
    return _ratio(s, *TAIL, np.empty_like(s), np.empty_like(s))


def log(x: np.ndarray) -> np.ndarray:
    """The natural logarithm of numbers above 0, with an absolute error of about 1e-16."""
    mantissa, exponent = np.frexp(x)  # exact, mantissa in [1/2, 1)
    low = mantissa < 0.7071067811865476
    mantissa[low] *= 2.0
    exponent -= low
    s = (mantissa - 1.0) / (mantissa + 1.0)
    series = _polynomial(s * s, LOG_SERIES, np.empty_like(s))
    logarithm: np.ndarray = exponent * LOG_2 + s * series
    return logarithm


def _ratio(
    x: np.ndarray,
    numerator: Constants,
    denominator: Constants,
    p: np.ndarray,
    q: np.ndarray,
) -> np.ndarray:
    """The rational function of x, in p."""
    _polynomial(x, numerator, p)
    _polynomial(x, denominator, q)
    np.divide(p, q, out=p)
    return p


def _polynomial(x: np.ndarray, coefficients: Constants, out: np.ndarray) -> np.ndarray:
    """Horner's rule; `coefficients` ascending."""
    *lower, second, first = coefficients
    if first == 1.0:
        np.add(x, second, out)
    else:
        np.multiply(x, first, out)
        np.add(out, second, out)
    for coefficient in reversed(lower):
        np.multiply(out, x, out)
        np.add(out, coefficient, out)
    return out
