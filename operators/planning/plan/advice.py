"""Is a plan good enough, and if not, what would be? Pure: each answer is found by planning again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from operators.core.spec_release import Release
from operators.planning.plan.expected import Part
from operators.planning.plan.forecast import Outlook
from operators.planning.plan.power import SURE
from operators.planning.plan.search import NICE_S, duration, first_good, least_good, rounded_up
from operators.planning.plan.types import Problem, Remedy
from operators.planning.simulation.traffic_model import TrafficModel

_BUSIEST_PER_S = 1e6
_UNIT_SHARE = 0.8  # of the units that a phase is expected to have: so many it has almost surely


class Advice:
    """What is wrong with a release under a load, and what would do.

    The watch after a promotion is not asked: it has to refute nothing.
    """

    def __init__(self, outlook: Outlook) -> None:
        self._outlook = outlook
        self._release = outlook.release
        self._bad: set[int] = set()

    def problems(self) -> tuple[Problem, ...]:
        """Return what each phase cannot do in its longest wait; with changes that each alone would mend it."""
        texts = {
            index: list(shortcomings(self._outlook, index))
            for index, phase in enumerate(self._outlook.phases)
            if phase.kind != "watch"
        }
        self._bad = {index for index, some in texts.items() if some}
        return tuple(
            Problem(
                phase=self._outlook.phases[index].name,
                text="; ".join(texts[index]),
                remedies=tuple(self._for_phase(index)),
            )
            for index in sorted(self._bad)
        )

    def for_all(self, *, effect: float | None = None) -> Iterator[Remedy]:
        """Give changes that mend the whole plan at once.

        :param effect: share of failures on top that must be found before the promotion, too
        """
        every = range(len(self._outlook.phases))

        def holds(outlook: Outlook) -> bool:
            return _holds(outlook, every) and (effect is None or _finds(outlook, effect))

        def good(changed: Release) -> bool:
            return holds(Outlook(changed, self._outlook.load, like=self._outlook))

        def good_at(rate_per_s: float) -> bool:
            load = self._outlook.load.model_copy(update={"rate_per_s": rate_per_s})
            return holds(Outlook(self._release, load, like=self._outlook))

        yield from self._longer(good)
        yield from self._wider(good, tuple(self._outlook.probers))
        busier = least_good(good_at, self._outlook.load.rate_per_s, _BUSIEST_PER_S)
        if busier is not None:
            yield Remedy(rate_per_s=rounded_up(busier, 2, _BUSIEST_PER_S))

    def _for_phase(self, index: int) -> Iterator[Remedy]:
        # A change of a weight changes the margin of the phase before. Where that was bad already, it has its own remedies.
        held = [i for i in (index, index - 1) if i >= 0 and (i == index or i not in self._bad)]

        def good(changed: Release) -> bool:
            return self._good(changed, held)

        failing = {text.split(":")[0] for text in shortcomings(self._outlook, index)} & set(self._outlook.probers)
        yield from self._longer(good)
        yield from self._heavier(good, index)
        yield from self._wider(good, tuple(sorted(failing)))
        yield from self._fewer(good, failing)
        yield from self._bolder(good)
        yield from self._smaller(good, index)

    def _good(self, changed: Release, indices: range | list[int]) -> bool:
        return _holds(Outlook(changed, self._outlook.load, like=self._outlook), indices)

    def _with_judge(self, **update: Any) -> Release:
        return self._release.model_copy(update={"judge": self._release.judge.model_copy(update=update)})

    def _longer(self, good: Callable[[Release], bool]) -> Iterator[Remedy]:
        """A longer wait."""
        longer = [wait_s for wait_s in NICE_S if wait_s > self._release.judge.max_wait_s]
        wait_s = first_good(lambda s: good(self._with_judge(max_wait_s=s)), longer)
        if wait_s is not None:
            yield Remedy(changes={"judge.max_wait": duration(wait_s)})

    def _heavier(self, good: Callable[[Release], bool], index: int) -> Iterator[Remedy]:
        """A larger share of the traffic, below the next step's."""
        release, shadow, steps = self._release, self._release.shadow, self._release.steps
        if shadow is not None and index == 0:
            key, own, most = "shadow.sample_pct", shadow.sample_pct, 100.0

            def heavier(pct: float) -> Release:
                return release.model_copy(update={"shadow": shadow.model_copy(update={"sample_pct": pct})})
        else:
            number = index - (1 if shadow else 0)
            following = steps[number + 1].weight_pct - 0.01 if number + 1 < len(steps) else 99.0 - release.holdout_pct
            key, own, most = f"steps.{number}.weight_pct", steps[number].weight_pct, following

            def heavier(pct: float) -> Release:
                step = steps[number].model_copy(update={"weight_pct": pct})
                return release.model_copy(update={"steps": (*steps[:number], step, *steps[number + 1 :])})

        pct = least_good(lambda p: good(heavier(p)), own, most)
        if pct is not None:
            yield Remedy(changes={key: f"{rounded_up(pct, 2, most):g}"})

    def _wider(self, good: Callable[[Release], bool], names: tuple[str, ...]) -> Iterator[Remedy]:
        """Larger margins, all by the same factor."""
        rules = {name: getattr(self._release.judge, name) for name in names}
        if not rules:
            return

        def widened(factor: float) -> dict[str, float]:
            return {name: rounded_up(rule.margin_pct * factor, 2, 100.0) for name, rule in rules.items()}

        def changed(factor: float) -> Release:
            margins = widened(factor)
            return self._with_judge(
                **{name: rule.model_copy(update={"margin_pct": margins[name]}) for name, rule in rules.items()}
            )

        factor = least_good(lambda f: good(changed(f)), 1.0, 100.0)
        if factor is not None:
            margins = {f"judge.{name}.margin_pct": f"{pct:g}" for name, pct in widened(factor).items()}
            yield Remedy(changes=margins)

    def _fewer(self, good: Callable[[Release], bool], failing: set[str]) -> Iterator[Remedy]:
        """Without one of the other guards, which share alpha."""
        judge = self._release.judge
        for name in judge.guards:
            if name in failing:
                continue
            kind = next((k for k in ("business", "series") if name in getattr(judge, k)), None)
            rest: Mapping[str, Any] = (
                {kind: {n: rule for n, rule in getattr(judge, kind).items() if n != name}} if kind else {name: None}
            )
            if len(judge.guards) > 1 and good(self._with_judge(**rest)):
                yield Remedy(changes={f"judge.{kind}.{name}" if kind else f"judge.{name}": "null"})

    def _bolder(self, good: Callable[[Release], bool]) -> Iterator[Remedy]:
        """A larger alpha; a smaller confidence."""
        judge = self._release.judge
        alpha = least_good(lambda a: good(self._with_judge(alpha=a)), judge.alpha, 0.5)
        if alpha is not None:
            yield Remedy(changes={"judge.alpha": f"{rounded_up(alpha, 2, 0.5):g}"})
        doubt = least_good(lambda d: good(self._with_judge(confidence=1 - d)), 1 - judge.confidence, 0.5)
        if doubt is not None:
            yield Remedy(changes={"judge.confidence": f"{1 - rounded_up(doubt, 2, 0.5):g}"})

    def _smaller(self, good: Callable[[Release], bool], index: int) -> Iterator[Remedy]:
        """A smaller least number of units."""
        phase = self._outlook.phases[index]
        shares = (phase.canary_share, phase.stable_share)
        units = int(_UNIT_SHARE * min(self._outlook.load.seen(share, phase.max_wait_s) for share in shares))
        if not 1 <= units < phase.min_requests:
            return
        if phase.kind == "shadow":
            assert self._release.shadow is not None
            smaller = self._release.shadow.model_copy(update={"min_requests": units})
            changed, key = self._release.model_copy(update={"shadow": smaller}), "shadow.min_requests"
        else:
            number = index - (1 if self._release.shadow else 0)
            steps = self._release.steps
            step = steps[number].model_copy(update={"min_requests": units})
            changed = self._release.model_copy(update={"steps": (*steps[:number], step, *steps[number + 1 :])})
            key = f"steps.{number}.min_requests"
        if good(changed):
            yield Remedy(changes={key: str(units)})


