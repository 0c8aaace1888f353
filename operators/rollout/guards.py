"""What each guard says: counts in, a reading and a sentence out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import fsum, isfinite
from typing import NamedTuple

from operators.core.spec_release import Business, Judge
from operators.rollout import series
from operators.rollout.evidence import Arm, Evidence, Moments, Pairs, Period, Reading
from operators.rollout.statistics import means, normal, ownership, shares
from operators.rollout.statistics.numeric import e_value, log_mean, significant


class Rules(NamedTuple):
    """What all guards have in common.

    :param threshold: of the e-value
    :param level: chance of error of each end of an interval
    :param harm_weight: share of the callers that the next step would give the canary
    """

    threshold: float
    level: float
    harm_weight: float

    def margin(self, share: float) -> float:
        """Return the margin on the canary's own share: what harms all callers by the margin in the next step."""
        return significant(share / self.harm_weight)


class Said(NamedTuple):
    """A reading, and the facts that it rests on in words.

    :param points: whether harm is a share of the units or pairs, and is told in percentage points
    """

    reading: Reading
    facts: str
    points: bool = False

    @property
    def proven(self) -> str:
        """What the interval proves; empty while nothing is known."""
        if self.reading.interval is None or self.reading.margin is None:
            return ""
        return _proven(self.reading.interval[1], self.reading.margin, points=self.points)


def read(policy: Judge, evidence: Evidence, rules: Rules) -> dict[str, Said]:
    """Return what the guards say, in the policy's order."""
    built_in: dict[str, Callable[[], Said]] = {
        "failures": lambda: _bad_units(policy, evidence, rules, "failed"),
        "slow": lambda: _bad_units(policy, evidence, rules, "slow"),
        "labels": lambda: _labels(policy, evidence.pairs, rules),
        "loss": lambda: _loss(policy, evidence.loss_differences, rules),
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
        return Said(_reading(rules, log_e, None, margin, lacking), owned or lacking)
    canary, stable = getattr(newest.canary, kind), getattr(newest.stable, kind)
    harms = shares.of_units(canary, newest.canary.requests, stable, newest.stable.requests, newest.weight)
    verb = "failed" if kind == "failed" else "were slow"
    facts = f"{canary:,} of {newest.canary.requests:,} canary units {verb}, {stable:,} of {newest.stable.requests:,} on stable"
    bounds = shares.interval(harms, rules.level)
    reading = _reading(rules, log_e, bounds, margin, _unproven(bounds[1], margin, points=True))
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


def _labels(policy: Judge, pairs: Pairs | None, rules: Rules) -> Said:
    """Right or wrong by pair. Of the pairs in which one version was wrong, half are the canary's if it is no worse."""
    assert policy.labels is not None
    margin = rules.margin(policy.labels.margin_pct / 100)
    if pairs is None:
        return Said(_reading(rules, 0.0, None, margin, "no labels have arrived"), "no labels have arrived")
    worse, better = pairs.canary_only_wrong, pairs.stable_only_wrong
    # If the number of all pairs was left out, those that differ are all: the harm then seems larger, never smaller.
    total = max(pairs.total, worse + better)
    bounds = shares.interval(shares.Harms(worse, better, total - worse - better), rules.level)
    missing = _too_few(total, policy.labels.min_pairs, "labelled pairs") or _unproven(bounds[1], margin, points=True)
    log_e = ownership.log_e([ownership.Events(worse, better, 0.5)], prior=ownership.PAIRS)
    facts = f"of {total:,} labelled pairs only the canary was wrong in {worse:,}, only stable in {better:,}"
    return Said(_reading(rules, log_e, bounds, margin, missing), facts, points=True)


def _loss(policy: Judge, differences: tuple[float, ...], rules: Rules) -> Said:
    """Errors by pair, each at most ``largest``."""
    assert policy.loss is not None
    largest, margin = policy.loss.largest, rules.margin(policy.loss.margin)
    if not differences:
        return Said(_reading(rules, 0.0, None, margin, "no labels have arrived"), "no labels have arrived")
    if not all(map(isfinite, differences)):
        lacking = "an error is not a finite number"
        return Said(_reading(rules, 0.0, None, margin, lacking), lacking)
    scaled = [min(max(d / largest, -1.0), 1.0) for d in differences]
    sums = means.Sums(len(scaled), fsum(scaled), fsum([x * x for x in scaled]), -1.0, 1.0)
    log_e = means.log_e_above([[sums]], 0.0)
    low, high = (end * largest for end in means.interval([[sums]], rules.level))
    missing = _too_few(len(scaled), policy.loss.min_pairs, "labelled pairs") or _unproven(high, margin)
    facts = f"the canary's mean error is {sums.total / sums.size * largest:+.4g} against stable's, over {len(scaled):,} pairs"
    return Said(_reading(rules, log_e, (low, high), margin, missing), facts)


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
        return Said(_reading(rules, 0.0, None, margin, lacking), lacking)
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
    return Said(_reading(rules, log_e, (low, high), margin, _unproven(worst, margin), worst=worst), facts)


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
        return Said(_reading(rules, 0.0, None, margin, lacking), lacking)
    size = guard.highest - guard.lowest
    choices = means.weighted(splits)
    log_e = means.log_e_above(choices, 0.0)
    low, high = (end * size for end in means.interval(choices, rules.level))
    numbers = sum(x.canary.size for x in splits), sum(x.stable.size for x in splits)
    facts = f"{name} is worse by {low:.4g} to {high:.4g}, over {numbers[0]:,} values of the canary and {numbers[1]:,} of stable"
    return Said(_reading(rules, log_e, (low, high), margin, _unproven(high, margin)), facts)


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


def _too_few(count: int, needed: int, word: str) -> str:
    return f"{count:,} of {needed:,} {word}" if count < needed else ""


def _proven(high: float, margin: float, *, points: bool) -> str:
    if points:
        return f"harm below {high * 100:.3g} points, {margin * 100:.3g} allowed"
    return f"harm below {high:.3g}, {margin:.3g} allowed"


def _unproven(high: float, margin: float, *, points: bool = False) -> str:
    """Say by how much harm is not yet excluded, or return an empty string."""
    return "" if high < margin else f"proven so far: {_proven(high, margin, points=points)}"


def _reading(
    rules: Rules,
    log_e: float,
    bounds: tuple[float, float] | None,
    margin: float,
    missing: str,
    *,
    worst: float | None = None,
) -> Reading:
    """Put a reading together.

    :param bounds: None: not known
    :param worst: what must be below the margin; default: the upper bound
    """
    inside = None if bounds is None else (significant(bounds[0]), significant(bounds[1]))
    refuted = bounds is not None and (bounds[1] if worst is None else worst) < margin
    return Reading(
        e=e_value(log_e), threshold=rules.threshold, interval=inside, margin=margin, refuted=refuted, missing=missing
    )
