"""How long each phase of a release will take, and what it can detect. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import inf, prod

from operators.core.spec_release import Release
from operators.judge.phases import Phase, alpha_share, phases_of
from operators.planning.plan.expected import PLANNED, Part
from operators.planning.plan.poisson import at_most
from operators.planning.plan.power import SURE, Prober, smallest
from operators.planning.plan.time_to_pass import PassingChance
from operators.planning.plan.types import Detection, Effect, GuardPlan, PhasePlan
from operators.planning.simulation.traffic_model import TrafficModel

_SOONEST_S = 1.0  # the judge looks once a second
_STEP = 1.15  # factor from one time to the next
_ALMOST = 0.99


class Outlook:
    """A release under a load.

    :param release: of the spec
    :param like: the outlook of a similar release; its phases are assumed to last as long, which saves time
    """

    def __init__(self, release: Release, load: TrafficModel, *, like: Outlook | None = None) -> None:
        self.release, self.load = release, load
        self.phases: tuple[Phase, ...] = phases_of(release)
        judge = release.judge.model_copy(update={"alpha": release.judge.alpha * alpha_share(release)})
        self.probers = {name: Prober(judge, load, name) for name in judge.guards if name in PLANNED}
        self._times: dict[int, tuple[float | None, float | None]] = dict(like._times) if like else {}

    @cached_property
    def unplanned(self) -> dict[str, str]:
        """Guards that cannot be planned, and why."""
        late = ("loss", *self.release.judge.business)
        return {
            name: "its evidence comes later, with the labels or the business numbers"
            if name in late
            else "its noise is not known before the release"
            for name in self.release.judge.guards
            if name not in (*PLANNED, "labels")
        }

    def times_s(self, index: int) -> tuple[float | None, float | None]:
        """Return how long a phase takes for a version like stable: the mean, and what is enough in four of five releases.

        The first is None if it does not pass within max_wait in most releases, the second if it does not in four of five.
        """
        if index not in self._times:
            phase = self.phases[index]
            watch = phase.kind == "watch"
            self._times[index] = (phase.bake_s, phase.bake_s) if watch else _times_s(phase, self._passed(phase))
        return self._times[index]

    def _passed(self, phase: Phase) -> list[tuple[float, float]]:
        """Return rising pairs of (time, chance that the phase has passed by then), up to max_wait or until it is almost sure.

        No version passes before the end of the bake. All guards must be satisfied at the same time. Here it is enough that each
        has been satisfied at some time, which is a little too early if two of them are equally slow.
        """
        steps: list[tuple[float, float]] = []
        now_s, best = max(_SOONEST_S, phase.bake_s), 0.0
        passing = [PassingChance(prober) for prober in self.probers.values()]
        while True:
            now_s = min(now_s, phase.max_wait_s)
            least = self.least_chance(phase, now_s)
            if least > 1 - _ALMOST:
                best = max(best, least * prod(one.by(Part(phase, now_s)) for one in passing))
            steps.append((now_s, best))
            if now_s >= phase.max_wait_s or best > _ALMOST:
                return steps
            now_s *= _STEP

    def before(self, index: int) -> list[Part]:
        """Return the earlier phases whose evidence counts too, each with its expected length."""
        return [
            Part(phase, self.times_s(earlier)[0] or phase.max_wait_s)
            for earlier, phase in enumerate(self.phases[:index])
            if phase.kind == self.phases[index].kind
        ]

    def least_chance(self, phase: Phase, lasts_s: float) -> float:
        """Return the chance that the smaller arm has ``min_requests`` units by then."""
        units = self.load.seen(min(phase.canary_share, phase.stable_share), lasts_s)
        return 1 - at_most(phase.min_requests - 1, units, inf)

    def describe(self, index: int) -> PhasePlan:
        """Return the plan of one phase."""
        phase = self.phases[index]
        expected_s, likely_s = self.times_s(index)
        lasts_s = expected_s if expected_s is not None else phase.max_wait_s
        dead_s = self.dead_found_s(index)
        guards = {name: self._guard(prober, index) for name, prober in self.probers.items()}
        return PhasePlan(
            name=phase.name,
            kind=phase.kind,
            weight_pct=round(100 * phase.exposed_share, 4),
            bake_s=phase.bake_s,
            max_wait_s=phase.max_wait_s,
            expected_s=expected_s,
            likely_s=likely_s,
            exposed_units=self.load.seen(phase.exposed_share, lasts_s),
            harmed_requests=max((self._harmed(guard, name, phase) for name, guard in guards.items()), default=0.0),
            dead_found_s=dead_s,
            dead_found_units=None if dead_s is None else self.load.seen(phase.canary_share, dead_s),
            guards=guards,
        )

    def met_units(self) -> float:
        """Return how many callers have got an answer of the new version by the promotion, if it is like stable. Each counts once.

        The callers of one step are among those of the next.
        """
        indices = [index for index, phase in enumerate(self.phases) if phase.kind == "canary"]
        lasts_s = [self.times_s(index)[0] or self.phases[index].max_wait_s for index in indices]
        total = share = 0.0
        for number, index in enumerate(indices):
            weight = self.phases[index].exposed_share
            total += self.load.seen(weight - share, sum(lasts_s[number:]))
            share = weight
        return total

    def dead_found_s(self, index: int) -> float | None:
        """Return how long it takes until a version fails that was good, but fails every request from this phase on."""
        prober = self.probers.get("failures")
        if prober is None:
            return None
        phase, before = self.phases[index], self.before(index)
        return self._first_s(
            phase, lambda lasts_s: prober.fails_usually(Part(phase, lasts_s), before, 1.0), least_s=1e-3
        )

    def regression(self, effect: float) -> Effect | None:
        """Return when a regression of the failures is detected; None: there is no guard for it."""
        prober = self.probers.get("failures")
        if prober is None:
            return None
        phases = []
        for index, phase in enumerate(self.phases):
            found_s = self._first_s(phase, self._fails_by(prober, phase, effect))
            chance = prober.power(Part(phase, phase.max_wait_s), self.before(index), effect)
            phases.append(Detection(phase=phase.name, found_s=found_s, chance=chance))
        return Effect(points=100 * effect, phases=tuple(phases))

    def _guard(self, prober: Prober, index: int) -> GuardPlan:
        phase, before = self.phases[index], self.before(index)
        whole = Part(phase, phase.max_wait_s)
        effect = prober.effect(whole)
        alone = prober.detectable(whole, ())
        return GuardPlan(
            margin_pct=100 * prober.margin(whole),
            refuted_s=self._first_s(phase, lambda lasts_s: prober.refuted_usually(Part(phase, lasts_s))),
            refuted_chance=prober.refuted(whole),
            margin_power=prober.power(whole, before, effect),
            margin_found_s=self._first_s(phase, self._fails_by(prober, phase, effect)),
            detects_pct=_percent(alone),
            detects_with_earlier_pct=_percent(prober.detectable(whole, before) if before else alone),
        )

    @staticmethod
    def _fails_by(prober: Prober, phase: Phase, effect: float) -> Callable[[float], bool]:
        return lambda lasts_s: prober.fails_usually(Part(phase, lasts_s), (), effect)

    def _harmed(self, guard: GuardPlan, name: str, phase: Phase) -> float:
        lasts_s = phase.max_wait_s if guard.margin_found_s is None else guard.margin_found_s
        return self.load.rate_per_s * phase.exposed_share * lasts_s * self.probers[name].effect(Part(phase, lasts_s))

    @staticmethod
    def _first_s(phase: Phase, holds: Callable[[float], bool], *, least_s: float = _SOONEST_S) -> float | None:
        """Return from when on a condition holds; None: not within max_wait."""
        if least_s >= phase.max_wait_s or holds(least_s):
            return least_s if holds(least_s) else None
        # Doubling first: max_wait may be a day, and halving it stops too early for a time of a second.
        high = least_s
        while high < phase.max_wait_s and not holds(high):
            high = min(2 * high, phase.max_wait_s)
        return smallest(holds, high / 2, high)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _times_s(phase: Phase, passed: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    """Return the mean time, and the time that is enough with a chance of ``SURE``, from the chances at some times."""
    mean, likely, before, chance_before = phase.bake_s, None, 0.0, 0.0
    for now_s, chance in passed:
        if now_s > phase.bake_s:
            since = max(before, phase.bake_s)
            mean += (now_s - since) * (1 - (chance_before + chance) / 2)
        if likely is None and chance >= SURE:
            part = (SURE - chance_before) / (chance - chance_before)
            likely = max(phase.bake_s, before + part * (now_s - before))
        before, chance_before = now_s, chance
    return mean if passed[-1][1] >= 0.5 else None, likely


def total_s(parts: Sequence[PhasePlan]) -> float | None:
    """Return the time to the promotion; None: a phase does not pass."""
    times = [part.expected_s for part in parts if part.kind != "watch"]
    return None if None in times else sum(time for time in times if time is not None)
