"""How long it takes until the data shows that a version like stable is no worse. Pure, no numpy."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from operators.planning.plan.expected import Part
from operators.planning.plan.poisson import quantile
from operators.planning.plan.power import PARTS, Prober, last_counts

_MOST_BAD = 200.0  # expected bad units of the canary; with more, the chance at one moment is precise enough
_NEGLIGIBLE = 1e-9


class PassingChance:
    """The chance that one guard is satisfied in one phase, by rising times.

    A canary may pass at one moment and not at the next. So the number of its bad units is followed over time, and releases that
    have passed are taken out. Stable's number is assumed to stay at the same quantile all the time.
    """

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._mean = 0.0
        self._waiting: list[list[float]] = [[1.0] for _ in range(PARTS)]  # chances of the canary's numbers of bad units
        self._passed = [0.0] * PARTS

    def by(self, part: Part) -> float:
        """Return the chance that the guard was satisfied at this time, or at an earlier one that was asked about."""
        counts = self._prober.clean(part)
        if counts.canary_bad > _MOST_BAD:
            return max(sum(self._passed) / PARTS, self._prober.refuted(part))
        growth = _poisson(counts.canary_bad - self._mean)
        self._mean = counts.canary_bad

        def clears(stable: int, canary: int) -> bool:
            return self._prober.clears(part, counts[:2], (canary, stable))

        for index, most in enumerate(last_counts(clears, counts.stable_bad, counts.canary)):
            waiting = _added(self._waiting[index], growth)
            self._passed[index] += sum(waiting[: most + 1])
            waiting[: most + 1] = [0.0] * min(most + 1, len(waiting))
            self._waiting[index] = waiting
        return sum(self._passed) / PARTS


def _poisson(mean: float) -> list[float]:
    """Return the chances of 0, 1, 2, …, as far as they matter."""
    if mean <= 0:
        return [1.0]
    chances = [exp(-mean)]
    for count in range(1, quantile(mean, 1 - _NEGLIGIBLE) + 1):
        chances.append(chances[-1] * mean / count)
    return chances


def _added(chances: Sequence[float], more: Sequence[float]) -> list[float]:
    """Return the chances of the sum of two independent numbers."""
    total = [0.0] * (len(chances) + len(more) - 1)
    for count, chance in enumerate(chances):
        if chance > _NEGLIGIBLE:
            for extra, part in enumerate(more):
                total[count + extra] += chance * part
    while total[-1] < _NEGLIGIBLE and len(total) > 1:
        total.pop()
    return total
