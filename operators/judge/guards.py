"""What each guard concludes: counts in, a result and a sentence out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Literal

from operators.core.spec_judge import Business, Judge
from operators.judge import label_guards, series
from operators.judge.evidence import Evidence, Moments, Period
from operators.judge.statistics import means, normal, ownership, shares
from operators.judge.statistics.numeric import e_value, log_mean
from operators.judge.wording import GuardReport, Rules, proven, result_of, unknown, unproven


def reports(policy: Judge, evidence: Evidence, rules: Rules) -> dict[str, GuardReport]:
    """Return what each guard concludes, in the policy's order."""
    built_in: dict[str, Callable[[], GuardReport]] = {
        "failures": lambda: _bad_units(policy, evidence, rules, "failed"),
        "slow": lambda: _bad_units(policy, evidence, rules, "slow"),
        "labels": lambda: label_guards.labels(policy, evidence.pairs, rules),
        "loss": lambda: label_guards.loss(policy, evidence.losses, rules),
        "prediction": lambda: _prediction(policy, evidence.periods, rules),
    }
    made = {name: built_in[name]() for name in policy.guards if name in built_in}
    made |= {name: _business(name, guard, evidence.periods, rules) for name, guard in policy.business.items()}
    weight = min((period.weight for period in evidence.periods), default=0.5)
    for name, rule in policy.series.items():
        made[name] = series.report(rule, evidence.series.get(name, ()), rules, weight=weight)
    return made


def _bad_units(policy: Judge, evidence: Evidence, rules: Rules, kind: Literal["failed", "slow"]) -> GuardReport:
    """Failures, or slow answers: on which version do they fall, and by how much do the shares in the newest period differ?"""
    guard = policy.failures if kind == "failed" else policy.slow
    assert guard is not None
    margin = rules.margin(guard.margin_pct / 100)
    events = [
        ownership.Events(canary, stable, period.weight)
        for period in evidence.periods
        if (canary := period.canary.first(kind)) is not None and (stable := period.stable.first(kind)) is not None
    ]
    log_e = ownership.log_e(events)
    owned = _owned(events, rules.level) if e_value(log_e) >= rules.threshold else ""
    newest = evidence.periods[-1] if evidence.periods else None
    lacking = _uncountable(newest, kind)
    if lacking or newest is None:
        return GuardReport(result_of(rules, log_e, None, margin, lacking), owned or lacking)
    canary, stable = getattr(newest.canary, kind), getattr(newest.stable, kind)
    harms = shares.of_units(canary, newest.canary.requests, stable, newest.stable.requests, newest.weight)
    verb = "failed" if kind == "failed" else "were slow"
    facts = (
        f"{canary:,} of {newest.canary.requests:,} canary units {verb}, "
        f"and {stable:,} of {newest.stable.requests:,} stable units"
    )
    bounds = shares.interval(harms, rules.level)
    result = result_of(rules, log_e, bounds, margin, unproven(bounds[1], margin, "points"))
    return GuardReport(result, f"{facts}; {owned}" if owned else facts, proven(bounds[1], margin, "points"))


def _owned(events: list[ownership.Events], level: float) -> str:
    """Say on which version the bad events of all periods fell."""
    canary, stable = sum(event.canary for event in events), sum(event.stable for event in events)
    lift = ownership.lift_interval(events, level)[0]
    return (
        f"in the whole release this happened to {canary:,} canary units and {stable:,} stable units: "
        f"at least {lift:.1f} times as often on the canary"
    )


def _uncountable(period: Period | None, kind: str) -> str:
    """Say why shares of the newest period cannot be compared, or return an empty string."""
    if period is None:
        return "no request has been observed yet"
    word = "failures" if kind == "failed" else "slow answers"
    for name, arm in (("the canary", period.canary), ("stable", period.stable)):
        count = getattr(arm, kind)
        if count is None:
            return f"the {word} of {name} are not known"
        if count > arm.requests:
            return (
                f"the counts of {name} are contradictory: {count:,} units with {word}, but only {arm.requests:,} units"
            )
    return ""


