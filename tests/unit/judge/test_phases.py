"""Labels that come while a step is running: the step is not held to them, and may fail by them."""

from __future__ import annotations

from typing import Any

import pytest

from operators.audit.verify import difference
from operators.core.rows import VerdictRow
from operators.core.spec_judge import Judge
from operators.core.spec_release import Release
from operators.judge.evidence import Arm, Evidence, Judgement, Outcome, Pairs, Period
from operators.judge.phases import Phase, phases_of
from operators.judge.policy import judge
from tests.support.phases import live_phase

JUDGE = Judge.model_validate({"labels": {"within": "1d"}, "business": {}, "max_wait": "1h"})
GOOD = Period(weight=0.5, canary=Arm(requests=5000, failed=5, slow=50), stable=Arm(requests=5000, failed=5, slow=50))
BAD = Pairs(total=2000, stable_only_wrong=20, canary_only_wrong=300, answered=2000)


def step(**changes: Any) -> Phase:
    return live_phase(alpha_share=0.5, **changes).phase


def judged(phase: Phase, evidence: Evidence) -> Judgement:
    return phase.judge(phase.policies(JUDGE), evidence, elapsed_s=20)


@pytest.mark.parametrize(
    "pairs", [None, Pairs(), Pairs(total=2000, stable_only_wrong=60, canary_only_wrong=60, answered=2000)]
)
def test_a_step_does_not_wait_for_labels(pairs: Pairs | None) -> None:
    evidence = Evidence(periods=(GOOD,), pairs=pairs)
    judgement = judged(step(), evidence)
    assert (judgement.outcome, judgement.part) == (Outcome.SUCCESSFUL, "required")
    assert set(judgement.guards) == {"failures", "slow"}
    assert judged(step(late=True), evidence).outcome is Outcome.CONTINUE


@pytest.mark.parametrize("kind", ["canary", "shadow"])
def test_labels_that_have_come_fail_it_and_the_record_can_be_judged_again(kind: str) -> None:
    live, evidence = live_phase(kind=kind, alpha_share=0.5), Evidence(periods=(GOOD,), pairs=BAD)
    judgement = judged(live.phase, evidence)
    assert (judgement.outcome, judgement.part) == (Outcome.FAILED, "veto")
    policy = live.policy(JUDGE, judgement)
    assert policy.guards == ("labels",)
    record = VerdictRow(
        step=live.step,
        policy=policy.model_dump(mode="json", by_alias=True),
        evidence=evidence.model_dump(mode="json"),
        judgement=judgement.model_dump(mode="json"),
        elapsed_s=20.0,
        bake_s=10.0,
        min_requests=1,
    )
    assert difference(record) == ""
    other = Evidence(periods=(GOOD,), pairs=Pairs()).model_dump(mode="json")
    assert difference(record.model_copy(update={"evidence": other}))


def test_what_a_step_is_held_to_fails_first() -> None:
    failing = GOOD.model_copy(update={"canary": Arm(requests=5000, failed=500, slow=50)})
    judgement = judged(step(), Evidence(periods=(failing,), pairs=BAD))
    assert (judgement.outcome, judgement.part) == (Outcome.FAILED, "required")
    assert live_phase().policy(JUDGE, judgement).guards == ("failures", "slow")


def test_the_threshold_is_the_same_in_all_steps_so_labels_spend_alpha_once() -> None:
    evidence = Evidence(periods=(GOOD,), pairs=BAD)
    thresholds = {
        judge(policy, evidence, elapsed_s=1).guards["labels"].threshold
        for late in (True, False)
        for policy in step(late=late).policies(JUDGE)
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


def test_the_phases_of_a_release() -> None:
    spec = {
        "steps": [{"weight_pct": 5, "bake": "1m"}, {"weight_pct": 50, "bake": "2h", "min_requests": 7}],
        "shadow": {"sample_pct": 25, "bake": "5m"},
        "watch": "1h",
        "holdout_pct": 10.0,
    }
    shadow, first, last, watch = phases_of(Release.model_validate(spec))
    assert [phase.name for phase in (shadow, first, last, watch)] == ["shadow", "5 %", "50 %", "watch"]
    assert (first.weights_bp, last.weights_bp) == ((500,), (500, 5000))
    assert [phase.harm_weight for phase in (shadow, first, last, watch)] == [0.05, 0.5, 1.0, 1.0]
    assert [phase.max_wait_s for phase in (shadow, first, last, watch)] == [1800, 1800, 7200, 3600]
    assert [phase.min_requests for phase in (shadow, first, last, watch)] == [100, 100, 7, 1]
    assert [phase.weight for phase in (shadow, last, watch)] == pytest.approx([0.2, 5 / 9, 0.99])
    for phase in (shadow, first, last, watch):
        assert phase.weight == pytest.approx(phase.canary_share / (phase.canary_share + phase.stable_share))
        assert phase.alpha_share == pytest.approx(1 / 3)
    assert [phase.exposed_share for phase in (shadow, last, watch)] == [0.0, 0.5, 0.99]


def test_evidence_belongs_to_a_kind_of_phase() -> None:
    named = GOOD.model_copy(update={"weight_bp": 5000})
    assert Evidence(periods=(named,)).of("canary") == (named,)
    assert Evidence(periods=(named,)).of("watch") == Evidence().of("canary") == ()
    assert Evidence(periods=(GOOD,)).of("canary") == ()  # of an older version: nobody knows of which phase it is
