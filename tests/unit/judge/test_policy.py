from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.core.spec_judge import Judge
from operators.judge.evidence import Arm, Evidence, Judgement, Losses, Moments, Outcome, Pairs, Period, Point
from operators.judge.policy import judge

JUDGE = Judge()
FAILURES_ONLY = Judge(slow=None)


def period(
    canary: int, canary_bad: int | None, stable: int, stable_bad: int | None, weight: float = 0.1, slow: int | None = 0
) -> Period:
    return Period(
        weight=weight,
        canary=Arm(requests=canary, failed=canary_bad, slow=slow),
        stable=Arm(requests=stable, failed=stable_bad, slow=slow),
    )


def verdict(
    *periods: Period, policy: Judge = JUDGE, elapsed_s: float = 600, bake_s: float = 60, **more: float
) -> Judgement:
    return judge(policy, Evidence(periods=periods), elapsed_s=elapsed_s, bake_s=bake_s, **more)  # type: ignore[arg-type]


def test_good_canary_succeeds_after_the_bake_and_not_before() -> None:
    good = period(1000, 2, 9000, 20)
    assert verdict(good, elapsed_s=59).outcome is Outcome.CONTINUE
    said = verdict(good)
    assert said.outcome is Outcome.SUCCESSFUL
    assert said.guards["failures"].interval == (-0.00327108, 0.00667458)


def test_canary_that_fails_everything_is_caught_within_five_requests() -> None:
    policy = Judge(alpha=0.001)
    said = verdict(period(5, 5, 45, 0), policy=policy, elapsed_s=1)
    assert said.outcome is Outcome.FAILED
    assert said.guards["failures"].threshold == 2000
    assert said.guards["failures"].e > 2000 > said.guards["slow"].e


def test_failures_that_stable_has_too_are_not_the_canarys() -> None:
    said = verdict(period(1000, 100, 9000, 900))
    assert said.outcome is Outcome.CONTINUE
    assert said.guards["failures"].e < 1


def test_silence_of_few_units_is_not_success() -> None:
    said = verdict(period(100, 0, 900, 0))
    assert said.outcome is Outcome.CONTINUE
    assert said.guards["failures"].interval is not None
    assert said.guards["failures"].interval[1] == pytest.approx(0.0385, abs=5e-5)
    assert verdict(period(100, 0, 900, 0), elapsed_s=1801).outcome is Outcome.INCONCLUSIVE


def test_the_margin_grows_with_the_share_of_callers_that_the_next_step_harms() -> None:
    few = period(200, 0, 1800, 0)
    assert verdict(few).outcome is Outcome.CONTINUE
    said = verdict(few, harm_weight=0.25)
    assert said.outcome is Outcome.SUCCESSFUL
    assert said.guards["failures"].margin == 0.04
    with pytest.raises(ValueError, match="harm_weight is 0"):
        verdict(few, harm_weight=0)


@pytest.mark.parametrize("which", ["canary", "stable", "both"])
def test_what_is_not_known_is_never_a_success(which: str) -> None:
    known = period(2000, 2, 18000, 20)
    arms = {
        name: getattr(known, name).model_copy(update={"slow": None})
        for name in ("canary", "stable")
        if which in (name, "both")
    }
    said = judge(JUDGE, Evidence(periods=(known.model_copy(update=arms),)), elapsed_s=1e9)
    assert said.outcome is Outcome.INCONCLUSIVE
    assert "slow answers of " in said.guards["slow"].missing
    assert said.guards["failures"].refuted


def test_no_evidence_continues_until_the_time_has_run_out() -> None:
    assert verdict().outcome is Outcome.CONTINUE
    late = verdict(elapsed_s=1801)
    assert late.outcome is Outcome.INCONCLUSIVE
    assert all(guard.missing and guard.interval is None for guard in late.guards.values())


def test_a_split_that_was_not_asked_for_is_inconclusive_unless_it_fails() -> None:
    said = verdict(period(900, 0, 100, 0))
    assert said.outcome is Outcome.INCONCLUSIVE
    assert verdict(period(900, 300, 100, 0)).outcome is Outcome.FAILED


