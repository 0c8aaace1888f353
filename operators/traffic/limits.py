"""How long an answer may take in a release: from the spec, or else from how long stable's answers take. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from operators.core.spec_judge import Slow
from operators.core.spec_release import Release
from operators.core.traffic import Counters, Route, Row

_UNKNOWN_TIMEOUT_MS = 2000
_LEAST_TIMEOUT_MS = 250
_MOST_TIMEOUT_MS = 600_000  # the edge's
_TIMEOUT_QUANTILE, _TIMEOUT_RATIO = 0.99, 4


@dataclass(frozen=True)
class AnswerLimits:
    """How long an answer may take.

    :param slow_us: an answer that takes longer counts as slow, on both arms; None: none does
    :param canary_timeout_ms: if the canary or the shadow takes longer, its answer has failed
    """

    slow_us: int | None = None
    canary_timeout_ms: int = _UNKNOWN_TIMEOUT_MS

    @classmethod
    def of(cls, route: Route) -> AnswerLimits:
        """Return a route's limits."""
        return cls(slow_us=route.slow_us, canary_timeout_ms=route.canary_timeout_ms)


USUAL = AnswerLimits()


def limits_from(release: Release, counters: Counters, stable: str) -> AnswerLimits:
    """Return a release's limits. They are set before its first step and do not change.

    :param stable: the version whose answers show how long an answer usually takes
    """
    rows = [row for row in counters.rows if (row.version, row.arm) == (stable, "stable")]
    slow = release.judge.slow
    return AnswerLimits(
        slow_us=None if slow is None else _slow_us(slow, rows),
        canary_timeout_ms=_timeout_ms(release.canary_timeout_s, rows),
    )


def _slow_us(slow: Slow, stable: list[Row]) -> int | None:
    if slow.limit_s is not None:
        return round(slow.limit_s * 1e6)
    usual_ms = quantile_ms(stable, slow.quantile)
    if usual_ms is None or not math.isfinite(usual_ms):
        return None  # no usual time is known, so nothing counts as slow: the guard has no evidence and does not pass
    return round(1000 * max(usual_ms * slow.ratio, usual_ms + slow.increase_s * 1000))


def _timeout_ms(canary_timeout_s: float | None, stable: list[Row]) -> int:
    if canary_timeout_s is not None:
        return round(canary_timeout_s * 1000)
    usual_ms = quantile_ms(stable, _TIMEOUT_QUANTILE)
    if usual_ms is None or not math.isfinite(usual_ms):
        return _UNKNOWN_TIMEOUT_MS
    return round(min(_MOST_TIMEOUT_MS, max(_LEAST_TIMEOUT_MS, usual_ms * _TIMEOUT_RATIO)))


def quantile_ms(rows: Iterable[Row], q: float) -> float | None:
    """Return the upper bound of the latency bucket that holds the quantile of all rows' answers; None without answers.

    :param q: above 0 and below 1
    """
    counts: Counter[float] = Counter()
    for row in rows:
        counts.update({math.inf if bound is None else bound: count for bound, count in row.latency})
    total, seen = counts.total(), 0
    for bound in sorted(counts):
        seen += counts[bound]
        if total and seen >= q * total:
            return bound
    return None
