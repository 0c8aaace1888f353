"""Labels that come while a step is running: the step is not held to them, and may fail by them."""

from __future__ import annotations

from typing import Any

import pytest

from operators.audit.verify import difference
from operators.core.spec_judge import Judge
from operators.core.spec_release import Release
from operators.judge.evidence import Arm, Evidence, Outcome, Pairs, Period
from operators.judge.phases import Watched
from operators.judge.policy import judge

JUDGE = Judge.model_validate({"labels": {"within": "1d"}, "business": {}, "max_wait": "1h"})
GOOD = Period(weight=0.5, canary=Arm(requests=5000, failed=5, slow=50), stable=Arm(requests=5000, failed=5, slow=50))
BAD = Pairs(total=2000, stable_only_wrong=20, canary_only_wrong=300, answered=2000)


def watched(**changes: Any) -> Watched:
    return Watched.model_validate(
        {
            "model": "m", "release_id": "r", "step": "canary_50", "kind": "canary", "canary": "2", "stable": "1",
            "weights_bp": (5000,), "pool_bp": 10_000, "bake_s": 10.0, "min_requests": 1, "harm_weight": 1.0,
            "lease_s": 60.0, "released_at": 0.0, "began_at": 0.0, "before": {"since": "1"}, "alpha_share": 0.5, **changes,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    "pairs", [None, Pairs(), Pairs(total=2000, stable_only_wrong=60, canary_only_wrong=60, answered=2000)]
)
def test_a_step_does_not_wait_for_labels(pairs: Pairs | None) -> None:
    said = watched().judge(JUDGE, Evidence(periods=(GOOD,), pairs=pairs), now=20)
    assert said.outcome is Outcome.SUCCESSFUL
    assert set(said.guards) == {"failures", "slow"}
    assert watched(late=True).judge(JUDGE, Evidence(periods=(GOOD,), pairs=pairs), now=20).outcome is Outcome.CONTINUE


@pytest.mark.parametrize("kind", ["canary", "shadow"])
def test_labels_that_have_come_fail_it_and_the_record_can_be_judged_again(kind: str) -> None:
    step, evidence = watched(kind=kind), Evidence(periods=(GOOD,), pairs=BAD)
    said = step.judge(JUDGE, evidence, now=20)
    assert said.outcome is Outcome.FAILED
    assert said.reason.startswith("labels: of 2,000 labelled pairs only the canary was wrong in 300")
    policy = step.policy(JUDGE, said)
    record = {
        "policy": policy.model_dump(mode="json", by_alias=True),
        "evidence": evidence.model_dump(mode="json"),
        "judgement": said.model_dump(mode="json"),
        "elapsed_s": 20.0, "bake_s": 10.0, "min_requests": 1, "harm_weight": 1.0,
    }  # fmt: skip
    assert difference(record) == ""
    assert difference({**record, "evidence": Evidence(periods=(GOOD,), pairs=Pairs()).model_dump(mode="json")})


def test_what_a_step_is_held_to_fails_first() -> None:
    failing = GOOD.model_copy(update={"canary": Arm(requests=5000, failed=500, slow=50)})
    said = watched().judge(JUDGE, Evidence(periods=(failing,), pairs=BAD), now=20)
    assert said.reason.startswith("failures")
    assert watched().policy(JUDGE, said).guards == ("failures", "slow")


def test_the_threshold_is_the_same_in_all_steps_so_labels_spend_alpha_once() -> None:
    evidence = Evidence(periods=(GOOD,), pairs=BAD)
    thresholds = {
        judge(policy, evidence, elapsed_s=1).guards["labels"].threshold
        for late in (True, False)
        for policy in watched(late=late).policies(JUDGE)
        if "labels" in policy.guards
    }
    assert thresholds == {3 / 0.01 / 0.5}
    parts = JUDGE.parts(late=False)
    assert sum(part.alpha for part in parts) == pytest.approx(JUDGE.alpha)
    assert JUDGE.parts(late=True) == (JUDGE,)
    assert Judge().parts(late=False) == (Judge(),)


def test_steps_need_a_guard_that_does_not_wait() -> None:
    spec: dict[str, Any] = {"steps": [{"weight_pct": 5, "bake": "1m"}], "shadow": {"sample_pct": 5, "bake": "1m"}}
    spec["judge"] = {"failures": None, "slow": None, "labels": {"within": "1d"}}
    with pytest.raises(ValueError, match="the steps cannot wait for labels or business numbers; add a guard"):
        Release.model_validate(spec)
