"""When has a version like stable proven that it is no worse, if it is asked again and again? Pure, no numpy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import exp

from operators.planning.plan.expected import Part
from operators.planning.plan.poisson import quantile, strata
from operators.planning.plan.power import PARTS, Prober, last_count

_MOST_BAD = 200.0  # expected bad units of the canary; with more, the chance at one moment is as good
_NEGLIGIBLE = 1e-9


class Passing:
    """One guard in one phase, asked at rising times.

    A canary may pass at one moment and not at the next. So this follows the number of its bad units over time, and removes the
    releases that have passed. Stable's number is assumed to be as far above or below its mean all along.
    """

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._mean = 0.0
        self._waiting: list[list[float]] = [[1.0] for _ in range(PARTS)]  # chances of the canary's numbers of bad units
        self._passed = [0.0] * PARTS

    def by(self, part: Part) -> float:
        """Return the chance that the margin has been refuted by then, at this time or at one that was asked about before."""
        counts = self._prober.clean(part)
        if counts.canary_bad > _MOST_BAD:
            return max(sum(self._passed) / PARTS, self._prober.refuted(part))
        growth = _poisson(counts.canary_bad - self._mean)
        self._mean, most = counts.canary_bad, -1

        def clears(stable: int, canary: int) -> bool:
            return self._prober.clears(part, counts[:2], (canary, stable))

        for index, stable in enumerate(strata(counts.stable_bad, PARTS)):
            waiting = _added(self._waiting[index], growth)
            most = last_count(partial(clears, stable), most, counts.canary)
            self._passed[index] += sum(waiting[: most + 1])
            waiting[: most + 1] = [0.0] * min(most + 1, len(waiting))
            self._waiting[index] = waiting
        return sum(self._passed) / PARTS


def _poisson(mean: float) -> list[float]:
    """Return the chances of 0, 1, 2, … as far as they matter."""
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
