"""By how much do means of bounded numbers differ? E-values from sums and sums of squares alone.

Capital that bets on "the mean of y is above 0", y ≥ -1, grows by 1 + λ y. Its logarithm is at least λ y - ψ(λ) y², with
ψ(λ) = -log(1 - λ) - λ (Fan, Grama and Liu, "Exponential inequalities for martingales with applications", EJP 20,
2015, (4.11); used for confidence sequences by Howard et al., 2021, and Waudby-Smith and Ramdas, 2024). So exp(λ Σy -
ψ(λ) Σy²) is never more than that capital: an e-process that needs the moments only, and no order. It is mixed over λ.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, log1p
from typing import NamedTuple

from operators.judge.statistics.numeric import first_above, log_average

_BETS = tuple((bet, -log1p(-bet) - bet) for bet in (0.9, 0.6, 0.3, 0.15, 0.07, 0.03, 0.01))
# What is subtracted from the numbers before they are weighted, as a share of their range. Close to the mean the noise is
# smallest; which centre is close is not known beforehand, so they are mixed.
_CENTRES = (0.0, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1.0)


class Sums(NamedTuple):
    """Numbers x that lie between two bounds.

    :param size: how many
    :param total: their sum
    :param squares: the sum of their squares
    :param low: no x is below; negative
    :param high: no x is above
    """

    size: int
    total: float
    squares: float
    low: float
    high: float

    def mirrored(self) -> Sums:
        """Return the same of -x."""
        return Sums(self.size, -self.total, self.squares, -self.high, -self.low)


class Numbers(NamedTuple):
    """Numbers of one arm, scaled into 0..1.

    :param m2: sum of squared distances from the mean
    """

    size: int
    mean: float
    m2: float

    def about(self, centre: float) -> tuple[float, float]:
        """Return the sum of the distances from a centre, and of their squares."""
        return self.size * (self.mean - centre), self.m2 + self.size * (self.mean - centre) ** 2


class Split(NamedTuple):
    """Numbers of both arms, while the canary's weight was the same."""

    canary: Numbers
    stable: Numbers
    weight: float

    def weighted(self, centre: float) -> Sums:
        """Return the weighted differences A (y - c) / w - (1 - A) (y - c) / (1 - w), whose mean is the harm."""
        w, v = self.weight, 1 - self.weight
        (s_c, q_c), (s_s, q_s) = self.canary.about(centre), self.stable.about(centre)
        low, high = -max(centre / w, (1 - centre) / v), max((1 - centre) / w, centre / v)
        return Sums(self.canary.size + self.stable.size, s_c / w - s_s / v, q_c / w**2 + q_s / v**2, low, high)


def weighted(splits: Sequence[Split]) -> list[list[Sums]]:
    """Return the weighted differences about each centre: choices for the functions below.

    :param splits: of each period, numbers scaled into 0..1
    """
    return [[split.weighted(centre) for split in splits] for centre in _CENTRES]


def log_e_above(choices: Sequence[Sequence[Sums]], bound: float) -> float:
    """Return the log e-value against "the mean of x is at most ``bound``"; falling in ``bound``.

    :param choices: groups of numbers with one mean, between -1 and 1; which shows most is not known beforehand, so the
        e-values are averaged
    :param bound: -1 to 1
    """
    return log_average([log_e for groups in choices for log_e in _log_capitals(groups, bound)])


def interval(choices: Sequence[Sequence[Sums]], level: float) -> tuple[float, float]:
    """Return the confidence sequence of the mean of x.

    :param choices: as in :func:`log_e_above`
    :param level: chance of error of each end
    """
    needed = -log(level)
    mirrored = [[sums.mirrored() for sums in groups] for groups in choices]
    low = first_above(lambda x: log_e_above(choices, -x), needed, -1.0, 1.0)
    high = first_above(lambda x: log_e_above(mirrored, -x), needed, -1.0, 1.0)
    return -low, high


def _log_capitals(groups: Sequence[Sums], bound: float) -> list[float]:
    gain = loss = 0.0
    for size, total, squares, low, _ in groups:
        # x - bound is never below -room. For bounds below 0 it stays as at 0: with ever less room the e-value would fall again.
        room = max(bound, 0.0) - low
        gain += (total - size * bound) / room
        loss += (squares - 2 * bound * total + size * bound * bound) / room**2
    return [bet * gain - psi * loss for bet, psi in _BETS]
