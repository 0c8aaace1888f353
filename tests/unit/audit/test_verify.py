"""A verdict is made again from its row alone, and one that was changed does not hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from operators.audit.verify import again, difference
from operators.core.spec_judge import Judge
from operators.judge.digest import judge_digest
from operators.judge.evidence import Arm, Evidence, Judgement, Outcome, Period
from operators.judge.policy import judge


def record(failed: int = 0, *, requests: int = 400, **changes: Any) -> dict[str, Any]:
    policy = Judge()
    arm = Arm(requests=requests, failed=0, slow=0)
    seen = Evidence(
        periods=(Period(weight=0.5, stable=arm, canary=arm.model_copy(update={"failed": failed})),),
    )
    asked = {"elapsed_s": 60.25, "bake_s": 30.0, "min_requests": 100, "harm_weight": 0.5}
    found = judge(policy, seen, **asked)
    made = {
        "step": "canary",
        "policy": policy.model_dump(mode="json", by_alias=True),
        "evidence": seen.model_dump(mode="json"),
        **asked,
        "judgement": found.model_dump(mode="json"),
        "judge": judge_digest(),
        "blind": False,
    }
    return json.loads(json.dumps(made)) | changes  # as it comes back from the ledger


@pytest.mark.parametrize("failed", [0, 3, 40])
def test_what_was_recorded_is_found_again(failed: int) -> None:
    made = record(failed)
    assert difference(made) == ""
    assert isinstance(again(made), Judgement)


def test_the_records_are_of_different_outcomes() -> None:
    assert again(record(40)).outcome is Outcome.FAILED
    assert again(record(0, requests=5000)).outcome is Outcome.SUCCESSFUL


def test_a_verdict_that_was_turned_does_not_hold() -> None:
    made = record(40)
    made["judgement"] = record(0, requests=5000)["judgement"]
    assert "it says Successful; its evidence gives Failed" in difference(made)


def test_numbers_that_were_changed_do_not_hold() -> None:
    made = record(3)
    made["judgement"]["guards"]["failures"]["e"] *= 1.001
    assert "its numbers are not what the evidence gives" in difference(made)


def test_a_blind_verdict_may_only_be_inconclusive() -> None:
    made = record(blind=True)
    made["judgement"]["outcome"] = "Inconclusive"
    assert difference(made) == ""
    made["judgement"]["outcome"] = "Successful"
    assert "nothing could be seen" in difference(made)


@pytest.mark.parametrize("missing", ["policy", "evidence", "elapsed_s"])
def test_a_record_that_lacks_something_is_said_to(missing: str) -> None:
    made = record()
    del made[missing]
    with pytest.raises(ValueError, match=f"cannot be read: KeyError: '{missing}'"):
        difference(made)
