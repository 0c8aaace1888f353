"""Is the canary good, bad, or not known yet? Pure: no I/O, no clock, no state; the same evidence gives the same bytes.

It may be asked after every request. For a version that is the same as stable, the chance that it ever Fails is at most alpha:
each of the n guards has an e-process, and the chance that this ever exceeds n/alpha is at most alpha/n (Ville, 1939; the union
of n events). The guards and alpha must stay the same through a release. Too little data is never Successful: every guard must
rule out that the version is worse by more than the margin (non-inferiority; Grünwald, de Heide and Koolen, "Safe testing",
JRSS B 86, 2024).
"""

from __future__ import annotations

from math import log

from operators.core.spec_judge import Judge
from operators.judge import guards
from operators.judge.evidence import Evidence, Judgement, Outcome, Period
from operators.judge.statistics import sample_ratio
from operators.judge.statistics.numeric import significant
from operators.judge.wording import GuardReport, Rules

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

    Failed: a guard's e-value has reached its threshold. Successful: the bake time is over, both arms have enough units, the
    traffic was split as asked, and every guard rules out harm over its margin. Inconclusive: the traffic was split in another
    way, or the time has run out. Otherwise Continue.

    :param elapsed_s: since the step began
    :param bake_s: how long the step lasts at least
    :param min_requests: units that each arm needs in the newest period; default: the policy's
    :param harm_weight: share of the callers that the next step would give the canary, above 0 and up to 1. The margin is on the
        harm to *all* callers, so the canary's own harm may be up to margin / harm_weight
    :raises ValueError: ``harm_weight`` is not above 0 and at most 1
    """
    if not 0 < harm_weight <= 1:
        raise ValueError(f"harm_weight is {harm_weight}; it must be above 0 and at most 1")
    rules = Rules(significant(len(policy.guards) / policy.alpha), 1 - policy.confidence, harm_weight)
    reports = guards.reports(policy, evidence, rules)
    results = {name: one.result for name, one in reports.items()}

    def judgement(outcome: Outcome, reason: str) -> Judgement:
        return Judgement(outcome=outcome, reason=reason, guards=results)

    failed = [
        f"{name}: {one.facts} (e-value {one.result.e:.4g}, fails at {one.result.threshold:g})"
        for name, one in reports.items()
        if one.result.e >= one.result.threshold
    ]
    if failed:
        return judgement(Outcome.FAILED, "; ".join(failed))
    newest = evidence.periods[-1] if evidence.periods else None
    if newest and (mismatch := _mismatch(newest)):
        return judgement(Outcome.INCONCLUSIVE, mismatch)
    needed = policy.min_requests if min_requests is None else min_requests
    missing = "; ".join([*_too_few(newest, needed), *_missing(reports)])
    if not missing and elapsed_s >= bake_s:
        reason = "; ".join(f"{name}: {one.facts}; {one.proven}" for name, one in reports.items())
        return judgement(Outcome.SUCCESSFUL, reason)
    if elapsed_s > max(bake_s, policy.max_wait_s):
        return judgement(Outcome.INCONCLUSIVE, f"too little evidence after {elapsed_s:.0f} s: {missing}")
    passed = f"every guard has passed; the step has lasted {elapsed_s:.0f} s of its {bake_s:.0f} s"
    return judgement(Outcome.CONTINUE, missing or passed)


def _mismatch(newest: Period) -> str:
    """Say that the traffic is not split as asked, or return an empty string.

    Units whose requests are under way, or that the fallback answered, were assigned all the same. The split is wrong only if no
    possible number of these makes it right.
    """
    canary, stable = newest.canary.requests, newest.stable.requests
    odds = newest.weight / (1 - newest.weight)
    assigned = max(canary, min(canary + newest.canary.unanswered, round(stable * odds)))
    others = max(stable, min(stable + newest.stable.unanswered, round(canary / odds)))
    if sample_ratio.log_e(assigned, others, newest.weight) < _SPLIT_IS_WRONG:
        return ""
    return (
        f"the traffic is not split as asked: the canary got {canary:,} of {canary + stable:,} units, "
        f"{canary / (canary + stable):.2%} at a weight of {newest.weight:.2%}, so the versions cannot be compared"
    )


def _too_few(newest: Period | None, needed: int) -> list[str]:
    arms = [("the canary", newest.canary), ("stable", newest.stable)] if newest else []
    return [f"{name} had {arm.requests:,} units; {needed:,} are needed" for name, arm in arms if arm.requests < needed]


def _missing(reports: dict[str, GuardReport]) -> list[str]:
    return [
        f"{name}: " + "; ".join(dict.fromkeys(part for part in (one.facts, one.result.missing) if part))
        for name, one in reports.items()
        if one.result.missing or not one.result.refuted
    ]
