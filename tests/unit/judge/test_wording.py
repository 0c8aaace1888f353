"""The sentences of verdicts, as people read them in the console, in a plan and in errors. Other tests ask for numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from operators.core.spec_judge import Judge
from operators.judge.evidence import Arm, Evidence, Losses, LossSums, Moments, PairCounts, Pairs, Period, Point
from operators.judge.policy import judge

ALONE: dict[str, Any] = {"failures": None, "slow": None}
BUSINESS = {"better": "higher", "margin": 2.0, "lowest": 0.0, "highest": 100.0, "within": "1d"}


def period(new: tuple[int, int | None], old: tuple[int, int | None], weight: float = 0.1, **more: Any) -> Period:
    arms = {
        name: Arm(requests=requests, failed=failed, slow=0, **more.get(name, {}))
        for name, (requests, failed) in (("canary", new), ("stable", old))
    }
    return Period(weight=weight, **arms)


GOOD = period((1000, 2), (9000, 20))


def reason(*periods: Period, elapsed_s: float = 60, bake_s: float = 60, policy: Any = None, **evidence: Any) -> str:
    made = Judge.model_validate({"slow": None} if policy is None else policy)
    return judge(made, Evidence(periods=periods, **evidence), elapsed_s=elapsed_s, bake_s=bake_s).reason


def test_a_success_says_what_was_proven() -> None:
    assert reason(GOOD) == (
        "failures: 2 of 1,000 canary units failed, and 20 of 9,000 stable units; "
        "the canary is worse by at most 0.667 points, and the margin is 1 point"
    )


def test_a_failure_says_on_which_version_the_bad_events_fell() -> None:
    assert reason(period((5, 5), (45, 0))) == (
        "failures: 5 of 5 canary units failed, and 0 of 45 stable units; in the whole release this happened to "
        "5 canary units and 0 stable units: at least 8.0 times as often on the canary (e-value 1.073e+04, fails at 100)"
    )
    assert reason(period((500, 60), (9500, 40), 0.05), period((600, None), (1400, 7), 0.3)).startswith(
        "failures: in the whole release this happened to 60 canary units and 40 stable units: at least "
    )


def test_what_is_missing_is_said() -> None:
    assert reason() == "failures: no request has been observed yet"
    assert reason(period((50, 0), (450, 0))) == (
        "the canary had 50 units; 100 are needed; failures: 0 of 50 canary units failed, and 0 of 450 stable units; "
        "the canary may still be worse by up to 7.69 points, and the margin is 1 point"
    )
    assert reason(GOOD, elapsed_s=20) == "every guard has passed; the step has lasted 20 s of its 60 s"
    assert reason(elapsed_s=1801).startswith("too little evidence after 1801 s: ")
    unknown, odd = period((1000, None), (9000, 20)), period((1000, 2), (9000, 9001))
    assert reason(unknown) == "failures: the failures of the canary are not known"
    assert reason(odd) == (
        "failures: the counts of stable are contradictory: 9,001 units with failures, but only 9,000 units"
    )


def test_a_wrong_split_is_said() -> None:
    assert reason(period((900, 0), (100, 0))) == (
        "the traffic is not split as asked: the canary got 900 of 1,000 units, 90.00% at a weight of 10.00%, "
        "so the versions cannot be compared"
    )


def test_labels() -> None:
    policy = {**ALONE, "labels": {"within": "1d", "block": "none"}}
    assert reason(GOOD, policy=policy) == "labels: no labels have arrived"
    few = Pairs(total=150, stable_only_wrong=3, canary_only_wrong=4, open=2, answered=152)
    assert reason(GOOD, policy=policy, pairs=few) == (
        "labels: of 150 labelled pairs, only the canary was wrong in 4, only stable in 3; 2 pairs with different answers have no "
        "label yet; at least 200 labelled pairs are needed"
    )
    day = PairCounts(total=20_000, stable_only_wrong=600, canary_only_wrong=600, answered=20_000)
    two = Pairs(total=40_000, stable_only_wrong=1200, canary_only_wrong=1200, answered=40_000, blocks=(day, day))
    assert reason(GOOD, policy={**ALONE, "labels": {"within": "1d"}}, pairs=two) == (
        "labels: of 40,000 labelled pairs, only the canary was wrong in 1,200, only stable in 1,200; 2 blocks of 24 h; "
        "at least 5 blocks of 24 h are needed"
    )


def test_losses() -> None:
    policy = {**ALONE, "loss": {"margin": 1.0, "largest": 20.0, "within": "1d", "block": "none"}}
    some = Losses(count=800, total=240.0, squares=500.0)
    assert reason(GOOD, policy=policy, losses=some).startswith(
        "loss: the canary's mean error minus stable's is 0.3 over 800 labelled pairs"
    )
    assert (
        reason(GOOD, policy=policy, losses=Losses(count=300, total=math.inf)) == "loss: an error is not a finite number"
    )
    by_day = Losses(count=400, total=9.0, squares=100.0, blocks=(LossSums(count=400, total=9.0, squares=100.0),))
    blocks = {**ALONE, "loss": {"margin": 1.0, "largest": 20.0, "within": "1d"}}
    assert "; 1 block of 24 h; at least 5 blocks of 24 h are needed" in reason(GOOD, policy=blocks, losses=by_day)


def test_predictions_and_business_numbers() -> None:
    def arms(n: int, canary: float, stable: float, name: str) -> Period:
        given = {
            arm: {"prediction": numbers} if name == "prediction" else {"business": {name: numbers}}
            for arm, numbers in (
                ("canary", Moments(count=n, mean=canary, m2=0.04 * n)),
                ("stable", Moments(count=9 * n, mean=stable, m2=0.36 * n)),
            )
        }
        return period((n, 0), (9 * n, 0), **given)

    policy = {**ALONE, "prediction": {"margin": 0.05}}
    assert reason(arms(2000, 0.32, 0.3, "prediction"), policy=policy) == (
        "prediction: the canary's mean prediction minus stable's lies between 0.005527 and 0.03447 (2,000 predictions of the "
        "canary, 18,000 of stable); the canary differs from stable by at most 0.0345, and the margin is 0.05"
    )
    assert reason(arms(2000, 0.35, 0.3, "prediction"), policy=policy).endswith(
        "the canary may still differ from stable by up to 0.0645, and the margin is 0.05"
    )
    assert reason(arms(99, 0.4, 0.3, "prediction"), policy=policy).endswith(
        "prediction: one version has given only 99 predictions; 100 are needed from each"
    )
    assert reason(arms(2000, math.nan, 0.3, "prediction"), policy=policy) == (
        "prediction: the mean of the predictions is not a finite number"
    )
    business = {**ALONE, "business": {"revenue": BUSINESS}}
    assert reason(GOOD, policy=business) == "revenue: one of the versions has no values yet"
    assert "(4,000 values of the canary, 36,000 of stable)" in reason(
        arms(4000, 20.0, 20.0, "revenue"), policy=business
    )
    assert reason(arms(4000, 20.0, 20.0, "revenue"), policy=business).startswith(
        "revenue: the canary's mean is lower than stable's by between "
    )
    assert reason(arms(4000, 120.0, 20.0, "revenue"), policy=business) == (
        "revenue: the mean of the values, 120, is not between 0 and 100"
    )


@pytest.mark.parametrize(("better", "verb"), [("lower", "was worse than stable"), ("equal", "differed from stable")])
def test_series(better: str, verb: str) -> None:
    policy = {**ALONE, "series": {"cpu": {"query": "up", "better": better}}}
    assert reason(GOOD, policy=policy).endswith("; the series has no points")
    points = [Point(t=t, stable=10.0, canary=10.0 + 2 * (t % 2)) for t in range(5)]
    assert reason(GOOD, policy=policy, series={"cpu": points}) == (
        f"cpu: the canary {verb} by more than 10 % at 2 of 4 moments; "
        "5 moments do not yet prove that the canary keeps the margin"
    )
    calm = [Point(t=t, stable=10.0 + t % 3, canary=10.0 + t % 3) for t in range(90)]
    margin = "is worse" if better == "lower" else "differs from stable"
    assert reason(GOOD, policy=policy, series={"cpu": calm}).endswith(
        f"at 0 of 89 moments; the canary {margin} by at most 0 %, and the margin is 10 %"
    )
    stale = [*points, Point(t=9, stable=10.0, canary=None)]
    assert reason(GOOD, policy=policy, series={"cpu": stale}).endswith("; the newest point of the series lacks a value")