def shortcomings(outlook: Outlook, index: int) -> Iterator[str]:
    """Say what a phase cannot do in its longest wait; each text begins with a guard's name, if it is one's."""
    phase = outlook.phases[index]
    part, wait = Part(phase, phase.max_wait_s), duration(phase.max_wait_s)
    if outlook.least_chance(phase, phase.max_wait_s) < SURE:
        units = outlook.load.seen(min(phase.canary_share, phase.stable_share), phase.max_wait_s)
        yield f"about {units:,.0f} units come to the smaller arm in {wait}; min_requests is {phase.min_requests:,}"
    for name, prober in outlook.probers.items():
        margin = f"{100 * prober.margin(part):.3g} points"
        chance = prober.refuted(part)
        if chance < SURE:
            yield (
                f"{name}: a version like stable would prove that it is not worse by the margin of {margin} "
                f"in {chance:.0%} of the releases within {wait}, not in {SURE:.0%}"
            )
        power = prober.power(part, outlook.before(index), prober.effect(part))
        if power < SURE:
            yield (
                f"{name}: a version that is worse by the margin of {margin} would be found "
                f"in {power:.0%} of the releases within {wait}, not in {SURE:.0%}"
            )


def _holds(outlook: Outlook, indices: range | list[int]) -> bool:
    asked = [(i, phase) for i in indices if (phase := outlook.phases[i]).kind != "watch"]
    # One question each before the hundred: what does not pass with the middle counts does not pass in four of five cases.
    likely = all(
        prober.refuted_usually(Part(phase, phase.max_wait_s))
        for _, phase in asked
        for prober in outlook.probers.values()
    )
    return likely and not any(True for i, _ in asked for _ in shortcomings(outlook, i))


def _finds(outlook: Outlook, effect: float) -> bool:
    """Return whether a regression of the failures is found before the promotion."""
    prober = outlook.probers.get("failures")
    last = max(index for index, phase in enumerate(outlook.phases) if phase.kind != "watch")
    phase = outlook.phases[last]
    return prober is None or prober.power(Part(phase, phase.max_wait_s), outlook.before(last), effect) >= SURE


def refused(release: Release, load: TrafficModel) -> bool:
    """Return whether a plan is refused, without asking for what would do."""
    outlook = Outlook(release, load)
    return not _holds(outlook, range(len(outlook.phases)))
