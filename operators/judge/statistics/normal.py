"""By how much do the means of unbounded numbers differ? Asymptotic: the sample's variance stands for the true one.

Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences" (Annals of Statistics 52, 2024). With the difference's information I (one over its variance) and score S =
(difference - bound) I, summed over periods, the half-normal mixture with scale τ of the likelihood ratios exp(θ S -
θ² I / 2), θ > 0, is

    2 (1 + τ² I)^(-1/2) exp(τ² S² / (2 (1 + τ² I))) Φ(τ S / (1 + τ² I)^(1/2))

(Robbins, 1970; one-sided, Howard et al., 2021). τ is the margin: differences of about its size are detected
soonest. Exactly valid only in the limit, so a period counts only with ``ENOUGH`` numbers in each arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc, inf, log, log1p, sqrt
from typing import NamedTuple

from operators.judge.statistics.numeric import first_above

ENOUGH = 100  # numbers in each arm before a mean's deviations are about normal


class Difference(NamedTuple):
    """One period's canary mean less stable's mean.

    :param information: one over the variance of ``mean``
    """

    mean: float
    information: float


def log_e_above(differences: Sequence[Difference], bound: float, scale: float) -> float:
    """Return the log e-value against "the difference is at most ``bound``"; falling in ``bound``.

    :param differences: of each period
    :param scale: size of the differences over ``bound`` that are looked for, in the numbers' unit
    """
    information = sum(d.information for d in differences)
    score = sum((d.mean - bound) * d.information for d in differences)
    spread = 1 + scale * scale * information
    z = scale * score / sqrt(spread)
    return -log(spread) / 2 + _log_half_normal(z)


def interval(differences: Sequence[Difference], level: float, scale: float) -> tuple[float, float]:
    """Return the asymptotic confidence sequence of the difference.

    :param level: chance of error of each end
    :param scale: as in :func:`log_e_above`
    """
    information = sum(d.information for d in differences)
    if not information:
        return -inf, inf
    mean = sum(d.mean * d.information for d in differences) / information
    spread = 1 + scale * scale * information
    # Beyond this the two-sided radius has refuted too: the factor 2 Φ(z) of the one-sided e-value is over 1 there.
    radius = sqrt(spread * (log(spread) - 2 * log(level))) / (scale * information)
    mirrored = [Difference(-d.mean, d.information) for d in differences]
    needed = -log(level)
    low = first_above(lambda x: log_e_above(differences, -x, scale), needed, -mean, -mean + radius)
    high = first_above(lambda x: log_e_above(mirrored, -x, scale), needed, mean, mean + radius)
    return -low, high


def _log_half_normal(z: float) -> float:
    """Return log(2 Φ(z)) + z² / 2."""
    if z > -8:
        return log(erfc(-z / sqrt(2))) + z * z / 2
    # Mills' ratio: 2 Φ(z) exp(z² / 2) → (2 / π)^(1/2) / |z|
    return log(sqrt(2 / 3.141592653589793) / -z) - log1p(1 / (z * z))
