"""By how much does the share of bad units differ? Non-inferiority and an interval, from three counts.

Each unit i gives X_i, whose mean is the harm: the canary's share of bad units less stable's. With assignment by
chance (weight w) that is the inverse-propensity weighted X = A Y / w - (1 - A) Y / (1 - w); with pairs it is +1 when
only the canary was wrong and -1 when only stable was. Capital that bets on "the harm is below δ" grows by
1 + λ (δ - X): an e-process against "harm ≥ δ" (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 86, 2024), mixed over λ. As X has three values and each λ is fixed, the capital depends on counts
alone.

If the harm differs from unit to unit, "harm" is their mean: for fixed means δ_i the expected capital is Π(1 + λ (δ - δ_i)),
at most (1 + λ (δ - mean))^n by the inequality of means, at each look. A unit counts once it was seen, and may turn
bad later: each look is exact for what the units were by then, and all looks together are where a unit makes one
request.
"""

from __future__ import annotations

from math import inf, log, log1p
from typing import NamedTuple

from operators.judge.statistics.numeric import first_above, log_mean

Bets = tuple[tuple[float, float], ...]
# (bet as a share of the largest that cannot ruin, mass). The best is about δ / (δ + share of bad units): mostly high.
UNITS: Bets = ((0.97, 4.0), (0.85, 4.0), (0.65, 3.0), (0.4, 2.5), (0.2, 1.5), (0.08, 0.8), (0.03, 0.4), (0.01, 0.3))
# Of pairs, of which some in a hundred differ, the best bet on a point or so is lower.
PAIRS: Bets = ((0.8, 0.5), (0.5, 1.0), (0.3, 2.0), (0.18, 2.5), (0.1, 2.0), (0.05, 1.0), (0.02, 0.5))


class Harms(NamedTuple):
    """What the units or pairs gave.

    :param worse: how many gave X = ``up``
    :param better: how many gave X = ``-down``
    :param same: how many gave 0
    :param bets: what is mixed
    """

    worse: int
    better: int
    same: int
    up: float = 1.0
    down: float = 1.0
    bets: Bets = PAIRS

    @property
    def mean(self) -> float:
        """The estimate of the harm; 0 without units."""
        n = self.worse + self.better + self.same
        return (self.worse * self.up - self.better * self.down) / n if n else 0.0

    def mirrored(self) -> Harms:
        """The same with the arms exchanged."""
        return Harms(self.better, self.worse, self.same, self.down, self.up, self.bets)


def of_units(canary_bad: int, canary: int, stable_bad: int, stable: int, weight: float) -> Harms:
    """Return the harms of units that were assigned by chance.

    :param canary_bad: bad units among ``canary``
    :param stable_bad: bad units among ``stable``
    :param weight: chance of the canary, above 0 and below 1
    """
    same = canary + stable - canary_bad - stable_bad
    return Harms(canary_bad, stable_bad, same, 1 / weight, 1 / (1 - weight), UNITS)


def log_e_below(harms: Harms, delta: float) -> float:
    """Return the log e-value against "harm ≥ delta"; rising in ``delta``.

    :param delta: in shares of the units, -1 to 1
    """
    room = harms.up - delta
    if room <= 0 or harms.down + delta < 0:
        return inf if room <= 0 else -inf
    return log_mean(
        (
            mass,
            harms.worse * log1p(-bet)
            + harms.same * log1p(bet * delta / room)
            + harms.better * log1p(bet * (delta + harms.down) / room),
        )
        for bet, mass in harms.bets
    )


def interval(harms: Harms, level: float) -> tuple[float, float]:
    """Return the confidence sequence of the harm: what neither one-sided e-process refutes.

    :param level: chance of error of each end
    """
    return -upper(harms.mirrored(), level), upper(harms, level)


def upper(harms: Harms, level: float) -> float:
    """Return the upper end of :func:`interval`."""
    start = min(max(harms.mean, -1.0), 1.0)
    return first_above(lambda delta: log_e_below(harms, delta), -log(level), start, 1.0)
