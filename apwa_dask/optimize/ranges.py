"""Arithmetic of ranges: what is known exactly multiplies as it is, what is only likely spreads in quadrature."""

from __future__ import annotations

from math import exp, log, sqrt

from apwa_dask.plans.explain import Range

__all__ = ["spread", "times", "within"]


def times(*factors: Range) -> Range:
    """Product of independent ranges.

    Were all factors at their worst at once, a plan of five unknowns would be priced between nothing and a fortune,
    which helps nobody. Their logarithms add like independent errors do: by the root of the sum of squares. A factor
    that may be nothing makes the low figure nothing.

    Examples
    --------
    >>> times(Range.exactly(10), Range(1, 2, 4))
    Range(low=10.0, expected=20.0, high=40.0)
    """
    expected = 1.0
    for factor in factors:
        expected *= factor.expected
    if expected <= 0:
        low = high = 1.0
        for factor in factors:
            low, high = low * factor.low, high * factor.high
        return Range(low, expected, high)
    above = sqrt(sum(log(max(factor.high / factor.expected, 1.0)) ** 2 for factor in factors))
    if any(factor.low <= 0 for factor in factors):
        return Range(0.0, expected, expected * exp(above))
    below = sqrt(sum(log(max(factor.expected / factor.low, 1.0)) ** 2 for factor in factors))
    low, high = round(expected * exp(-below), 9), round(expected * exp(above), 9)
    return Range(min(low, expected), expected, max(high, expected))


def spread(expected: float, low: float, high: float) -> Range:
    """A figure with the range from `low` to `high` times it."""
    return Range(expected * low, expected, expected * high)


def within(figure: Range, low: float, high: float) -> Range:
    """The part of a range between two bounds."""
    return Range(*(min(max(each, low), high) for each in (figure.low, figure.expected, figure.high)))