def test_a_canary_that_has_not_answered_yet_was_given_its_units() -> None:
    stable, waiting = Arm(requests=116, failed=0, slow=0), Arm(requests=0, failed=0, slow=0, unanswered=116)
    said = verdict(Period(weight=0.5, stable=stable, canary=waiting))
    assert said.outcome is Outcome.CONTINUE
    few = waiting.model_copy(update={"unanswered": 40})
    assert verdict(Period(weight=0.5, stable=stable, canary=few)).outcome is Outcome.INCONCLUSIVE
    assert verdict(Period(weight=0.5, stable=few, canary=stable)).outcome is Outcome.INCONCLUSIVE
    assert verdict(Period(weight=0.5, stable=waiting, canary=stable)).outcome is Outcome.CONTINUE


def test_evidence_of_all_periods_counts_together() -> None:
    first, second = period(500, 9, 9500, 40, 0.05), period(600, 12, 1400, 7, 0.3)
    alone = max(verdict(p, policy=FAILURES_ONLY).guards["failures"].e for p in (first, second))
    assert verdict(first, second, policy=FAILURES_ONLY).guards["failures"].e > alone


def test_what_was_proven_stands_when_the_newest_counts_are_missing() -> None:
    said = verdict(period(500, 60, 9500, 40, 0.05), period(600, None, 1400, 7, 0.3))
    assert said.outcome is Outcome.FAILED
    assert said.guards["failures"].e > said.guards["failures"].threshold
    assert said.guards["failures"].missing


def test_importing_the_judge_is_cheap() -> None:
    code = "import sys, operators.judge.policy; print(*(m for m in ('numpy','scipy','pandas','airflow','ray') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


counts = st.integers(0, 3000)


@st.composite
def periods(draw: st.DrawFn) -> Period:
    arms = []
    for _ in range(2):
        n = draw(counts)
        k, slow = draw(st.integers(0, n)), draw(st.none() | st.integers(0, n))
        arms.append(
            Arm(requests=n, failed=draw(st.sampled_from([k, None])), failed_first=draw(st.integers(0, k)), slow=slow)
        )
    return Period(weight=draw(st.floats(0.001, 0.999)), canary=arms[0], stable=arms[1])


@given(st.lists(periods(), max_size=4), st.floats(0, 1e4), st.floats(0.01, 1))
def test_any_evidence_gets_a_judgement_that_survives_json_and_repeats(
    rows: list[Period], elapsed_s: float, harm: float
) -> None:
    evidence = Evidence(periods=tuple(rows))
    text = evidence.model_dump_json()
    first = judge(JUDGE, evidence, elapsed_s=elapsed_s, bake_s=60, harm_weight=harm)
    again = judge(JUDGE, Evidence.model_validate_json(text), elapsed_s=elapsed_s, bake_s=60, harm_weight=harm)
    assert first.model_dump_json() == again.model_dump_json()
    assert Judgement.model_validate_json(first.model_dump_json()) == first
    for reading in first.guards.values():
        assert math.isfinite(reading.e)
        assert reading.refuted == (not reading.missing)
        assert reading.interval is None or -1 <= reading.interval[0] <= reading.interval[1] <= 1
    if first.outcome is Outcome.SUCCESSFUL:
        assert all(reading.refuted and not reading.missing for reading in first.guards.values())


@given(st.lists(periods(), min_size=2, max_size=5), st.randoms())
def test_the_order_of_earlier_periods_does_not_matter(rows: list[Period], random: object) -> None:
    *earlier, newest = rows
    turned = [*reversed(earlier), newest]
    assert verdict(*rows) == verdict(*turned)


@given(periods(), st.integers(1, 50))
def test_more_failures_of_the_canary_never_speak_for_it(base: Period, more: int) -> None:
    canary = base.canary.model_copy(update={"requests": base.canary.requests + 50, "failed": 10, "failed_first": None})
    worse = canary.model_copy(update={"failed": 10 + more % 40})
    stable = base.stable.model_copy(update={"failed": 0, "failed_first": None})
    one, two = (
        judge(
            FAILURES_ONLY, Evidence(periods=(Period(weight=base.weight, canary=c, stable=stable),)), elapsed_s=0
        ).guards["failures"]
        for c in (canary, worse)
    )
    assert two.e >= one.e * (1 - 1e-5)
    assert one.interval
    assert two.interval
    assert two.interval[1] >= one.interval[1] - 1e-4


# labels, loss, prediction, business, series


