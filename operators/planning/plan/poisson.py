"""Chances of counts. Pure, and without numpy, whose import would take longer than a whole plan."""

from __future__ import annotations

from functools import lru_cache
from math import ceil, exp, sqrt
from statistics import NormalDist

_NORMAL = NormalDist()
_EXACT_BELOW = 200.0  # a mean from which on the Wilson-Hilferty approximation is good to a part in ten thousand
_COMMON = 0.1  # a share of bad units from which on their number is no longer nearly Poisson


def at_most(count: int, mean: float, of: float) -> float:
    """Return the chance of at most ``count`` bad units.

    :param mean: expected number of bad units
    :param of: number of units
    """
    if count < 0:
        return 0.0
    if count > of - 1 or mean <= 0:
        return 1.0
    if mean > _COMMON * of:
        spread = sqrt(max(mean * (1 - mean / of), 0.0))
        return _NORMAL.cdf((count + 0.5 - mean) / spread) if spread else float(count >= mean)
    if mean > _EXACT_BELOW:
        # Wilson and Hilferty, "The distribution of chi-square", PNAS 17, 1931: P(X ≤ k) = P(χ² with 2(k+1) degrees > 2 mean).
        n = count + 1
        return 1 - _NORMAL.cdf(((mean / n) ** (1 / 3) - (1 - 1 / (9 * n))) * 3 * sqrt(n))
    term = total = exp(-mean)
    for k in range(1, count + 1):
        term *= mean / k
        total += term
    return min(total, 1.0)


@lru_cache(maxsize=4096)
def quantile(mean: float, chance: float) -> int:
    """Return the smallest count that a Poisson number does not exceed with this chance."""
    if mean <= 0:
        return 0
    guess = max(0, ceil(mean + _NORMAL.inv_cdf(chance) * sqrt(mean)) - 2)
    while guess > 0 and at_most(guess - 1, mean, float("inf")) >= chance:
        guess -= 1
    while at_most(guess, mean, float("inf")) < chance:
        guess += 1
    return guess


def strata(mean: float, parts: int) -> list[int]:
    """Return rising counts, one for each of some equally likely parts of a Poisson number."""
    return [quantile(mean, (part + 0.5) / parts) for part in range(parts)]
