"""Questions to the judge's statistics before there is evidence: how much would it take? Pure.

Two facts are used: more bad units of the canary never speak for it, and more of stable never against it. So for each number of
stable's bad units there is one number of the canary's at which the answer changes. It is found by asking, and the chance of
reaching it is that of a Poisson number. As the judge may be asked at every moment and this asks at one, the true chances are a
little better. The judge itself is not asked: it gives intervals and sentences too, which takes fifty times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import log

from operators.core.spec_judge import Judge
from operators.judge.statistics import ownership, shares
from operators.judge.statistics.numeric import e_value
from operators.judge.statistics.ownership import Events
from operators.judge.wording import Rules
from operators.planning.plan.expected import Counts, Part, expect
from operators.planning.plan.poisson import at_most, quantile, strata
from operators.planning.simulation.traffic_model import TrafficModel

PARTS = 5
_LOOKED_AT = (1.0, 0.9, 0.8)  # of a time, when the judge is asked
SURE = 0.8  # the chance that a plan asks for
_HALVINGS = 24


@dataclass
class Prober:
    """Asks about one guard.

    :param policy: the spec's judge
    """

    policy: Judge
    load: TrafficModel
    guard: str
    threshold: float = field(init=False)

    def __post_init__(self) -> None:
        self.threshold = len(self.policy.guards) / self.policy.alpha

    def margin(self, part: Part) -> float:
        """Return the margin of a phase on the canary's own share, as the judge takes it; at most what is left above stable."""
        return min(self._margin(part), 1 - self.load.base(self.guard))

    def fails(self, events: Sequence[Events]) -> bool:
        """Return whether these first bad events fail the guard."""
        return e_value(ownership.log_e(events)) >= self.threshold

    def clears(self, part: Part, units: tuple[float, float], bad: tuple[int, int]) -> bool:
        """Return whether these counts refute "worse by more than the margin".

        :param units: of the canary and of stable
        :param bad: bad ones of them
        """
        canary, stable = (max(round(n), k) for n, k in zip(units, bad, strict=True))
        harms = shares.of_units(bad[0], canary, bad[1], stable, part.phase.weight)
        return shares.log_e_below(harms, self._margin(part)) >= -log(1 - self.policy.confidence)

    def _margin(self, part: Part) -> float:
        margin: float = getattr(self.policy, self.guard).margin_pct / 100
        return Rules(self.threshold, 1 - self.policy.confidence, part.phase.harm_weight).margin(margin)

    def effect(self, part: Part) -> float:
        """Return by how much more requests must be bad for the share of bad *units* to be worse by the margin.

        Of a unit with many requests, one bad one is enough.
        """
        margin, room = self.margin(part), 1 - self.load.base(self.guard)
        if self.load.units is None:
            return margin

        def share(effect: float) -> float:
            counts = expect(self.load, self.guard, (), part, effect)
            return counts.canary_bad / counts.canary

        own = share(0.0)
        return smallest(lambda effect: share(effect) - own >= min(margin, 0.999 * (1 - own)), 0.0, room) or room

    def refuted(self, part: Part) -> float:
        """Return the chance that "worse by more than the margin" is refuted by then, for a canary like stable."""
        return max(self._refuted_at(earlier) for earlier in _until(part))

    def _refuted_at(self, part: Part) -> float:
        counts = self.clean(part)
        total, most = 0.0, -1

        def clears(stable: int, canary: int) -> bool:
            return self.clears(part, counts[:2], (canary, stable))

        for stable in strata(counts.stable_bad, PARTS):
            most = last_count(partial(clears, stable), most, counts.canary)
            total += at_most(most, counts.canary_bad, counts.canary)
        return total / PARTS

    def refuted_usually(self, part: Part) -> bool:
        """Return whether it is refuted by then when the counts are the middle ones."""
        counts = self.clean(part)
        middle = quantile(counts.canary_bad, 0.5), quantile(counts.stable_bad, 0.5)
        return self.clears(part, counts[:2], middle)

    def power(self, part: Part, before: Sequence[Part], effect: float) -> float:
        """Return the chance that a canary worse by ``effect`` has failed by then.

        :param before: phases whose evidence counts too: what is expected of them
        """
        return max(
            self._chance(expect(self.load, self.guard, before, at, effect), self._needed(at, before, effect))
            for at in _until(part)
        )

    def detectable(self, part: Part, before: Sequence[Part]) -> float | None:
        """Return the smallest effect that is detected with a chance of ``SURE``; None: none is."""
        room = 1 - self.load.base(self.guard)
        if before:
            return smallest(lambda effect: self.power(part, before, effect) >= SURE, 0.0, room)
        needed = self._needed(part, (), 0.0)  # nothing before: what is needed does not depend on the effect
        return smallest(
            lambda effect: self._chance(expect(self.load, self.guard, (), part, effect), needed) >= SURE, 0.0, room
        )

    def fails_usually(self, part: Part, before: Sequence[Part], effect: float) -> bool:
        """Return whether a canary that was good before, and is worse by ``effect`` now, has failed by then.

        The counts are the middle ones.
        """
        counts = expect(self.load, self.guard, before, part, effect)
        # A canary that fails everything has no chance in it: the units that have come, no more.
        certain = self.load.base(self.guard) + effect >= 1
        canary = int(counts.canary_first + 1e-9) if certain else quantile(counts.canary_first, 0.5)
        newest = Events(canary, quantile(counts.stable_first, 0.5), part.phase.weight)
        return self.fails([*self._history(before, 0.0), newest])

    def clean(self, part: Part) -> Counts:
        """Return what a phase is expected to give if the canary is like stable."""
        return expect(self.load, self.guard, (), part, 0.0)

    def _chance(self, counts: Counts, needed: Sequence[int]) -> float:
        return sum(1 - at_most(k - 1, counts.canary_first, counts.canary) for k in needed) / PARTS

    def _needed(self, part: Part, before: Sequence[Part], effect: float) -> list[int]:
        """Return how many bad units of the canary fail it, for each part of what stable may have."""
        counts = expect(self.load, self.guard, before, part, effect)
        history = self._history(before, effect)

        def passes(stable: int, canary: int) -> bool:
            return not self.fails([*history, Events(canary, stable, part.phase.weight)])

        needed, found = [], -1
        for stable in strata(counts.stable_first, PARTS):
            found = last_count(partial(passes, stable), found, counts.canary)
            needed.append(found + 1)
        return needed

    def _history(self, before: Sequence[Part], effect: float) -> list[Events]:
        """Return the first bad events that are expected of the phases before."""
        counted = (expect(self.load, self.guard, before[:i], part, effect) for i, part in enumerate(before))
        return [
            Events(round(counts.canary_first), round(counts.stable_first), part.phase.weight)
            for part, counts in zip(before, counted, strict=True)
        ]


def _until(part: Part) -> list[Part]:
    """Return the phase as it stands at some times.

    Between two whole numbers of bad units the chance at one moment falls with time. The chance of having got there by then does
    not: it is at least the largest so far.
    """
    return [Part(part.phase, share * part.lasts_s) for share in _LOOKED_AT]


def smallest(holds: Callable[[float], bool], low: float, high: float, *, steps: int = _HALVINGS) -> float | None:
    """Return the smallest value, to one part in a thousand, from which on something holds; None: not even at ``high``."""
    if not holds(high):
        return None
    for _ in range(steps):
        if high - low <= 1e-3 * high:
            break
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def last_count(holds: Callable[[int], bool], known: int, end: float) -> int:
    """Return the last count at which something holds that holds up to some count.

    :param known: it holds there; -1: nothing is known
    :param end: counts do not go beyond
    """
    step, low = 1, known
    while low + step <= end and holds(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, int(end) + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