def test_labels_fail_on_pairs_and_succeed_on_enough_of_them() -> None:
    policy = Judge.model_validate({"failures": None, "slow": None, "labels": {"within": "1d", "block": "none"}})

    def said(total: int, stable_only: int, canary_only: int) -> Judgement:
        units = period(1000, 0, 9000, 0)
        pairs = Pairs(total=total, stable_only_wrong=stable_only, canary_only_wrong=canary_only)
        return judge(policy, Evidence(periods=(units,), pairs=pairs), elapsed_s=60)

    assert said(1500, 20, 60).outcome is Outcome.FAILED
    assert said(20000, 500, 500).outcome is Outcome.SUCCESSFUL
    few = said(150, 0, 0)
    assert few.outcome is Outcome.CONTINUE
    assert few.guards["labels"].missing
    assert said(0, 20, 60).outcome is Outcome.FAILED  # the number of all pairs was left out


def test_prediction_shift_fails_beyond_the_margin_and_succeeds_inside() -> None:
    policy = Judge.model_validate({"failures": None, "slow": None, "prediction": {"margin": 0.05}})

    def said(canary_mean: float, n: int = 2000) -> Judgement:
        arms = [
            Arm(requests=k, prediction=Moments(count=k, mean=mean, m2=0.04 * k))
            for k, mean in ((n, canary_mean), (9 * n, 0.3))
        ]
        return judge(policy, Evidence(periods=(Period(weight=0.1, canary=arms[0], stable=arms[1]),)), elapsed_s=60)

    assert said(0.4).outcome is Outcome.FAILED
    assert said(0.2).outcome is Outcome.FAILED
    assert said(0.32).outcome is Outcome.SUCCESSFUL
    assert said(0.35).outcome is Outcome.CONTINUE
    for unusable in (said(0.4, 99), said(math.nan)):
        assert unusable.outcome is Outcome.CONTINUE
        assert unusable.guards["prediction"].interval is None


def test_business_metric_that_gets_worse_fails() -> None:
    rule = {"better": "higher", "margin": 2.0, "lowest": 0.0, "highest": 100.0, "within": "1d"}
    policy = Judge.model_validate({"failures": None, "slow": None, "business": {"revenue": rule}})

    def said(canary_mean: float, n: int = 4000) -> Judgement:
        arms = [
            Arm(requests=k, business={"revenue": Moments(count=k, mean=mean, m2=100.0 * k)})
            for k, mean in ((n, canary_mean), (4 * n, 20.0))
        ]
        return judge(policy, Evidence(periods=(Period(weight=0.2, canary=arms[0], stable=arms[1]),)), elapsed_s=60)

    assert said(16.0).outcome is Outcome.FAILED
    assert said(20.0).outcome is Outcome.SUCCESSFUL
    assert said(24.0).outcome is Outcome.SUCCESSFUL
    assert "is not between 0 and 100" in said(120.0).reason


def test_losses_by_pair() -> None:
    policy = Judge.model_validate(
        {
            "failures": None,
            "slow": None,
            "loss": {"margin": 1.0, "largest": 20.0, "within": "1d", "block": "none"},
        }
    )

    def said(*differences: float) -> Judgement:
        units = period(1000, 0, 9000, 0)
        clipped = [max(-20.0, min(x, 20.0)) for x in differences]
        sums = Losses(count=len(clipped), total=math.fsum(clipped), squares=math.fsum(x * x for x in clipped))
        return judge(policy, Evidence(periods=(units,), losses=sums), elapsed_s=60)

    noise = [1.0, -1.0, 0.5, -0.5] * 200
    assert said(*noise).outcome is Outcome.SUCCESSFUL
    assert said(*(x + 0.5 for x in noise)).outcome is Outcome.FAILED
    assert said(*(x * 1e9 for x in noise)).outcome is Outcome.CONTINUE  # each counts as `largest` at most
    endless = Evidence(losses=Losses(count=300, total=math.inf))
    assert "not a finite number" in judge(policy, endless, elapsed_s=60).reason


def test_series_without_a_newest_value_is_no_success() -> None:
    policy = Judge.model_validate({"failures": None, "slow": None, "series": {"cpu": {"query": "up"}}})
    points = [Point(t=t, stable=10.0 + t % 3, canary=10.0 + (t + 1) % 3) for t in range(90)]

    def said(*points: Point) -> Judgement:
        return judge(policy, Evidence(periods=(period(1000, 0, 9000, 0),), series={"cpu": points}), elapsed_s=60)

    assert said(*points).outcome is Outcome.SUCCESSFUL
    for missing in (None, math.nan):
        stale = said(*points, Point(t=100, stable=10.0, canary=missing))
        assert stale.outcome is Outcome.CONTINUE
        assert "newest point" in stale.reason
    assert "no points" in said().reason
