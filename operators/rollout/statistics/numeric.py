"""Sums of exponentials, and roots."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import exp, fsum, inf, log

_LARGEST_LOG = 690.0  # e to it is about 1e299: JSON has no infinity


def log_mean(terms: Iterable[tuple[float, float]]) -> float:
    """Return the logarithm of a weighted mean of exponentials, without overflow.

    :param terms: (weight, logarithm), weights above 0
    """
    weighted = list(terms)
    top = max(value for _, value in weighted)
    if top == -inf:
        return -inf
    return top + log(fsum(w * exp(v - top) for w, v in weighted)) - log(fsum(w for w, _ in weighted))


def e_value(log_e: float) -> float:
    """Return the e-value, finite, with six digits: enough to read, and the same on every machine.

    :param log_e: its natural logarithm
    """
    return significant(exp(min(log_e, _LARGEST_LOG)))


def significant(value: float) -> float:
    """Return six significant digits of a number."""
    return float(f"{value:.6g}") + 0.0


def first_above(function: Callable[[float], float], level: float, low: float, high: float, *, steps: int = 40) -> float:
    """Return where a rising function reaches a level, from above: an interval's end that errs to the wide side.

    Bisection, sped up by the secant's guess (Illinois). ``high`` is returned when the level is not reached below it.

    :param low: where the search begins
    :param high: where it ends
    """
    below, above = function(low) - level, function(high) - level
    if below >= 0:
        return low
    if above < 0:
        return high
    tolerance = 1e-7 * (high - low)
    side = 0
    for step in range(steps):
        if high - low <= tolerance:
            break
        guess = low - below * (high - low) / (above - below) if above < inf and step % 3 < 2 else (low + high) / 2
        guess = min(max(guess, low + tolerance / 4), high - tolerance / 4)
        value = function(guess) - level
        if value >= 0:
            high, above = guess, value
            below = below / 2 if side > 0 else below
            side = 1
        else:
            low, below = guess, value
            above = above / 2 if side < 0 else above
            side = -1
    return high
