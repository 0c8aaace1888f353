"""How many labelled pairs a release needs, and when they will have come. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import ceil, log

from operators.core.spec_release import Release
from operators.rollout import guards
from operators.rollout.plan.chance import at_most, strata
from operators.rollout.plan.prober import PARTS, SURE, last_count
from operators.rollout.plan.search import duration
from operators.rollout.plan.types import LabelPlan, Problem, Remedy
from operators.rollout.simulation.labels import Labelling
from operators.rollout.simulation.load import Load
from operators.rollout.simulation.phases import Phase
from operators.rollout.statistics import ownership, shares
from operators.rollout.statistics.numeric import e_value

_MOST = 100_000_000


def label_plans(
    release: Release, phases: tuple[Phase, ...], load: Load, labelling: Labelling, *, known: bool
) -> Iterator[LabelPlan]:
    """Give what the guard ``labels`` needs in each phase that is held to it.

    :param known: whether somebody said how labels come; else only numbers of pairs are given
    """
    rule, shadow = release.judge.labels, release.shadow
    if rule is None or shadow is None:
        return
    pairs_per_s = load.rate_per_s * shadow.sample_pct / 100 * labelling.share
    for phase in phases:
        if not phase.late:
            continue
        rules = guards.Rules(
            len(release.judge.guards) / release.judge.alpha, 1 - release.judge.confidence, phase.harm_weight
        )
        margin = min(rules.margin(rule.margin_pct / 100), 1 - labelling.disagree / 2)
        prove = max(_least(partial(_proven, labelling.disagree, margin, rules)), rule.min_pairs)
        find = _least(partial(_found, labelling.disagree, margin, rules))
        yield LabelPlan(
            phase=phase.name,
            margin_pct=100 * margin,
            disagree_pct=100 * labelling.disagree,
            prove_pairs=prove,
            find_pairs=find,
            # After the shadow no request is copied any more: there, what has been copied has to do.
            proven_s=labelling.delay_s + prove / pairs_per_s
            if known and pairs_per_s and phase.kind == "shadow"
            else None,
            found_s=labelling.delay_s + find / pairs_per_s
            if known and pairs_per_s and phase.kind == "shadow"
            else None,
        )


def label_problems(release: Release, phases: tuple[Phase, ...], plans: tuple[LabelPlan, ...]) -> Iterator[Problem]:
    """Say what is wrong with the guard ``labels``."""
    if release.judge.labels is None:
        return
    if not plans:
        yield Problem(
            phase="labels",
            text="labels: no phase is held to them, so nothing comes of this guard",
            remedies=(Remedy(changes={"watch": "1d"}), Remedy(changes={"shadow.await_labels": "true"})),
        )
    for phase in phases:
        for made in plans:
            needed_s = max(made.proven_s or 0.0, made.found_s or 0.0)
            if made.phase == phase.name and phase.kind == "shadow" and needed_s > phase.max_wait_s:
                yield Problem(
                    phase=phase.name,
                    text=f"labels: {max(made.prove_pairs, made.find_pairs):,} pairs are needed; that takes "
                    f"{duration(float(ceil(needed_s)))}, max_wait is {duration(phase.max_wait_s)}",
                    remedies=(Remedy(changes={"judge.max_wait": duration(60.0 * ceil(needed_s / 60))}),),
                )


def _proven(disagree: float, margin: float, rules: guards.Rules, pairs: int) -> float:
    """Return the chance that harm over the margin is refuted, for a version that is as good."""

    def clears(better: int, worse: int) -> bool:
        harms = shares.Harms(worse, better, max(0, pairs - worse - better))
        return shares.log_e_below(harms, margin) >= -log(rules.level)

    total, most, mean = 0.0, -1, pairs * disagree / 2
    for better in strata(mean, PARTS):
        most = last_count(partial(clears, better), most, pairs)
        total += at_most(most, mean, pairs)
    return total / PARTS


def _found(disagree: float, margin: float, rules: guards.Rules, pairs: int) -> float:
    """Return the chance that a version which is worse by the margin has failed."""

    def passes(better: int, worse: int) -> bool:
        events = [ownership.Events(worse, better, 0.5)]
        return e_value(ownership.log_e(events, prior=ownership.PAIRS)) < rules.threshold

    total, most, mean = 0.0, -1, pairs * disagree / 2
    for better in strata(mean, PARTS):
        most = last_count(partial(passes, better), most, pairs)
        total += 1 - at_most(most, mean + pairs * margin, pairs)
    return total / PARTS


def _least(chance: Callable[[int], float]) -> int:
    """Return the smallest number of pairs, to one part in a hundred, that gives a chance of ``SURE``."""

    def enough(pairs: int) -> bool:
        return chance(pairs) >= SURE

    high = 8
    while not enough(high) and high < _MOST:
        high *= 2
    low = high // 2
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
