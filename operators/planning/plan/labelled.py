"""How many labelled pairs a release needs, and when it will have them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, inf, log, sqrt
from random import Random

from operators.core.spec_judge import LabelsGuard
from operators.core.spec_release import Release
from operators.judge.phases import Phase
from operators.judge.statistics import blocks, ownership, shares
from operators.judge.statistics.numeric import e_value
from operators.judge.wording import Rules
from operators.planning.plan.poisson import at_most
from operators.planning.plan.power import PARTS, SURE, last_counts
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
    """Give what the guard ``labels`` needs in each phase in which it is asked.

    :param known: whether it is known how labels come; if not, the plans have numbers of pairs but no times
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
        prove, find = _pairs(labelling.disagree, margin, rules)
        prove = max(prove, rule.min_pairs)
        prove_blocks, find_blocks = _blocks(rule, margin, labelling.disagree, pairs_per_s if known else inf, rules)
        # After the shadow no requests are copied: later phases get no more pairs.
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
    """Give the problems of the guard ``labels``."""
    if release.judge.labels is None:
        return
    if not plans:
        yield Problem(
            phase="labels",
            text="labels: no phase waits for them, so this guard decides nothing",
            remedies=(Remedy(changes={"watch": "1d"}), Remedy(changes={"shadow.await_labels": "true"})),
        )
    for phase in phases:
        for made in plans:
            needed_s = max(made.proven_s or 0.0, made.found_s or 0.0)
            if made.phase == phase.name and phase.kind == "shadow" and needed_s > phase.max_wait_s:
                yield Problem(
                    phase=phase.name,
                    text=f"labels: {_needed(made)} are needed, which takes "
                    f"{duration(float(ceil(needed_s)))}, but max_wait is {duration(phase.max_wait_s)}",
                    remedies=(Remedy(changes={"judge.max_wait": duration(60.0 * ceil(needed_s / 60))}),),
                )

    yield from _too_short(release, plans)


def _too_short(release: Release, plans: tuple[LabelPlan, ...]) -> Iterator[Problem]:
    """Give a problem if the shadow ends before it has copied enough blocks for the later phases."""
    rule, shadow = release.judge.labels, release.shadow
    if rule is None or rule.block_s is None or shadow is None or shadow.await_labels:
        return
    for made in plans:
        if made.find_blocks * rule.block_s > shadow.bake_s:
            yield Problem(
                phase=made.phase,
                text=f"labels: {made.find_blocks} blocks of {duration(rule.block_s)} are needed, but the shadow copies "
                f"requests for {duration(shadow.bake_s)} only",
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
    """Return how many blocks show that a version as good as stable is not worse, and how many fail one worse by the margin.

    The blocks differ by chance only. A version that has good days and bad days takes longer.
    """
    if rule.block_s is None:
        return 0, 0
    if not pairs_per_s:
        return _MOST_BLOCKS, _MOST_BLOCKS
    noise, chance = sqrt(disagree / (pairs_per_s * rule.block_s)), Random(1)  # noqa: S311
    runs = [[chance.gauss(margin, noise) for _ in range(_MOST_BLOCKS)] for _ in range(_RUNS)]
    # A failure needs the average of two e-values. One of them is small near the margin, so the other must be twice as large.
    return _enough(runs, -log(rules.level)), _enough(runs, log(2 * rules.threshold))


def _enough(runs: list[list[float]], needed: float) -> int:
    """Return after how many blocks the evidence is enough in four of five runs."""

    def first(run: list[float]) -> int:
        along = enumerate(blocks.log_e_along(run), 1)
        return next((count for count, log_e in along if log_e >= needed), _MOST_BLOCKS)

    return sorted(map(first, runs))[ceil(SURE * len(runs)) - 1]


def _pairs(disagree: float, margin: float, rules: Rules) -> tuple[int, int]:
    """Return how many pairs show that a version as good as stable is not worse, and how many fail one worse by the margin."""

    def proven(pairs: int) -> float:
        def clears(better: int, worse: int) -> bool:
            harms = shares.Harms(worse, better, max(0, pairs - worse - better))
            return shares.log_e_below(harms, margin) >= -log(rules.level)

        mean = pairs * disagree / 2
        return sum(at_most(last, mean, pairs) for last in last_counts(clears, mean, pairs)) / PARTS

    def failed(pairs: int) -> float:
        def passes(better: int, worse: int) -> bool:
            events = [ownership.Events(worse, better, 0.5)]
            return e_value(ownership.log_e(events, prior=ownership.PAIRS)) < rules.threshold

        mean = pairs * disagree / 2
        lasts = last_counts(passes, mean, pairs)
        return sum(1 - at_most(last, mean + pairs * margin, pairs) for last in lasts) / PARTS

    return _least(proven), _least(failed)


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
