"""How much evidence a guard will need, and how likely it gets it. Pure.

More bad units of the canary never help it, and more bad units of stable never harm it. So for each number of stable's bad units
there is one number of the canary's at which the guard's answer changes. It is searched with the judge's own statistics, and the
chance of reaching it is that of a Poisson number. The judge looks at every moment and this at a few, so the true chances are a
little better. The judge itself is not asked: it makes intervals and sentences too, which takes fifty times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

PARTS = 5  # equally likely parts of the number of stable's bad units
_LOOKED_AT = (1.0, 0.9, 0.8)  # shares of a time, at which the judge is asked
SURE = 0.8  # the chance that a plan must have
_HALVINGS = 24


@dataclass
class Prober:
    """Answers questions about one guard.

    :param policy: the spec's judge
    """

    policy: Judge
    load: TrafficModel
    guard: str
    threshold: float = field(init=False)

    def __post_init__(self) -> None:
        self.threshold = len(self.policy.guards) / self.policy.alpha

    def margin(self, part: Part) -> float:
        """Return the judge's margin of a phase on the canary's own share; at most what is left above stable's share."""
        return min(self._margin(part), 1 - self.load.base(self.guard))

    def fails(self, events: Sequence[Events]) -> bool:
        """Return whether the guard fails with these first bad events."""
        return e_value(ownership.log_e(events)) >= self.threshold

    def clears(self, part: Part, units: tuple[float, float], bad: tuple[int, int]) -> bool:
        """Return whether these counts rule out that the canary is worse by more than the margin.

        :param units: numbers of the canary and of stable
        :param bad: how many of them are bad
        """
        canary, stable = (max(round(n), k) for n, k in zip(units, bad, strict=True))
        harms = shares.of_units(bad[0], canary, bad[1], stable, part.phase.weight)
        return shares.log_e_below(harms, self._margin(part)) >= -log(1 - self.policy.confidence)

    def _margin(self, part: Part) -> float:
        margin: float = getattr(self.policy, self.guard).margin_pct / 100
        return Rules(self.threshold, 1 - self.policy.confidence, part.phase.harm_weight).margin(margin)

    def effect(self, part: Part) -> float:
        """Return how many more of the requests must be bad for the share of bad *units* to be worse by the margin.

        One bad request is enough to make a unit bad.
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
        """Return the chance that a canary like stable is shown by then to be no worse than the margin."""
        return max(self._refuted_at(earlier) for earlier in _until(part))

    def _refuted_at(self, part: Part) -> float:
        counts = self.clean(part)

        def clears(stable: int, canary: int) -> bool:
            return self.clears(part, counts[:2], (canary, stable))

        lasts = last_counts(clears, counts.stable_bad, counts.canary)
        return sum(at_most(last, counts.canary_bad, counts.canary) for last in lasts) / PARTS

    def refuted_usually(self, part: Part) -> bool:
        """Return whether the median counts show by then that a canary like stable is no worse than the margin."""
        counts = self.clean(part)
        middle = quantile(counts.canary_bad, 0.5), quantile(counts.stable_bad, 0.5)
        return self.clears(part, counts[:2], middle)

    def power(self, part: Part, before: Sequence[Part], effect: float) -> float:
        """Return the chance that a canary which is worse by ``effect`` has failed by then.

        :param before: earlier phases, whose expected evidence counts too
        """
        return max(
            self._chance(expect(self.load, self.guard, before, at, effect), self._needed(at, before, effect))
            for at in _until(part)
        )

    def detectable(self, part: Part, before: Sequence[Part]) -> float | None:
        """Return the smallest effect that is detected with a chance of ``SURE``; None: there is none."""
        room = 1 - self.load.base(self.guard)
        if before:
            return smallest(lambda effect: self.power(part, before, effect) >= SURE, 0.0, room)
        needed = self._needed(part, (), 0.0)  # without earlier phases this does not depend on the effect
        return smallest(
            lambda effect: self._chance(expect(self.load, self.guard, (), part, effect), needed) >= SURE, 0.0, room
        )

    def fails_usually(self, part: Part, before: Sequence[Part], effect: float) -> bool:
        """Return whether the median counts fail a canary by then that was good before, and is worse by ``effect`` now."""
        counts = expect(self.load, self.guard, before, part, effect)
        # If a canary fails everything, nothing is left to chance: its bad units are its units.
        certain = self.load.base(self.guard) + effect >= 1
        canary = int(counts.canary_first + 1e-9) if certain else quantile(counts.canary_first, 0.5)
        newest = Events(canary, quantile(counts.stable_first, 0.5), part.phase.weight)
        return self.fails([*self._history(before, 0.0), newest])

    def clean(self, part: Part) -> Counts:
        """Return the expected counts of a phase if the canary is like stable."""
        return expect(self.load, self.guard, (), part, 0.0)

    def _chance(self, counts: Counts, needed: Sequence[int]) -> float:
        return sum(1 - at_most(k - 1, counts.canary_first, counts.canary) for k in needed) / PARTS

    def _needed(self, part: Part, before: Sequence[Part], effect: float) -> list[int]:
        """Return for each likely number of stable's bad units how many of the canary's fail it."""
        counts = expect(self.load, self.guard, before, part, effect)
        history = self._history(before, effect)

        def passes(stable: int, canary: int) -> bool:
            return not self.fails([*history, Events(canary, stable, part.phase.weight)])

        return [last + 1 for last in last_counts(passes, counts.stable_first, counts.canary)]

    def _history(self, before: Sequence[Part], effect: float) -> list[Events]:
        """Return the expected first bad events of the earlier phases."""
        counted = (expect(self.load, self.guard, before[:i], part, effect) for i, part in enumerate(before))
        return [
            Events(round(counts.canary_first), round(counts.stable_first), part.phase.weight)
            for part, counts in zip(before, counted, strict=True)
        ]


def _until(part: Part) -> list[Part]:
    """Return the phase at some times up to its end.

    The chance at one moment falls with time until one more bad unit is allowed. The chance to have been there once does not fall:
    it is at least the largest chance so far.
    """
    return [Part(part.phase, share * part.lasts_s) for share in _LOOKED_AT]


def smallest(holds: Callable[[float], bool], low: float, high: float) -> float | None:
    """Return the smallest value from which on a condition holds, to one part in a thousand; None: not even at ``high``."""
    if not holds(high):
        return None
    for _ in range(_HALVINGS):
        if high - low <= 1e-3 * high:
            break
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def last_counts(holds: Callable[[int, int], bool], mean: float, end: float) -> Iterator[int]:
    """Give for each likely number of one arm's bad units the last number of the other arm's at which a condition holds.

    :param holds: called with both numbers; the more the first arm has, the more may the other one have
    :param mean: expected number of the first arm's bad units
    :param end: of the other arm's; it has no more
    """
    last = -1
    for count in strata(mean, PARTS):
        last = _last_count(partial(holds, count), last, end)
        yield last


def _last_count(holds: Callable[[int], bool], known: int, end: float) -> int:
    """Return the last count at which a condition holds; it holds at every count below, too.

    :param known: a count at which it holds; -1: none is known
    :param end: the largest count
    """
    step, low = 1, known
    while low + step <= end and holds(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, int(end) + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