def _prediction(policy: Judge, periods: tuple[Period, ...], rules: Rules) -> GuardReport:
    """Mean predictions. Any new version predicts something else, so it fails only if it differs by more than the margin."""
    assert policy.prediction is not None
    own, margin = policy.prediction.margin, rules.margin(policy.prediction.margin)
    arms = [(p.canary.prediction, p.stable.prediction) for p in periods]
    lacking = _unusable((m for both in arms for m in both), "predictions")
    known = [(c, s) for c, s in arms if c and s and min(c.count, s.count) >= normal.ENOUGH]
    if not known:
        most = max((min(c.count, s.count) for c, s in arms if c and s), default=0)
        lacking = lacking or f"one version has given only {most} predictions; {normal.ENOUGH} are needed from each"
    if lacking:
        return unknown(rules, margin, lacking)
    # A constant prediction has no variance; the floor is far below the margin and keeps the information finite.
    floor = (own / 10) ** 2
    differences = [
        normal.Difference(c.mean - s.mean, 1 / sum(max(m.m2 / (m.count - 1), floor) / m.count for m in (c, s)))
        for c, s in known
    ]
    mirrored = [normal.Difference(-d.mean, d.information) for d in differences]
    log_e = log_mean((1.0, normal.log_e_above(those, own, own)) for those in (differences, mirrored))
    low, high = normal.interval(differences, rules.level, own)
    facts = (
        f"the canary's mean prediction minus stable's lies between {low:.4g} and {high:.4g} "
        f"({sum(c.count for c, _ in known):,} predictions of the canary, {sum(s.count for _, s in known):,} of stable)"
    )
    worst = max(-low, high)
    missing = unproven(worst, margin, differs=True)
    result = result_of(rules, log_e, (low, high), margin, missing, worst=worst)
    return GuardReport(result, facts, proven(worst, margin, differs=True))


def _business(name: str, guard: Business, periods: tuple[Period, ...], rules: Rules) -> GuardReport:
    """A bounded number per request that arrives later: weighted differences of the means."""
    margin = rules.margin(guard.margin)
    arms = [(p.canary.business.get(name), p.stable.business.get(name), p.weight) for p in periods]
    lacking = _unusable((m for c, s, _ in arms for m in (c, s)), "values", guard)
    splits = (
        [means.Split(_scaled(c, guard), _scaled(s, guard), w) for c, s, w in arms if c and s] if not lacking else []
    )
    if not lacking and not (sum(x.canary.size for x in splits) and sum(x.stable.size for x in splits)):
        lacking = "one of the versions has no values yet"
    if lacking:
        return unknown(rules, margin, lacking)
    size = guard.highest - guard.lowest
    choices = means.weighted(splits)
    log_e = means.log_e_above(choices, 0.0)
    low, high = (end * size for end in means.interval(choices, rules.level))
    numbers = sum(x.canary.size for x in splits), sum(x.stable.size for x in splits)
    facts = (
        f"the canary's mean is {'lower' if guard.better == 'higher' else 'higher'} than stable's by between {low:.4g} and "
        f"{high:.4g} ({numbers[0]:,} values of the canary, {numbers[1]:,} of stable)"
    )
    result = result_of(rules, log_e, (low, high), margin, unproven(high, margin))
    return GuardReport(result, facts, proven(high, margin))


def _scaled(moments: Moments, guard: Business) -> means.Numbers:
    """Scale into 0..1, where more is worse."""
    size = guard.highest - guard.lowest
    mean = (moments.mean - guard.lowest) / size if moments.count else 0.0
    return means.Numbers(moments.count, 1 - mean if guard.better == "higher" else mean, moments.m2 / size**2)


def _unusable(all_moments: Iterable[Moments | None], word: str, bounds: Business | None = None) -> str:
    """Say what is wrong with the moments, or return an empty string."""
    for moments in all_moments:
        if moments is None or not moments.count:
            continue
        if not (isfinite(moments.mean) and isfinite(moments.m2) and moments.m2 >= 0):
            return f"the mean of the {word} is not a finite number"
        if bounds and not bounds.lowest <= moments.mean <= bounds.highest:
            return f"the mean of the {word}, {moments.mean:g}, is not between {bounds.lowest:g} and {bounds.highest:g}"
    return ""
