"""Tails of distributions: how often chance alone gives so much. Pure Python."""

import math

# Relative, of a continued fraction.
_PRECISION = 1e-15
_MOST_TERMS = 10_000


def correlation_tail(correlation: float, count: int) -> float:
    """How often two independent samples of a normal are correlated so much, or more.

    Their squared correlation has the distribution Beta(1/2, (count - 2) / 2), exactly.
    Of uniforms large correlations are more frequent, by simulation up to 1.5 times for 30
    values and more.

    Reference: Fisher 1915, "Frequency distribution of the values of the correlation
    coefficient in samples from an indefinitely large population".

    Args:
        correlation: of either sign.
        count: how many pairs of values it is of; 3 or more.

    Example: t = 2.306 with 8 degrees of freedom.

    >>> round(correlation_tail(0.6319, 10), 4)
    0.05
    """
    rest = max(0.0, (1 - abs(correlation)) * (1 + abs(correlation)))
    return incomplete_beta(rest, (count - 2) / 2, 0.5)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function, I_x(a, b).

    Reference: Abramowitz and Stegun 1964, 26.5.8, evaluated as by Lentz 1976, "Generating
    Bessel functions in Mie scattering calculations using continued fractions".

    Args:
        x: from 0 to 1.
        a: above 0.
        b: above 0.

    Example: I_x(1, b) is 1 - (1 - x)**b.

    >>> round(incomplete_beta(0.5, 1.0, 2.0), 12)
    0.75
    """
    if not 0 < x < 1:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1.0 - incomplete_beta(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    logarithm += a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...))."""
    value, numerator, denominator = 1.0, 1.0, 0.0
    for term in range(1, _MOST_TERMS):
        half = term // 2
        if term % 2:
            d = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            d = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        denominator = 1 / (1 + d * denominator)
        numerator = 1 + d / numerator
        value *= numerator * denominator
        if abs(numerator * denominator - 1) < _PRECISION:
            break
    return value


def deviation_tail(distance: float, count: int) -> float:
    """At most so often does the distribution function of a sample stray so far.

    From the true one, whatever that is.

    Reference: Massart 1990, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz
    inequality", corollary 1.
    """
    return min(1.0, 2 * math.exp(-2 * count * distance**2))


def rare_events_tail(events: int, expected: float) -> float:
    """At most so often are there so many of independent rare events, or more.

    Reference: Chernoff 1952, "A measure of asymptotic efficiency for tests of a
    hypothesis based on the sum of observations", for a sum of Poisson's limit.

    Args:
        events: how many there are.
        expected: how many there should be.
    """
    if events <= expected:
        return 1.0
    return math.exp(events - expected - events * math.log(events / expected))
