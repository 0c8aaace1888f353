"""What is wrong with a plan, and which changes would solve it. Pure: each change is tried by planning again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from operators.planning.plan.expected import Part
from operators.planning.plan.forecast import Outlook
from operators.planning.plan.power import SURE
from operators.planning.plan.search import NICE_S, duration, first_good, least_good, rounded_up
from operators.planning.plan.types import Problem, Remedy


class Advice:
    """What is wrong with a release under a load, and what would help.

    The watch is left out: it need not show that the version is good.
    """

    def __init__(self, outlook: Outlook) -> None:
        self._outlook = outlook

    def problems(self) -> tuple[Problem, ...]:
        """Return what each phase cannot show within max_wait, with changes that would each be enough."""
        problems = []
        for index, phase in enumerate(self._outlook.phases):
            if phase.kind != "watch" and (texts := list(shortcomings(self._outlook, index))):
                remedies = tuple(self._for_phase(index, texts))
                problems.append(Problem(phase=phase.name, text="; ".join(texts), remedies=remedies))
        return tuple(problems)

    def for_all(self, *, effect: float | None = None) -> Iterator[Remedy]:
        """Give changes that would each solve all problems.

        :param effect: share of additional failures that must be detected before the promotion, too
        """

        def good(outlook: Outlook) -> bool:
            return _holds(outlook, range(len(outlook.phases))) and (effect is None or _detects(outlook, effect))

        yield from self._remedies(good, tuple(self._outlook.probers))

    def _for_phase(self, index: int, texts: Iterable[str]) -> Iterator[Remedy]:
        failing = {text.split(":")[0] for text in texts} & set(self._outlook.probers)
        yield from self._remedies(lambda outlook: _holds(outlook, [index]), tuple(sorted(failing)))

    def _remedies(self, good: Callable[[Outlook], bool], guards: tuple[str, ...]) -> Iterator[Remedy]:
        """Give a longer wait, and larger margins of some guards, all by the same factor."""
        judge = self._outlook.release.judge
        rules = {name: getattr(judge, name) for name in guards}

        def mended(**update: Any) -> bool:
            release = self._outlook.release.model_copy(update={"judge": judge.model_copy(update=update)})
            return good(Outlook(release, self._outlook.load, like=self._outlook))

        def widened(factor: float) -> dict[str, float]:
            return {name: rounded_up(rule.margin_pct * factor, 2, 100.0) for name, rule in rules.items()}

        def wide_enough(factor: float) -> bool:
            margins = widened(factor)
            return mended(**{n: rule.model_copy(update={"margin_pct": margins[n]}) for n, rule in rules.items()})

        longer = [wait_s for wait_s in NICE_S if wait_s > judge.max_wait_s]
        if wait_s := first_good(lambda s: mended(max_wait_s=s), longer):
            yield Remedy(changes={"judge.max_wait": duration(wait_s)})
        if rules and (factor := least_good(wide_enough, 1.0, 100.0)):
            yield Remedy(changes={f"judge.{name}.margin_pct": f"{pct:g}" for name, pct in widened(factor).items()})


def shortcomings(outlook: Outlook, index: int) -> Iterator[str]:
    """Say what a phase cannot show within max_wait. A text about a guard begins with the guard's name and a colon."""
    phase = outlook.phases[index]
    part, wait = Part(phase, phase.max_wait_s), duration(phase.max_wait_s)
    if outlook.least_chance(phase, phase.max_wait_s) < SURE:
        units = outlook.load.seen(min(phase.canary_share, phase.stable_share), phase.max_wait_s)
        yield f"the smaller arm gets about {units:,.0f} units in {wait}, but min_requests is {phase.min_requests:,}"
    for name, prober in outlook.probers.items():
        margin = f"{100 * prober.margin(part):.3g} points"
        chance = prober.refuted(part)
        if chance < SURE:
            yield (
                f"{name}: a version like stable passes this guard within {wait} in {chance:.0%} of the releases, "
                f"not in {SURE:.0%}"
            )
        power = prober.power(part, outlook.before(index), prober.effect(part))
        if power < SURE:
            yield (
                f"{name}: a version that is worse by the margin of {margin} fails within {wait} in {power:.0%} of the "
                f"releases, not in {SURE:.0%}"
            )


def _holds(outlook: Outlook, indices: range | list[int]) -> bool:
    asked = [(i, phase) for i in indices if (phase := outlook.phases[i]).kind != "watch"]
    # A cheap check first: what does not pass with the median counts does not pass in four of five releases.
    likely = all(
        prober.refuted_usually(Part(phase, phase.max_wait_s))
        for _, phase in asked
        for prober in outlook.probers.values()
    )
    return likely and not any(True for i, _ in asked for _ in shortcomings(outlook, i))


def _detects(outlook: Outlook, effect: float) -> bool:
    """Return whether a regression of the failures is detected before the promotion."""
    prober = outlook.probers.get("failures")
    last = max(index for index, phase in enumerate(outlook.phases) if phase.kind != "watch")
    phase = outlook.phases[last]
    return prober is None or prober.power(Part(phase, phase.max_wait_s), outlook.before(last), effect) >= SURE
