"""What each guard says: counts in, a reading and a sentence out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite

from operators.core.spec_judge import Business, Judge
from operators.judge import label_guards, series
from operators.judge.evidence import Arm, Evidence, Moments, Period
from operators.judge.statistics import means, normal, ownership, shares
from operators.judge.statistics.numeric import e_value, log_mean
from operators.judge.wording import Rules, Said, reading_of, unproven


def read(policy: Judge, evidence: Evidence, rules: Rules) -> dict[str, Said]:
    """Return what the guards say, in the policy's order."""
    built_in: dict[str, Callable[[], Said]] = {
        "failures": lambda: _bad_units(policy, evidence, rules, "failed"),
        "slow": lambda: _bad_units(policy, evidence, rules, "slow"),
        "labels": lambda: label_guards.labels(policy, evidence.pairs, rules),
        "loss": lambda: label_guards.loss(policy, evidence.losses, rules),
        "prediction": lambda: _prediction(policy, evidence.periods, rules),
    }
    said = {name: built_in[name]() for name in policy.guards if name in built_in}
    said |= {name: _business(name, guard, evidence.periods, rules) for name, guard in policy.business.items()}
    weight = min((period.weight for period in evidence.periods), default=0.5)
    for name, rule in policy.series.items():
        points = evidence.series.get(name, ())
        said[name] = Said(*series.read(rule, points, threshold=rules.threshold, level=rules.level, weight=weight))
    return said


def _bad_units(policy: Judge, evidence: Evidence, rules: Rules, kind: str) -> Said:
    """Failures and slow answers: whose are they, and by how much does their share differ in the newest period?"""
    guard = policy.failures if kind == "failed" else policy.slow
    assert guard is not None
    margin = rules.margin(guard.margin_pct / 100)
    events = [
        ownership.Events(canary, stable, period.weight)
        for period in evidence.periods
        if (canary := _first(period.canary, kind)) is not None and (stable := _first(period.stable, kind)) is not None
    ]
    log_e = ownership.log_e(events)
    owned = _owned(events, rules.level) if e_value(log_e) >= rules.threshold else ""
    newest = evidence.periods[-1] if evidence.periods else None
    lacking = _uncountable(newest, kind)
    if lacking or newest is None:
        return Said(reading_of(rules, log_e, None, margin, lacking), owned or lacking)
    canary, stable = getattr(newest.canary, kind), getattr(newest.stable, kind)
    harms = shares.of_units(canary, newest.canary.requests, stable, newest.stable.requests, newest.weight)
    verb = "failed" if kind == "failed" else "were slow"
    facts = f"{canary:,} of {newest.canary.requests:,} canary units {verb}, {stable:,} of {newest.stable.requests:,} on stable"
    bounds = shares.interval(harms, rules.level)
    reading = reading_of(rules, log_e, bounds, margin, unproven(bounds[1], margin, points=True))
    return Said(reading, f"{facts}; {owned}" if owned else facts, points=True)


def _owned(events: list[ownership.Events], level: float) -> str:
    """Say whose bad events were, over all periods."""
    canary, stable = sum(event.canary for event in events), sum(event.stable for event in events)
    lift = ownership.lift_interval(events, level)[0]
    return f"in the whole release {canary:,} of the canary's and {stable:,} of stable's: at least {lift:.1f} times as often"


def _first(arm: Arm, kind: str) -> int | None:
    """Return how many units had their first bad event here; None: not known."""
    first: int | None = getattr(arm, f"{kind}_first")
    count: int | None = getattr(arm, kind)
    return count if first is None else first


def _uncountable(period: Period | None, kind: str) -> str:
    """Say why shares of the newest period cannot be compared, or return an empty string."""
    if period is None:
        return "nothing has been observed yet"
    word = "failures" if kind == "failed" else "slow answers"
    for name, arm in (("the canary", period.canary), ("stable", period.stable)):
        count = getattr(arm, kind)
        if count is None:
            return f"{word} of {name} are not known"
        if count > arm.requests:
            return f"the counts of {name} contradict each other: {count:,} units with {word} of {arm.requests:,}"
    return ""


def _prediction(policy: Judge, periods: tuple[Period, ...], rules: Rules) -> Said:
    """Mean predictions. A new version predicts otherwise, so it fails only when proven to be over the margin."""
    assert policy.prediction is not None
    own, margin = policy.prediction.margin, rules.margin(policy.prediction.margin)
    arms = [(p.canary.prediction, p.stable.prediction) for p in periods]
    lacking = _unusable((m for both in arms for m in both), "predictions")
    known = [(c, s) for c, s in arms if c and s and min(c.count, s.count) >= normal.ENOUGH]
    if not known:
        most = max((min(c.count, s.count) for c, s in arms if c and s), default=0)
        lacking = lacking or f"{most} predictions in the smaller arm; {normal.ENOUGH} are needed"
    if lacking:
        return Said(reading_of(rules, 0.0, None, margin, lacking), lacking)
    # A constant prediction has no variance; the floor is far below the margin and keeps the information finite.
    floor = (own / 10) ** 2
    differences = [
        normal.Difference(c.mean - s.mean, 1 / sum(max(m.m2 / (m.count - 1), floor) / m.count for m in (c, s)))
        for c, s in known
    ]
    mirrored = [normal.Difference(-d.mean, d.information) for d in differences]
    log_e = log_mean((1.0, normal.log_e_above(those, own, own)) for those in (differences, mirrored))
    low, high = normal.interval(differences, rules.level, own)
    numbers = f"{sum(c.count for c, _ in known):,} of the canary and {sum(s.count for _, s in known):,} of stable"
    facts = f"mean predictions differ by {low:.4g} to {high:.4g}, over {numbers}"
    worst = max(-low, high)
    return Said(reading_of(rules, log_e, (low, high), margin, unproven(worst, margin), worst=worst), facts)


def _business(name: str, guard: Business, periods: tuple[Period, ...], rules: Rules) -> Said:
    """A number per request that arrives later, between two bounds: weighted differences of the means."""
    margin = rules.margin(guard.margin)
    arms = [(p.canary.business.get(name), p.stable.business.get(name), p.weight) for p in periods]
    lacking = _unusable((m for c, s, _ in arms for m in (c, s)), "values", guard)
    splits = (
        [means.Split(_scaled(c, guard), _scaled(s, guard), w) for c, s, w in arms if c and s] if not lacking else []
    )
    if not lacking and not (sum(x.canary.size for x in splits) and sum(x.stable.size for x in splits)):
        lacking = "no values have arrived for both arms"
    if lacking:
        return Said(reading_of(rules, 0.0, None, margin, lacking), lacking)
    size = guard.highest - guard.lowest
    choices = means.weighted(splits)
    log_e = means.log_e_above(choices, 0.0)
    low, high = (end * size for end in means.interval(choices, rules.level))
    numbers = sum(x.canary.size for x in splits), sum(x.stable.size for x in splits)
    facts = f"{name} is worse by {low:.4g} to {high:.4g}, over {numbers[0]:,} values of the canary and {numbers[1]:,} of stable"
    return Said(reading_of(rules, log_e, (low, high), margin, unproven(high, margin)), facts)


def _scaled(moments: Moments, guard: Business) -> means.Numbers:
    """Scale into 0..1, so that more is worse."""
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
