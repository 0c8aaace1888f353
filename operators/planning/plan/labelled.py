"""How many labelled pairs a release needs, and when they will have come. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import ceil, inf, log, sqrt
from random import Random

from operators.core.spec_judge import LabelsGuard
from operators.core.spec_release import Release
from operators.judge.phases import Phase
from operators.judge.statistics import blocks, ownership, shares
from operators.judge.statistics.numeric import e_value
from operators.judge.wording import Rules
from operators.planning.plan.poisson import at_most, strata
from operators.planning.plan.power import PARTS, SURE, last_count
from operators.planning.plan.search import duration
from operators.planning.plan.types import LabelPlan, Problem, Remedy
from operators.planning.simulation.label_arrivals import Labelling
from operators.planning.simulation.traffic_model import TrafficModel

_MOST = 100_000_000
_MOST_BLOCKS = 100
_RUNS = 100


def label_plans(
    release: Release, phases: tuple[Phase, ...], load: TrafficModel, labelling: Labelling, *, known: bool
) -> Iterator[LabelPlan]:
    """Give what the guard ``labels`` needs in each phase that is held to it.

    :param known: whether it was given how labels come; if not, only numbers of pairs are returned
    """
    rule, shadow = release.judge.labels, release.shadow
    if rule is None or shadow is None:
        return
    pairs_per_s = load.rate_per_s * shadow.sample_pct / 100 * labelling.share
    for phase in phases:
        if not phase.late:
            continue
        threshold = len(release.judge.guards) / (release.judge.alpha * phase.alpha_share)
        rules = Rules(threshold, 1 - release.judge.confidence, phase.harm_weight)
        margin = min(rules.margin(rule.margin_pct / 100), 1 - labelling.disagree / 2)
        prove = max(_least(partial(_proven, labelling.disagree, margin, rules)), rule.min_pairs)
        find = _least(partial(_found, labelling.disagree, margin, rules))
        prove_blocks, find_blocks = _blocks(rule, margin, labelling.disagree, pairs_per_s if known else inf, rules)
        # After the shadow no request is copied any more: there, what has been copied has to do.
        timed = known and pairs_per_s and phase.kind == "shadow"
        block_s = rule.block_s or 0.0
        yield LabelPlan(
            phase=phase.name,
            margin_pct=100 * margin,
            disagree_pct=100 * labelling.disagree,
            prove_pairs=prove,
            find_pairs=find,
            block_s=rule.block_s,
            prove_blocks=prove_blocks,
            find_blocks=find_blocks,
            proven_s=labelling.delay_s + max(prove / pairs_per_s, prove_blocks * block_s) if timed else None,
            found_s=labelling.delay_s + max(find / pairs_per_s, find_blocks * block_s) if timed else None,
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
                    text=f"labels: {_needed(made)} are needed; that takes "
                    f"{duration(float(ceil(needed_s)))}, max_wait is {duration(phase.max_wait_s)}",
                    remedies=(Remedy(changes={"judge.max_wait": duration(60.0 * ceil(needed_s / 60))}),),
                )

    yield from _too_short(release, plans)


def _too_short(release: Release, plans: tuple[LabelPlan, ...]) -> Iterator[Problem]:
    """Say that a shadow which nobody waits for sees too few blocks for those that ask its labels later."""
    rule, shadow = release.judge.labels, release.shadow
    if rule is None or rule.block_s is None or shadow is None or shadow.await_labels:
        return
    for made in plans:
        if made.find_blocks * rule.block_s > shadow.bake_s:
            yield Problem(
                phase=made.phase,
                text=f"labels: {made.find_blocks} blocks of {duration(rule.block_s)} are needed; the shadow copies for "
                f"{duration(shadow.bake_s)}",
                remedies=(
                    Remedy(changes={"shadow.bake": duration(made.find_blocks * rule.block_s)}),
                    Remedy(changes={"judge.labels.block": "none"}),
                ),
            )


def _needed(made: LabelPlan) -> str:
    pairs = f"{max(made.prove_pairs, made.find_pairs):,} pairs"
    if made.block_s is None:
        return pairs
    return f"{pairs} in {max(made.prove_blocks, made.find_blocks)} blocks of {duration(made.block_s)}"


def _blocks(rule: LabelsGuard, margin: float, disagree: float, pairs_per_s: float, rules: Rules) -> tuple[int, int]:
    """Return how many blocks prove that a version which is as good is so, and find one that is worse by the margin.

    All days are alike here, and differ only by chance: a version that has good days and bad days takes longer.
    """
    if rule.block_s is None:
        return 0, 0
    if not pairs_per_s:
        return _MOST_BLOCKS, _MOST_BLOCKS
    noise, chance = sqrt(disagree / (pairs_per_s * rule.block_s)), Random(1)  # noqa: S311
    runs = [[chance.gauss(margin, noise) for _ in range(_MOST_BLOCKS)] for _ in range(_RUNS)]
    # To fail, the average of two e-values is needed, of which the other has nothing to say so near to the margin.
    return _enough(runs, -log(rules.level)), _enough(runs, log(2 * rules.threshold))


def _enough(runs: list[list[float]], needed: float) -> int:
    """Return after how many blocks so much has been shown in four of five runs."""

    def first(run: list[float]) -> int:
        along = enumerate(blocks.log_e_along(run), 1)
        return next((count for count, log_e in along if log_e >= needed), _MOST_BLOCKS)

    return sorted(map(first, runs))[ceil(SURE * len(runs)) - 1]


def _proven(disagree: float, margin: float, rules: Rules, pairs: int) -> float:
    """Return the chance that harm over the margin is refuted, for a version that is as good."""

    def clears(better: int, worse: int) -> bool:
        harms = shares.Harms(worse, better, max(0, pairs - worse - better))
        return shares.log_e_below(harms, margin) >= -log(rules.level)

    total, most, mean = 0.0, -1, pairs * disagree / 2
    for better in strata(mean, PARTS):
        most = last_count(partial(clears, better), most, pairs)
        total += at_most(most, mean, pairs)
    return total / PARTS


def _found(disagree: float, margin: float, rules: Rules, pairs: int) -> float:
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
