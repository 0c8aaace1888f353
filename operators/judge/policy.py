"""Is the canary good, bad, or not known yet? Pure: no I/O, no clock, no state; the same evidence gives the same bytes.

It may be asked after every request. The chance that a version which is the same as stable is ever found Failed is at
most alpha: each of the n guards has an e-process, which is ever over n/alpha with a chance of at most alpha/n (Ville,
1939; the union of n events). The guards and alpha must stay the same through a release. Successful needs more than
silence: that "worse by more than the margin" is refuted by every guard (non-inferiority; Grünwald, de Heide and
Koolen, "Safe testing", JRSS B 86, 2024).
"""

from __future__ import annotations

from math import log

from operators.core.spec_judge import Judge
from operators.judge import guards
from operators.judge.evidence import Evidence, Judgement, Outcome, Period
from operators.judge.statistics import sample_ratio
from operators.judge.statistics.numeric import significant
from operators.judge.wording import Rules, Said

_SPLIT_IS_WRONG = log(1000)


def judge(
    policy: Judge,
    evidence: Evidence,
    *,
    elapsed_s: float,
    bake_s: float = 0.0,
    min_requests: int | None = None,
    harm_weight: float = 1.0,
) -> Judgement:
    """Return the verdict on a step.

    Failed: a guard's e-value has reached its threshold. Successful: the step is baked, has enough units on both sides
    and the split that was asked for, and every guard has refuted harm over its margin and lacks nothing.
    Inconclusive: the split is another one, or the time has run out. Otherwise Continue.

    :param elapsed_s: since the step began
    :param bake_s: how long the step lasts at least
    :param min_requests: units that each arm needs in the newest period; default: the policy's
    :param harm_weight: share of the callers that the next step would give the canary, above 0 and up to 1. To go on,
        harm to *all* callers over the margin must be refuted, so the canary's own may be up to margin / harm_weight
    :raises ValueError: ``harm_weight`` is not above 0 and at most 1
    """
    if not 0 < harm_weight <= 1:
        raise ValueError(f"harm_weight is {harm_weight}; it must be above 0 and at most 1")
    rules = Rules(significant(len(policy.guards) / policy.alpha), 1 - policy.confidence, harm_weight)
    said = guards.read(policy, evidence, rules)
    readings = {name: one.reading for name, one in said.items()}

    def found(outcome: Outcome, reason: str) -> Judgement:
        return Judgement(outcome=outcome, reason=reason, guards=readings)

    failed = [
        f"{name}: {one.facts} (e {one.reading.e:.4g}, threshold {one.reading.threshold:g})"
        for name, one in said.items()
        if one.reading.e >= one.reading.threshold
    ]
    if failed:
        return found(Outcome.FAILED, "; ".join(failed))
    newest = evidence.periods[-1] if evidence.periods else None
    if newest and (mismatch := _mismatch(newest)):
        return found(Outcome.INCONCLUSIVE, mismatch)
    needed = policy.min_requests if min_requests is None else min_requests
    missing = "; ".join([*_too_few(newest, needed), *_missing(said)])
    if not missing and elapsed_s >= bake_s:
        return found(Outcome.SUCCESSFUL, "; ".join(f"{name}: {one.facts}; {one.proven}" for name, one in said.items()))
    if elapsed_s > max(bake_s, policy.max_wait_s):
        return found(Outcome.INCONCLUSIVE, f"not settled after {elapsed_s:.0f} s: {missing}")
    return found(
        Outcome.CONTINUE, missing or f"nothing speaks against it; {elapsed_s:.0f} s of {bake_s:.0f} s have passed"
    )


def _mismatch(newest: Period) -> str:
    """Say that the split is not the one that was asked for, or return an empty string.

    A version that is slow to answer, or to which nothing is sent because it fails, has its units all the same: the split is
    another one only if no number of those makes it the right one.
    """
    canary, stable = newest.canary.requests, newest.stable.requests
    odds = newest.weight / (1 - newest.weight)
    assigned = max(canary, min(canary + newest.canary.unanswered, round(stable * odds)))
    others = max(stable, min(stable + newest.stable.unanswered, round(canary / odds)))
    if sample_ratio.log_e(assigned, others, newest.weight) < _SPLIT_IS_WRONG:
        return ""
    return (
        f"the split is not the one that was asked for: the canary got {canary:,} of {canary + stable:,} units, "
        f"{canary / (canary + stable):.2%} at a weight of {newest.weight:.2%}; the arms cannot be compared"
    )


def _too_few(newest: Period | None, needed: int) -> list[str]:
    arms = [("the canary", newest.canary), ("stable", newest.stable)] if newest else []
    return [f"{name} had {arm.requests:,} units of {needed:,}" for name, arm in arms if arm.requests < needed]


def _missing(said: dict[str, Said]) -> list[str]:
    return [
        f"{name}: " + "; ".join(dict.fromkeys(part for part in (one.facts, one.reading.missing) if part))
        for name, one in said.items()
        if one.reading.missing or not one.reading.refuted
    ]
