"""The guard for numbers that exist only as time series, with one value for each arm and moment. Pure.

The guard compares the two values of each moment, so what moves both arms (the hour, a deployment elsewhere) cancels out. It
uses only signs, so neither the unit nor a spike matters. It asks two questions. If the versions are the same, each answer is a
coin toss:

* level: is the canary's value worse than stable's by more than the margin? The margin is relative to the median of
  the earlier stable values, so it is known before the coin is tossed.
* spread: between two moments, did the canary's value move more than stable's? The canary has fewer requests, so its sampling
  noise is larger by ((1 - w) / w)^(1/2); a movement counts only if it is larger by more than that.

The coins make e-processes as the ownership of bad events does, with weight 1/2 (a sequential sign test; Howard and Ramdas,
"Sequential estimation of quantiles with applications to A/B testing and best-arm identification", Bernoulli 28,
2022), and these are averaged (Vovk and Wang, 2021). They assume that, given the past, a moment's difference is
as often above as below its median: an arm whose own noise lasts for many moments needs a margin that covers it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from math import isfinite, log, sqrt
from typing import NamedTuple

from operators.core.spec_judge import Series
from operators.judge.evidence import GuardResult, Point
from operators.judge.statistics import ownership
from operators.judge.statistics.numeric import e_value, log_mean, significant
from operators.judge.wording import GuardReport, Rules, proven

_FURTHEST = 1e9  # what a difference relative to a median of 0 counts as


class _Values(NamedTuple):
    t: float
    stable: float
    canary: float


def report(rule: Series, points: Sequence[Point], rules: Rules, *, weight: float) -> GuardReport:
    """Return what the guard concludes from one series.

    :param points: oldest first
    :param weight: the smallest weight that the canary had
    """
    values = [
        _Values(p.t, p.stable, p.canary)
        for p in points
        if p.stable is not None and p.canary is not None and isfinite(p.stable) and isfinite(p.canary)
    ]
    margin = rule.margin_pct / 100
    harms = _relative_harms(rule, values)
    over = sum(harm > margin for harm in harms)
    coins = [_coins(over, len(harms)), _coins(*_jumps(values, weight))]
    worst = harms
    if rule.better == "equal":
        coins.append(_coins(sum(-harm > margin for harm in harms), len(harms)))
        worst = [abs(harm) for harm in harms]
    log_e = log_mean((1.0, coin) for coin in coins)
    bounds = _median_interval(harms, rules.level)
    refuted = bounds is not None and bounds[1] <= margin and (rule.better != "equal" or bounds[0] >= -margin)
    missing = _missing(points, values, refuted=refuted)
    result = GuardResult(
        e=e_value(log_e),
        threshold=rules.threshold,
        interval=bounds and (significant(bounds[0]), significant(bounds[1])),
        margin=margin,
        refuted=refuted,
        missing=missing,
    )
    beyond, differs = sum(harm > margin for harm in worst), rule.better == "equal"
    verb = "differed from stable" if differs else "was worse than stable"
    facts = f"the canary {verb} by more than {rule.margin_pct:g} % at {beyond:,} of {len(harms):,} moments"
    if bounds is None:
        return GuardReport(result, facts)
    return GuardReport(
        result, facts, proven(max(-bounds[0], bounds[1]) if differs else bounds[1], margin, "%", differs=differs)
    )


def _relative_harms(rule: Series, values: Sequence[_Values]) -> list[float]:
    """Return how much worse the canary was at each moment but the first, relative to stable's median until then."""
    before: list[float] = []
    harms = []
    for value in values:
        if before:
            middle = abs(before[len(before) // 2] + before[(len(before) - 1) // 2]) / 2
            harm = value.stable - value.canary if rule.better == "higher" else value.canary - value.stable
            harms.append(_ratio(harm, middle))
        insort(before, value.stable)
    return harms


def _ratio(harm: float, middle: float) -> float:
    if harm == 0:
        return 0.0
    return max(-_FURTHEST, min(_FURTHEST, harm / middle)) if middle > 0 else (_FURTHEST if harm > 0 else -_FURTHEST)


def _jumps(values: Sequence[_Values], weight: float) -> tuple[int, int]:
    """Return in how many of the pairs of moments the canary moved more than its share of the traffic explains."""
    noise = max(1.0, sqrt((1 - weight) / weight))
    pairs = list(zip(values[::2], values[1::2], strict=False))
    more = sum(abs(b.canary - a.canary) > noise * abs(b.stable - a.stable) for a, b in pairs)
    return more, len(pairs)


def _coins(worse: int, total: int) -> float:
    return ownership.log_e([ownership.Events(worse, total - worse, 0.5)])


def _median_interval(harms: Sequence[float], level: float) -> tuple[float, float] | None:
    """Return the confidence sequence of the median: the values that neither one-sided sign test refutes."""
    n = len(harms)
    enough = bisect_left(range(n + 1), -log(level), key=lambda k: _coins(k, n))
    if enough > n:
        return None
    ordered = sorted(harms)
    return ordered[n - enough], ordered[enough - 1]


def _missing(points: Sequence[Point], values: Sequence[_Values], *, refuted: bool) -> str:
    if not points:
        return "the series has no points"
    if not values or values[-1].t < points[-1].t:
        return "the newest point of the series lacks a value"
    return "" if refuted else f"{len(values):,} moments do not yet prove that the canary keeps the margin"
