"""Prints the coefficients that `keras_fanwise/quantile.py` holds.

Each table is a rational function with nearly the smallest largest relative
error: interpolation in 40 digits, with the nodes moved until the error peaks
between them are level (the BRASIL algorithm, Hofreither 2021). The one that is
evaluated in float32 is printed as what is left of it over a line.

    pip install mpmath
    python tools/quantile_coefficients.py        # about 20 seconds
"""

import itertools
from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 40
Function = Callable[[mp.mpf], mp.mpf]

# Probability that a standard normal lies within two standard deviations.
WITHIN_TWO = mp.erf(mp.sqrt(2))
# The tail is fitted in t - TAIL_START, where t = sqrt(-2 log r) and r is the tail
# probability; at r = P(z > 2) t is 2.7507.
TAIL_START = mp.mpf("2.75")
# LINE[0] + LINE[1] * w is within 14% of the central function. Of all lines with two
# decimals it leaves the rest that float32 gets most nearly right, over all its uniforms.
LINE = (mp.mpf("1.73"), mp.mpf("-0.52"))


def central(w: mp.mpf) -> mp.mpf:
    """z / u at w = 1 - u**2, where P(|Z| < z) = u * P(|Z| < 2)."""
    u = mp.sqrt(1 - w)
    return (
        mp.sqrt(2) * mp.erfinv(u * WITHIN_TWO) / u if u else mp.sqrt(mp.pi / 2) * WITHIN_TWO
    )


def tail(s: mp.mpf) -> mp.mpf:
    """z at s = t - TAIL_START, where P(Z > z) = exp(-t**2 / 2)."""
    t = s + TAIL_START
    start = t - (mp.log(t) + mp.log(2 * mp.pi) / 2) / t
    return mp.findroot(lambda z: mp.log(mp.erfc(z / mp.sqrt(2)) / 2) + t * t / 2, start)


def interpolate(f: Function, nodes: list, m: int, n: int) -> tuple[list, list]:
    """P of degree m and monic Q of degree n with P / Q = f at m + n + 1 nodes."""
    rows = [[x**j for j in range(m + 1)] + [-f(x) * x**j for j in range(n)] for x in nodes]
    solution = list(mp.lu_solve(mp.matrix(rows), mp.matrix([f(x) * x**n for x in nodes])))
    return solution[: m + 1], [*solution[m + 1 :], mp.mpf(1)]


def fit(f: Function, a: mp.mpf, b: mp.mpf, m: int, n: int) -> tuple[mp.mpf, list, list]:
    """The largest relative error on [a, b], and P and Q, ascending."""
    pieces = m + n + 2
    angles = [mp.cos(mp.pi * i / pieces) for i in range(pieces + 1)]
    lengths = [(b - a) * (left - right) / 2 for left, right in itertools.pairwise(angles)]
    best: tuple[mp.mpf, list, list] = (mp.inf, [], [])
    for _ in range(30):
        total = sum(lengths)
        lengths = [length * (b - a) / total for length in lengths]
        edges = [min(b, a + sum(lengths[:i])) for i in range(pieces)] + [b]
        p, q = interpolate(f, edges[1:-1], m, n)
        peaks = []
        for left, right in itertools.pairwise(edges):
            points = [left + (right - left) * j / 8 for j in range(9)]
            errors = [
                mp.polyval(p[::-1], x) / mp.polyval(q[::-1], x) / f(x) - 1 for x in points
            ]
            peaks.append(max(map(abs, errors)))
        if max(peaks) < best[0]:
            best = (max(peaks), p, q)
        if max(peaks) < 1.05 * min(peaks):
            break
        level = mp.exp(mp.fsum(map(mp.log, peaks)) / pieces)
        moves = [(level / peak) ** mp.mpf("0.15") for peak in peaks]
        lengths = [
            length * min(max(move, mp.mpf("0.6")), mp.mpf("1.6"))
            for length, move in zip(lengths, moves, strict=True)
        ]
    return best


def show(name: str, error: mp.mpf, p: list, q: list) -> None:
    print(f"# Relative error {mp.nstr(error, 2)}.")
    print(f"{name} = (")
    for coefficients in (p, q):
        print(f"    {' '.join(repr(float(each)) for each in coefficients)!r},")
    print(")")


def show_positive(name: str, error: mp.mpf, p: list, q: list) -> None:
    assert min(p + q) > 0  # so that nothing cancels when they are evaluated
    show(name, error, p, q)


def less_line(p: list, q: list) -> list:
    """P - LINE * Q, where P has one degree more than Q."""
    padded = [mp.mpf(0), *q, mp.mpf(0)]
    return [c - LINE[0] * padded[i + 1] - LINE[1] * padded[i] for i, c in enumerate(p)]


if __name__ == "__main__":
    zero, one = mp.mpf(0), mp.mpf(1)
    error, p, q = fit(central, zero, one, 5, 4)
    print(f"LINE = ({', '.join(repr(float(c)) for c in LINE)})")
    show("REST", error, less_line(p, q), q)
    show_positive("CENTRAL", *fit(central, zero, one, 9, 9))
    first, last = ((1 - WITHIN_TWO) / 2, mp.mpf(2) ** -54)
    start, stop = (mp.sqrt(-2 * mp.log(r)) - TAIL_START for r in (first, last))
    show_positive("TAIL", *fit(tail, start, stop, 8, 7))
    print(f"WITHIN_TWO = {float(WITHIN_TWO)!r}")
