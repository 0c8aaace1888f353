"""Sums of exponentials, and roots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


def log_average(values: Sequence[float]) -> float:
    """Return the logarithm of the plain mean of exponentials.

    :param values: logarithms
    """
    top = max(values)
    return top + log(fsum([exp(value - top) for value in values])) - log(len(values)) if top > -inf else -inf


def e_value(log_e: float) -> float:
    """Return the e-value, finite, with six digits: enough to read, and the same on every machine.

    :param log_e: its natural logarithm
    """
    return significant(exp(min(log_e, _LARGEST_LOG)))


def significant(value: float) -> float:
    """Return six significant digits of a number."""
    return float(f"{value:.6g}") + 0.0


def first_above(function: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Return where a rising function reaches a level, from above: an interval's end that errs to the wide side.

    The secant's guess, weighted as by Anderson and Björck ("A new high order method of regula falsi type", BIT 13, 1973), and the
    middle where that is slow: about eight calls. ``high`` is returned when the level is not reached below it.

    :param low: where the search begins
    :param high: where it ends
    """
    below, above = function(low) - level, function(high) - level
    if below >= 0:
        return low
    if above < 0:
        return high
    tolerance, width, last_was_above = 1e-6 * (high - low), high - low, None
    for step in range(100):
        if high - low <= tolerance:
            break
        slow = step % 3 == 0 and step > 0 and high - low > width / 4
        width = high - low if step % 3 == 0 else width
        guess = (low + high) / 2 if slow or above == inf else low - below * (high - low) / (above - below)
        guess = min(max(guess, low + tolerance / 2), high - tolerance / 2)
        value = function(guess) - level
        if value >= 0:
            below *= _weight(value, above) if last_was_above is True else 1.0
            high, above, last_was_above = guess, value, True
        else:
            above *= _weight(value, below) if last_was_above is False else 1.0
            low, below, last_was_above = guess, value, False
    return high


def _weight(new: float, old: float) -> float:
    """Return by how much the end that stays is pulled in, when the other end moved twice."""
    return 1 - new / old if new / old < 1 else 0.5
