from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.core.spec import Judge
from operators.rollout.policy import Arm, Outcome, binomial_tail, judge_step

JUDGE = Judge.model_validate(
    {"min_requests": 30, "max_wait": "60s", "max_failure_pct": 1.0, "max_p95_ratio": 2.0, "max_p95_increase": "20ms"}
)
FAST, SLOW = ((8.0, 0), (16.0, 1), (64.0, 0), (math.inf, 0)), ((8.0, 0), (16.0, 0), (64.0, 0), (math.inf, 1))


def arm(requests: int, failures: int = 0, latency: tuple[tuple[float, int], ...] = FAST) -> Arm:
    return Arm(requests=requests, failures=failures, latency=tuple((b, n * requests) for b, n in latency))


def outcome(canary: Arm, stable: Arm, *, elapsed_s: float = 10, bake_s: float = 10) -> Outcome | None:
    verdict = judge_step(JUDGE, bake_s=bake_s, elapsed_s=elapsed_s, canary=canary, stable=stable)
    return verdict.outcome if verdict else None


def test_good_canary_succeeds_after_the_bake_and_not_before() -> None:
    assert outcome(arm(100), arm(900), elapsed_s=9.9) is None
    assert outcome(arm(100), arm(900)) is Outcome.SUCCESSFUL


def test_failures_end_the_step_before_the_bake() -> None:
    assert outcome(arm(10, failures=5), arm(200), elapsed_s=1) is Outcome.FAILED


def test_failures_that_stable_has_too_are_not_the_canarys() -> None:
    assert outcome(arm(100, failures=10), arm(900, failures=90)) is Outcome.SUCCESSFUL


def test_one_failure_is_neither_failed_nor_successful() -> None:
    assert outcome(arm(40, failures=1), arm(900)) is None
    assert outcome(arm(40, failures=1), arm(900), elapsed_s=60) is Outcome.INCONCLUSIVE


def test_slow_canary_fails_early() -> None:
    assert outcome(arm(5, latency=SLOW), arm(200), elapsed_s=1) is Outcome.FAILED


def test_latency_is_not_judged_before_stable_has_shown_its_own() -> None:
    assert outcome(arm(40, latency=SLOW), arm(5), elapsed_s=1) is None


@given(st.integers(0, 29), st.integers(0, 2000), st.floats(0, 59))
def test_missing_evidence_is_never_successful(requests: int, stable: int, elapsed_s: float) -> None:
    assert outcome(arm(requests), arm(stable), elapsed_s=elapsed_s) is not Outcome.SUCCESSFUL
    assert outcome(arm(requests), arm(stable), elapsed_s=60) is Outcome.INCONCLUSIVE


@given(st.integers(30, 500), st.integers(0, 29))
def test_no_stable_traffic_is_inconclusive(requests: int, stable: int) -> None:
    assert outcome(arm(requests), arm(stable), elapsed_s=60) is Outcome.INCONCLUSIVE


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300))
def test_more_failures_never_help(requests: int, failures: int, more: int) -> None:
    rank = {Outcome.SUCCESSFUL: 0, None: 1, Outcome.INCONCLUSIVE: 1, Outcome.FAILED: 2}
    fewer = outcome(arm(requests, min(failures, requests)), arm(900))
    worse = outcome(arm(requests, min(failures + more, requests)), arm(900))
    assert rank[worse] >= rank[fewer]


def test_counters_that_were_reset_are_taken_whole() -> None:
    assert arm(5).since(arm(100)) == arm(5)
    assert arm(12, 5).since(arm(10, 0, SLOW)) == arm(12, 5)  # fewer slow answers than before: a restart
    assert arm(105, 3).since(arm(100, 1)) == Arm(requests=5, failures=2, latency=arm(5).latency)


def test_reading_travels_as_json_with_its_infinity() -> None:
    assert Arm.model_validate_json(arm(7).model_dump_json()) == arm(7)


@pytest.mark.parametrize(
    ("k", "n", "p"),
    [(2, 10, 0.1), (3, 30, 0.01), (90, 1000, 0.05), (6, 5, 0.5), (2, 2, 1.0), (1, 5, 0.0), (60_000, 1_000_000, 0.05)],
)
def test_binomial_tail_against_scipy(k: int, n: int, p: float) -> None:
    from scipy.stats import binom

    assert binomial_tail(k, n, p) == pytest.approx(float(binom.sf(k - 1, n, p)), rel=1e-6, abs=1e-300)


@given(st.integers(0, 10_000_000), st.floats(0.001, 1))
def test_what_is_at_the_mean_or_below_is_not_unusual(n: int, p: float) -> None:
    assert binomial_tail(int(n * p), n, p) >= 0.5


def test_numbers_are_json() -> None:
    verdict = judge_step(JUDGE, bake_s=1, elapsed_s=99, canary=arm(0), stable=arm(0))
    assert verdict is not None
    assert "NaN" not in verdict.model_dump_json()
    assert verdict.numbers["canary_requests"] == 0
