"""The judge of a canary step: a pure function of counters. No clock, no I/O."""

from __future__ import annotations

from enum import StrEnum
from math import exp, inf, lgamma, log, log1p

from pydantic import BaseModel, ConfigDict

from operators.core.spec import Judge

# One look a second for some minutes, at both tests: the chance that a good canary meets this by luck stays small.
_ALPHA = 1e-4
_NOT_UNUSUAL = 0.5  # below the mean the tail is about a half or more, and its sum is long


class Outcome(StrEnum):
    """Argo Rollouts' words. Inconclusive asks a human; missing evidence is never Successful."""

    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"


class Arm(BaseModel):
    """What one arm did during the step.

    :param latency: (upper bound in ms, answers in that bucket), bounds rising, the last one infinite
    """

    # A reading travels as JSON through a trigger's arguments, infinity included.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    requests: int
    failures: int
    latency: tuple[tuple[float, int], ...]

    @property
    def failure_share(self) -> float:
        """Failures over requests; 0 without requests."""
        return self.failures / self.requests if self.requests else 0.0

    def quantile_ms(self, q: float) -> float | None:
        """Return the upper bound of the bucket that holds the quantile, or None without answers."""
        total = sum(count for _, count in self.latency)
        seen = 0
        for bound, count in self.latency:
            seen += count
            if total and seen >= q * total:
                return bound
        return None

    def slower_than(self, limit_ms: float) -> int:
        """Count answers in buckets that lie wholly above the limit."""
        below = 0.0
        slow = 0
        for bound, count in self.latency:
            slow += count if below >= limit_ms else 0
            below = bound
        return slow

    def since(self, earlier: Arm) -> Arm:
        """Subtract an earlier reading of the same counters.

        A counter that went backwards was restarted: what it shows now is all that is known, so it is taken whole.
        """
        before = dict(earlier.latency)
        gained = Arm(
            requests=self.requests - earlier.requests,
            failures=self.failures - earlier.failures,
            latency=tuple((bound, count - before.get(bound, 0)) for bound, count in self.latency),
        )
        restarted = min(gained.requests, gained.failures, *(count for _, count in gained.latency), 0) < 0
        return self if restarted else gained


class Verdict(BaseModel):
    """A decision about one step and the numbers that it rests on."""

    model_config = ConfigDict(frozen=True)

    outcome: Outcome
    reason: str
    numbers: dict[str, float | int | None]


def judge_step(judge: Judge, *, bake_s: float, elapsed_s: float, canary: Arm, stable: Arm) -> Verdict | None:
    """Return the verdict on a step, or None to go on watching.

    Failed comes as soon as chance no longer explains what is seen (binomial tail below 1e-4); Successful only after the
    bake, with enough requests on both sides and nothing over its limit; Inconclusive when the time for that has run out.

    :param bake_s: how long the step is watched at least
    :param elapsed_s: how long it has been watched
    """
    allowed = min(1.0, stable.failure_share + judge.max_failure_pct / 100)
    limit_ms = _latency_limit_ms(judge, stable)
    numbers: dict[str, float | int | None] = {
        "elapsed_s": round(elapsed_s, 1),
        "canary_requests": canary.requests,
        "canary_failures": canary.failures,
        "stable_requests": stable.requests,
        "stable_failures": stable.failures,
        "allowed_failure_share": round(allowed, 5),
        "canary_p95_ms": _finite(canary.quantile_ms(0.95)),
        "stable_p95_ms": _finite(stable.quantile_ms(0.95)),
        "p95_limit_ms": _finite(limit_ms),
    }

    def verdict(outcome: Outcome, reason: str) -> Verdict:
        return Verdict(outcome=outcome, reason=reason, numbers=numbers)

    if binomial_tail(canary.failures, canary.requests, allowed) < _ALPHA:
        return verdict(Outcome.FAILED, _failures(canary, stable))
    slow = canary.slower_than(limit_ms)
    answered = sum(count for _, count in canary.latency)
    if binomial_tail(slow, answered, 0.05) < _ALPHA:
        return verdict(Outcome.FAILED, f"{slow} of {answered} canary answers took longer than {limit_ms:.0f} ms")
    missing = _missing(judge, canary, stable, allowed, limit_ms)
    if elapsed_s >= bake_s and not missing:
        return verdict(Outcome.SUCCESSFUL, f"{_failures(canary, stable)}; latency within its limit")
    if elapsed_s >= max(bake_s, judge.max_wait_s):
        return verdict(Outcome.INCONCLUSIVE, missing)
    return None


def _latency_limit_ms(judge: Judge, stable: Arm) -> float:
    """Return what the canary's 95th percentile may be: no limit until stable has shown enough of its own."""
    p95 = stable.quantile_ms(0.95)
    if p95 is None or stable.requests < judge.min_requests:
        return inf
    return max(p95 * judge.max_p95_ratio, p95 + judge.max_p95_increase_s * 1000)


def _missing(judge: Judge, canary: Arm, stable: Arm, allowed: float, limit_ms: float) -> str:
    """Say what stands between this step and a success, or return an empty string."""
    if canary.requests < judge.min_requests:
        return f"the canary had {canary.requests} requests; the judge asks for {judge.min_requests}"
    if stable.requests < judge.min_requests:
        return f"stable had {stable.requests} requests to compare with; the judge asks for {judge.min_requests}"
    if canary.failure_share > allowed:
        return f"{_failures(canary, stable)}: over the limit, but too few to be sure"
    if (canary.quantile_ms(0.95) or 0.0) > limit_ms:
        return f"the canary's p95 is over {limit_ms:.0f} ms, but too few answers are to be sure"
    return ""


def _failures(canary: Arm, stable: Arm) -> str:
    return f"{canary.failures} of {canary.requests} canary requests failed, {stable.failures} of {stable.requests} on stable"


def _finite(value: float | None) -> float | None:
    return None if value is None or value == inf else value


def binomial_tail(k: int, n: int, p: float) -> float:
    """Return P(X ≥ k) for X ~ Binomial(n, p), summed in logarithms so that large n do not overflow.

    For k at the mean or below, where nobody asks for the exact value, return 0.5.
    """
    if k <= 0:
        return 1.0
    if p < 1.0 and k <= n * p:
        return _NOT_UNUSUAL
    if p <= 0.0:
        return 0.0
    if p >= 1.0 or k > n:
        return 1.0 if k <= n else 0.0
    total = 0.0
    for i in range(k, n + 1):
        term = exp(lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) + i * log(p) + (n - i) * log1p(-p))
        total += term
        # Beyond the mean the terms fall at least geometrically. The sum runs on the triggerer's loop: it must be short.
        if i > n * p and term < 1e-12 * total:
            break
    return min(1.0, total)
